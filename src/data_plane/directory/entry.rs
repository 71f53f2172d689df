//! What the directory knows of a tenant and of a key.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

use crate::billing::access::Access;
use crate::control_plane::plans::Entitlements;
use crate::control_plane::tenants::TenantState;
use crate::data_plane::broker::Login;
use crate::data_plane::tenancy::scopes::Held;
use crate::kernel::ids::{ApiKeyId, TenantId};
use crate::kernel::{Role, Slug};

/// A tenant as the data plane sees it. A purged one (`deleted`) is not in the directory.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub id: TenantId,
    pub slug: Slug,
    pub name: Box<str>,
    pub state: TenantState,
    pub plan: Arc<str>,
    pub limits: Arc<Entitlements>,
    /// What its tables and indexes took up when they were last sampled.
    pub stored_bytes: u64,
    /// How access stands with money.
    pub access: Access,
    /// Raised at every change of placement or access.
    pub epoch: i64,
    /// Custom domains, in lower case.
    pub domains: Box<[Box<str>]>,
    /// How its login reaches its schema; none before it is placed.
    pub login: Option<Login>,
}

impl Tenant {
    /// Whether a host name below the base domain, or a custom domain, is this tenant's.
    pub fn has_domain(&self, domain: &str) -> bool {
        self.domains.iter().any(|own| **own == *domain)
    }
}

/// A live API key: revoked ones are not in the directory.
#[derive(Debug)]
pub struct Key {
    pub id: ApiKeyId,
    pub tenant: TenantId,
    pub name: Arc<str>,
    pub role: Role,
    pub scopes: Held,
    pub expires_at: Option<DateTime<Utc>>,
    /// When its last use was noted, in milliseconds since 1970: a write a minute is precise enough.
    pub(super) noted_ms: AtomicI64,
}

/// Uses within this time of the last one noted are not noted again.
const NOTE_EVERY_MS: i64 = 60_000;

impl Key {
    /// Whether the key may still be used. Looked at on every use: a cached key expires on time.
    pub fn live(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }

    /// Whether this use is worth writing down; true for one caller a minute.
    pub(super) fn worth_noting(&self, now: DateTime<Utc>) -> bool {
        let now = now.timestamp_millis();
        let noted = self.noted_ms.load(Ordering::Relaxed);
        now - noted >= NOTE_EVERY_MS
            && self.noted_ms.compare_exchange(noted, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn a_key_expires_at_its_moment_and_is_noted_once_a_minute() {
        let now = crate::kernel::Clock::System.now();
        let key = Key {
            id: ApiKeyId::new(),
            tenant: TenantId::new(),
            name: "k".into(),
            role: Role::Viewer,
            scopes: None,
            expires_at: Some(now),
            noted_ms: AtomicI64::new(0),
        };
        assert!(key.live(now - TimeDelta::milliseconds(1)));
        assert!(!key.live(now));
        assert!(key.worth_noting(now));
        assert!(!key.worth_noting(now + TimeDelta::seconds(59)));
        assert!(key.worth_noting(now + TimeDelta::seconds(60)));
    }
}
