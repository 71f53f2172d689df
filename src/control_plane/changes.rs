//! How the data plane learns of a change: one notification, sent inside the transaction that makes it true, so that
//! nobody hears of a change that was rolled back.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::kernel::ids::{AccountId, TenantId};

/// The channel of the control database that carries [`Change`]s. Payloads hold ids and hashes, never data.
pub const CHANGED_CHANNEL: &str = "freehold_changed";

/// What a server that caches the directory has to look at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The tenant's row, plan, placement or domains.
    Tenant(TenantId),
    /// An API key, tenant's or operator's, by the SHA-256 of its text: made, changed or revoked.
    Key([u8; 32]),
    /// A person's sessions or memberships.
    Account(AccountId),
    /// Everything: a plan or a shard changed.
    All,
}

/// A payload that no version of this program sends.
#[derive(Debug, thiserror::Error)]
#[error("not a change: tenant:<uuid>, key:<64 hexadecimal digits>, account:<uuid> or all")]
pub struct BadChange;

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(id) => write!(f, "tenant:{}", id.0),
            Self::Key(hash) => write!(f, "key:{}", HEXLOWER.encode(hash)),
            Self::Account(id) => write!(f, "account:{}", id.0),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Change {
    type Err = BadChange;

    fn from_str(text: &str) -> Result<Self, BadChange> {
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("tenant", id)) => {
                Uuid::try_parse(id).map(|id| Self::Tenant(TenantId(id))).map_err(|_| BadChange)
            }
            Some(("account", id)) => {
                Uuid::try_parse(id).map(|id| Self::Account(AccountId(id))).map_err(|_| BadChange)
            }
            Some(("key", hash)) => HEXLOWER
                .decode(hash.as_bytes())
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .map(Self::Key)
                .ok_or(BadChange),
            _ => Err(BadChange),
        }
    }
}

/// Tells every server, once the transaction of `conn` commits.
pub async fn notify(conn: &mut PgConnection, change: Change) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(CHANGED_CHANNEL)
        .bind(change.to_string())
        .execute(conn)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_back_and_nothing_else_does() {
        for change in [
            Change::Tenant(TenantId::new()),
            Change::Key([7; 32]),
            Change::Account(AccountId::new()),
            Change::All,
        ] {
            assert_eq!(change.to_string().parse::<Change>().unwrap(), change);
        }
        for bad in ["", "everything", "tenant:", "tenant:ten_1", "key:07", "key:", "all:"] {
            assert!(bad.parse::<Change>().is_err(), "{bad:?}");
        }
    }
}
