//! The buckets that this process knows of.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::bucket::Bucket;
use crate::kernel::ids::TenantId;

/// Locks, so that tenants seldom wait for each other. Each is held for some dozens of nanoseconds.
const PARTS: usize = 16;
/// Tenants in a part; of others Redis is asked. About 16 MB when all parts are full.
const TENANTS: usize = 100_000 / PARTS;

#[derive(Default)]
pub struct Buckets([Mutex<HashMap<TenantId, Bucket>>; PARTS]);

impl Buckets {
    /// Does something with a tenant's bucket; a new one if it is not known.
    pub fn with<T>(&self, tenant: TenantId, work: impl FnOnce(&mut Bucket) -> T) -> T {
        // The end of an id is random.
        let part = &self.0[tenant.0.as_bytes()[15] as usize % PARTS];
        let mut part = part.lock();
        if part.len() >= TENANTS && !part.contains_key(&tenant) {
            // All that is lost is knowledge that Redis has too; not so what is owed.
            part.retain(|_, bucket| bucket.owes());
        }
        work(part.entry(tenant).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::bucket::{Next, Told};
    use super::super::gcra::settle;
    use super::*;

    #[test]
    fn there_is_an_end_to_it_and_what_is_owed_stays() {
        let buckets = Buckets::default();
        let policy = Policy::new(1, 160);
        let debtor = TenantId::new();
        let settled = settle(policy, 0, 0, 0, 1);
        buckets.with(debtor, |bucket| {
            let told = Told { decision: settled.decision, tat_us: settled.tat_us, now_us: 0 };
            bucket.learn(policy, told, 0, 0);
            assert!(matches!(bucket.look(policy, 10, 0), Next::Here { first: true, .. }));
        });
        for _ in 0..3 * PARTS * TENANTS {
            buckets.with(TenantId::new(), |_| ());
        }
        let kept: usize = buckets.0.iter().map(|part| part.lock().len()).sum();
        assert!(kept <= PARTS * TENANTS, "{kept}");
        assert_eq!(buckets.with(debtor, Bucket::pay), 1);
    }
}
