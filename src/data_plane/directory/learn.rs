//! For measuring: what is warm without a control database behind it.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use super::entry::{Key, Tenant};
use super::{Directory, Found, Lookup};
use crate::kernel::Role;
use crate::kernel::credentials::KeyHash;
use crate::kernel::ids::ApiKeyId;

impl Directory {
    /// Makes a tenant and a key of it known, as if both had just been looked up while notifications arrive.
    pub fn learn(&self, tenant: Tenant, hash: KeyHash, role: Role) {
        let inner = &self.0;
        let key = Key {
            id: ApiKeyId::new(),
            tenant: tenant.id,
            name: "learnt".into(),
            role,
            scopes: None,
            expires_at: None,
            noted_ms: AtomicI64::new(inner.clock.now().timestamp_millis()),
        };
        inner.signals.set_listening(true);
        let flushes = inner.signals.flushes();
        for (lookup, found) in [
            (Lookup::Tenant(tenant.id), Found::Tenant(Arc::new(tenant))),
            (Lookup::Key(hash), Found::Key(Arc::new(key))),
        ] {
            self.keep(&lookup, &found, inner.signals.changes(&lookup), flushes);
        }
    }
}
