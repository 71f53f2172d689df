//! Secrets that have to be read again: encrypted and bound to what they are for and whose they are.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::secret::MasterKey;
use super::{Entropy, Error, Result};

/// What a sealed value is for. A value sealed for one use does not open for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nonce and PKCE verifier of a sign-in under way.
    SignIn,
    /// A tenant's secret at its own OpenID provider.
    ClientSecret,
    /// The private half of a signing key.
    SigningKey,
    /// A second factor's secret.
    Totp,
    /// An answer kept for a repeat of its request: it may show what is shown once.
    KeptAnswer,
}

impl Use {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::SignIn => b"sign-in",
            Self::ClientSecret => b"client-secret",
            Self::SigningKey => b"signing-key",
            Self::Totp => b"totp",
            Self::KeptAnswer => b"kept-answer",
        }
    }
}

impl MasterKey {
    /// Encrypts with AES-256-GCM under a key of this use. `whose` is bound to the value: moved to another row, it does
    /// not open. The nonce is random: fine for far more values than are ever sealed here.
    pub fn seal(&self, for_use: Use, whose: &[u8], entropy: &Entropy, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = entropy.bytes();
        let mut sealed = plain.to_vec();
        self.sealing_key(for_use)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(whose), &mut sealed)
            .expect("a value far shorter than AES-GCM's limit");
        [&nonce[..], &sealed].concat()
    }

    /// Decrypts what [`MasterKey::seal`] made.
    ///
    /// # Errors
    /// `internal` when it was made with another master key, for another use or owner, or was changed.
    pub fn open(&self, for_use: Use, whose: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let cannot = || Error::internal("a sealed value does not open: was the master key changed?");
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(cannot)?;
        let mut plain = sealed.to_vec();
        let length = self
            .sealing_key(for_use)
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(whose), &mut plain)
            .map_err(|_| cannot())?
            .len();
        plain.truncate(length);
        Ok(plain)
    }

    fn sealing_key(&self, for_use: Use) -> LessSafeKey {
        let key = self.derive(&[b"freehold/seal", for_use.label()]);
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_for_its_own_use_and_owner_only() {
        let (key, entropy) = (MasterKey::from_bytes([7; 32]), Entropy::default());
        let sealed = key.seal(Use::Totp, b"ada", &entropy, b"secret");
        assert_eq!(key.open(Use::Totp, b"ada", &sealed).unwrap(), b"secret");
        assert_ne!(sealed, key.seal(Use::Totp, b"ada", &entropy, b"secret"), "a nonce of its own each time");
        assert!(key.open(Use::SignIn, b"ada", &sealed).is_err());
        assert!(key.open(Use::Totp, b"bob", &sealed).is_err());
        assert!(MasterKey::from_bytes([8; 32]).open(Use::Totp, b"ada", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(Use::Totp, b"ada", &changed).is_err(), "byte {at}");
        }
        assert!(key.open(Use::Totp, b"ada", &sealed[..5]).is_err());
    }
}
