//! Keys and tokens: `fhk_` (a tenant's API key), `fho_` (an operator's), `fhs_` (a session), … : 200 random bits and a checksum. The prefix lets a secret
//! scanner find a leaked key; the checksum lets us refuse a mistyped or invented one without asking a database.

use data_encoding::BASE32_DNSSEC;
use secrecy::SecretString;

use super::Entropy;
use super::secret::sha256;

/// SHA-256 of a key's text: what is stored and looked up. 200 random bits need no stretching.
pub type KeyHash = [u8; 32];

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Tenant,
    Operator,
    /// A browser's session, in a cookie.
    Session,
    /// From the sign-in host to a tenant's host, once.
    HandOff,
    /// For new access tokens.
    Refresh,
    /// A terminal that waits to be signed in.
    Device,
    /// A look into a tenant by the provider's staff.
    Support,
    /// An operator's browser at the sign-in host.
    OperatorSession,
}

impl KeyKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Tenant => "fhk_",
            Self::Operator => "fho_",
            Self::Session => "fhs_",
            Self::HandOff => "fhh_",
            Self::Refresh => "fhr_",
            Self::Device => "fhd_",
            Self::Support => "fhx_",
            Self::OperatorSession => "fhb_",
        }
    }
}

/// A key just made: its text is shown once, the rest is stored.
pub struct NewKey {
    pub key: SecretString,
    pub hash: KeyHash,
    /// The last four characters, to tell keys apart in a list. They are of the checksum: nothing of the secret.
    pub tail: String,
}

const SECRET: usize = 40;
const CHECKSUM: usize = 7;
const LENGTH: usize = 4 + SECRET + 1 + CHECKSUM;

/// A new key.
pub fn make(kind: KeyKind, entropy: &Entropy) -> NewKey {
    let body = format!("{}{}", kind.prefix(), entropy.base32::<25>());
    let text = format!("{body}_{}", checksum(body.as_bytes()));
    NewKey { hash: hash(&text), tail: text[LENGTH - 4..].to_owned(), key: SecretString::from(text) }
}

/// The hash to look a key up by, or `None` for what cannot be a key of this kind: wrong prefix, length, alphabet or
/// checksum. The work is the same wherever the text is wrong.
pub fn parse(kind: KeyKind, text: &str) -> Option<KeyHash> {
    let bytes = text.as_bytes();
    if bytes.len() != LENGTH {
        return None;
    }
    let (body, check) = bytes.split_at(4 + SECRET);
    let alphabet = body[4..].iter().fold(true, |ok, b| ok & matches!(b, b'0'..=b'9' | b'a'..=b'v'));
    let prefix = body[..4] == *kind.prefix().as_bytes();
    let sum = check[0] == b'_' && check[1..] == *checksum(body).as_bytes();
    (alphabet & prefix & sum).then(|| hash(text))
}

/// The hash of a key's text.
pub fn hash(text: &str) -> KeyHash {
    sha256(text.as_bytes())
}

fn checksum(body: &[u8]) -> String {
    BASE32_DNSSEC.encode(&crc32fast::hash(body).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_made_key_parses_as_its_kind_only() {
        let entropy = Entropy::default();
        for (kind, other) in [(KeyKind::Tenant, KeyKind::Operator), (KeyKind::Operator, KeyKind::Tenant)] {
            let new = make(kind, &entropy);
            let text = new.key.expose_secret();
            assert_eq!(text.len(), LENGTH);
            assert_eq!(parse(kind, text), Some(new.hash));
            assert_eq!(parse(other, text), None);
            assert!(text.ends_with(&new.tail));
        }
    }

    #[test]
    fn any_changed_character_is_refused_before_a_lookup() {
        let new = make(KeyKind::Tenant, &Entropy::default());
        let text = new.key.expose_secret();
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(parse(KeyKind::Tenant, std::str::from_utf8(&bytes).unwrap()), None, "position {at}");
        }
        let upper = text.to_uppercase();
        for bad in ["", "fhk_", &text[1..], &text[..text.len() - 1], &upper, "é"] {
            assert_eq!(parse(KeyKind::Tenant, bad), None);
        }
    }
}
