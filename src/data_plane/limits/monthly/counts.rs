//! The counts that this process knows of.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::count::Count;
use crate::kernel::ids::TenantId;

/// Locks, so that tenants seldom wait for each other. Each is held for some dozens of nanoseconds.
const PARTS: usize = 16;
/// Tenants in a part; of others Redis is asked.
const TENANTS: usize = 100_000 / PARTS;

#[derive(Default)]
pub struct Counts([Mutex<HashMap<TenantId, Count>>; PARTS]);

impl Counts {
    /// Does something with a tenant's count; a new one if it is not known.
    pub fn with<T>(&self, tenant: TenantId, work: impl FnOnce(&mut Count) -> T) -> T {
        // The end of an id is random.
        let mut part = self.0[tenant.0.as_bytes()[15] as usize % PARTS].lock();
        if part.len() >= TENANTS && !part.contains_key(&tenant) {
            // All that is lost is knowledge that Redis has too; not so what is owed, or not yet written down.
            part.retain(|_, count| count.matters());
        }
        work(part.entry(tenant).or_default())
    }
}
