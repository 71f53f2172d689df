//! The limiter of last resort: a bucket per tenant in this process, used while Redis is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Instant;

use moka::sync::Cache;

use super::gcra::{Decision, Policy, decide};
use crate::kernel::ids::TenantId;

/// More tenants than this at once in one process share their buckets' fate: the least used start afresh.
const TENANTS: u64 = 100_000;

pub struct LocalBuckets {
    start: Instant,
    tats: Cache<TenantId, Arc<AtomicI64>>,
}

impl Default for LocalBuckets {
    fn default() -> Self {
        Self { start: Instant::now(), tats: Cache::new(TENANTS) }
    }
}

impl LocalBuckets {
    pub fn decide(&self, tenant: TenantId, policy: Policy) -> Decision {
        let bucket = self.tats.get_with(tenant, Default::default);
        // The bucket's clock starts with the process; 1 keeps "nothing kept" (0) apart.
        let now = self.start.elapsed().as_micros() as i64 + 1;
        let mut tat = bucket.load(SeqCst);
        loop {
            let (decision, after) = decide(policy, tat, now);
            match bucket.compare_exchange_weak(tat, after, SeqCst, SeqCst) {
                Ok(_) => return decision,
                Err(newer) => tat = newer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_at_once_and_exactly_the_burst_passes() {
        let buckets = LocalBuckets::default();
        let (tenant, other) = (TenantId::new(), TenantId::new());
        // One a second: nothing refills while the test runs.
        let policy = Policy::new(1, 30);
        let passed = AtomicI64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        passed.fetch_add(buckets.decide(tenant, policy).allowed.into(), SeqCst);
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 30);
        assert!(buckets.decide(other, policy).allowed, "a neighbour's bucket is its own");
    }
}
