//! Secrets: where they are read from, and how passwords are derived instead of stored.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{digest, hkdf, hmac};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Error, Result, codes};

/// Where a secret lives: `env:NAME` or `file:/path`. The reference may be stored and shown; the secret may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    Env(String),
    File(String),
}

impl SecretRef {
    /// Reads the secret now; a trailing newline is not part of it.
    pub fn read(&self) -> Result<SecretString> {
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(Error::internal),
            Self::File(path) => std::fs::read_to_string(path).map_err(Error::internal),
        };
        match text {
            Ok(text) => Ok(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(Error::new(&codes::BAD_REQUEST)
                .detail(format!("the secret {self} cannot be read"))
                .hint("set the environment variable, or make the file readable for this user")
                .source(error)),
        }
    }
}

impl FromStr for SecretRef {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            _ => Err("a secret is given by reference: env:NAME or file:/path".to_owned()),
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SecretRef> for String {
    fn from(secret: SecretRef) -> Self {
        secret.to_string()
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

/// The 256-bit key that every tenant login's password is derived from.
#[derive(Clone)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self> {
        HEXLOWER_PERMISSIVE
            .decode(text.trim().as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| {
                Error::new(&codes::BAD_REQUEST)
                    .detail("the master key is not 64 hexadecimal digits")
                    .hint("make one with: openssl rand -hex 32")
            })
    }

    /// The password of a tenant's login role. Raising `credential_version` rotates it.
    pub fn login_password(&self, role: &str, credential_version: i32) -> SecretString {
        let version = credential_version.to_string();
        SecretString::from(BASE64URL_NOPAD.encode(&self.derive(&[
            b"freehold/login",
            role.as_bytes(),
            version.as_bytes(),
        ])))
    }

    /// The verifier PostgreSQL stores for [`MasterKey::login_password`], so that the password itself is never sent in
    /// DDL. One iteration: the password is 256 random bits, which stretching does not make harder to guess, and each
    /// saved iteration makes a login faster.
    pub fn scram_verifier(&self, role: &str, credential_version: i32) -> String {
        use secrecy::ExposeSecret;
        let password = self.login_password(role, credential_version);
        let version = credential_version.to_string();
        let salt = &self.derive(&[b"freehold/salt", role.as_bytes(), version.as_bytes()])[..16];
        let salted = salted_once(password.expose_secret().as_bytes(), salt);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&key, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let server_key = hmac::sign(&key, b"Server Key");
        format!(
            "SCRAM-SHA-256$1:{}${}:{}",
            BASE64.encode(salt),
            BASE64.encode(stored_key.as_ref()),
            BASE64.encode(server_key.as_ref())
        )
    }

    /// The password of the admin of a database server that was made here. Raising `version` changes it.
    pub fn server_password(&self, server: &str, version: i32) -> SecretString {
        let version = version.to_string();
        SecretString::from(BASE64URL_NOPAD.encode(&self.derive(&[
            b"freehold/server",
            server.as_bytes(),
            version.as_bytes(),
        ])))
    }

    /// The secret part of a link that is mailed (an invitation, a proof of address): derived, so that no table holds it
    /// and sending again sends the same. `version` is raised to kill links that are out.
    pub fn link_secret(&self, kind: &str, id: &str, version: i32) -> String {
        let version = version.to_string();
        BASE64URL_NOPAD.encode(&self.derive(&[
            b"freehold/link",
            kind.as_bytes(),
            id.as_bytes(),
            version.as_bytes(),
        ]))
    }

    /// Whether a link's secret is the one of [`MasterKey::link_secret`], compared in constant time.
    pub fn link_is_good(&self, kind: &str, id: &str, version: i32, secret: &str) -> bool {
        let wanted = self.link_secret(kind, id, version);
        aws_lc_rs::constant_time::verify_slices_are_equal(wanted.as_bytes(), secret.as_bytes()).is_ok()
    }

    /// 32 bytes for one purpose and nothing else.
    pub(super) fn derive(&self, info: &[&[u8]]) -> [u8; 32] {
        // The parts are joined with a byte that no role name contains, so no two infos collide.
        let info = info.join(&0u8);
        let mut out = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"freehold v1")
            .extract(&self.0)
            .expand(&[&info], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut out))
            .expect("32 bytes are within what HKDF-SHA256 gives");
        out
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// SCRAM's `Hi(password, salt, 1)` (RFC 5802).
fn salted_once(password: &[u8], salt: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, password);
    hmac::sign(&key, &[salt, &[0, 0, 0, 1]].concat()).as_ref().to_vec()
}

/// SHA-256, for looking up a random secret by its hash.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn passwords_differ_by_role_version_and_key() {
        let (a, b) = (MasterKey::from_bytes([1; 32]), MasterKey::from_bytes([2; 32]));
        let all = [
            a.login_password("t_x", 1),
            a.login_password("t_x", 2),
            a.login_password("t_y", 1),
            b.login_password("t_x", 1),
        ];
        for (i, left) in all.iter().enumerate() {
            for right in &all[i + 1..] {
                assert_ne!(left.expose_secret(), right.expose_secret());
            }
        }
        assert_eq!(a.login_password("t_x", 1).expose_secret(), all[0].expose_secret());
    }

    #[test]
    fn secret_references_round_trip_and_never_hold_the_secret() {
        for text in ["env:FREEHOLD_SHARD_A", "file:/run/secrets/shard-a"] {
            assert_eq!(text.parse::<SecretRef>().unwrap().to_string(), text);
        }
        for text in ["postgres://u:p@h/d", "env:", "", "hunter2"] {
            assert!(text.parse::<SecretRef>().is_err());
        }
    }
}
