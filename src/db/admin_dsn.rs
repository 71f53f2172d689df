//! How an admin logs in on a shard: by a secret that is kept somewhere, or, on a server that was made here, with a password
//! that follows from the master key and is kept nowhere.

use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};

use crate::kernel::{Error, MasterKey, Result, SecretRef, codes};

const DERIVED: &str = "derived";

/// What the registry has in the place of an admin's DSN. It may be shown: there is no secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminDsn {
    /// `env:NAME` or `file:/path`.
    Kept(SecretRef),
    /// `derived:<server>:<version>:postgres://admin@host:5432/database?sslmode=verify-full`
    Derived {
        /// What the password is derived for.
        server: String,
        /// Raised when it is changed.
        version: i32,
        /// Without a password.
        address: String,
    },
}

impl AdminDsn {
    /// The whole DSN.
    ///
    /// # Errors
    /// `bad_request` when it cannot be read, and for a derived one where there is no master key.
    pub fn read(&self, master: Option<&MasterKey>) -> Result<SecretString> {
        match self {
            Self::Kept(secret) => secret.read(),
            Self::Derived { server, version, address } => {
                let master = master.ok_or_else(|| {
                    Error::new(&codes::BAD_REQUEST)
                        .detail("a derived admin DSN cannot be read without the master key")
                })?;
                let password = master.server_password(server, *version);
                let (before, after) = address.split_once('@').ok_or_else(|| {
                    Error::new(&codes::BAD_REQUEST).detail("a derived admin DSN names no login")
                })?;
                // Of letters, digits, `-` and `_`: nothing in it has a meaning in an address.
                Ok(SecretString::from(format!("{before}:{}@{after}", password.expose_secret())))
            }
        }
    }
}

impl FromStr for AdminDsn {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix(DERIVED).and_then(|rest| rest.strip_prefix(':')) else {
            return text.parse().map(Self::Kept);
        };
        let mut parts = rest.splitn(3, ':');
        let (Some(server), Some(version), Some(address)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("a derived admin DSN is derived:<server>:<version>:<address>".to_owned());
        };
        let version = version.parse().map_err(|_| format!("{version:?} is no version of a password"))?;
        Ok(Self::Derived { server: server.to_owned(), version, address: address.to_owned() })
    }
}

impl fmt::Display for AdminDsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(secret) => secret.fmt(f),
            Self::Derived { server, version, address } => write!(f, "{DERIVED}:{server}:{version}:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "derived:d-1:2:postgres://freehold_admin@db.internal:5432/shard?sslmode=verify-full";

    #[test]
    fn what_is_kept_and_what_is_derived_round_trip() {
        for text in ["env:SHARD_A", "file:/run/secrets/a", TEXT] {
            assert_eq!(text.parse::<AdminDsn>().expect(text).to_string(), text);
        }
        for text in ["", "postgres://u:p@h/d", "derived:", "derived:d-1", "derived:d-1:x:postgres://u@h/d"] {
            text.parse::<AdminDsn>().expect_err(text);
        }
    }

    #[test]
    fn the_password_follows_from_the_master_key_and_is_in_no_text() {
        let dsn: AdminDsn = TEXT.parse().expect("a DSN");
        let (one, two) = (MasterKey::from_bytes([1; 32]), MasterKey::from_bytes([2; 32]));
        let read = dsn.read(Some(&one)).expect("whole");
        let password = one.server_password("d-1", 2);
        assert_eq!(
            read.expose_secret(),
            format!(
                "postgres://freehold_admin:{}@db.internal:5432/shard?sslmode=verify-full",
                password.expose_secret()
            )
        );
        assert!(!format!("{dsn:?} {dsn}").contains(password.expose_secret()));
        assert_ne!(dsn.read(Some(&two)).expect("whole").expose_secret(), read.expose_secret());
        assert_ne!(one.server_password("d-1", 3).expose_secret(), password.expose_secret());
        crate::db::admin::options(&read).expect("an address that the driver takes");
    }
}
