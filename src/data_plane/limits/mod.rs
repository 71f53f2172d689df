//! How many requests a tenant may make: one bucket per tenant in Redis, shared by all replicas, decided in one round
//! trip. While Redis is away each replica decides alone over its share of the limit: nobody is refused because the
//! limiter is broken, and nobody gets more than their limit.

mod breaker;
pub mod gcra;
pub mod headers;
mod local;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::Script;
use redis::aio::ConnectionManager;

pub use gcra::{Decision, Policy};

use crate::control_plane::plans::Entitlements;
use crate::kernel::ids::TenantId;
use breaker::{Breaker, Gate};
use local::LocalBuckets;

static GCRA: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("gcra.lua")));

/// The longest a request waits for Redis, connecting included.
const PATIENCE: Duration = Duration::from_millis(150);

/// The rate limiter. Cheap to clone.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

struct Inner {
    redis: Option<ConnectionManager>,
    /// Server processes that share the tenants' traffic.
    replicas: u32,
    breaker: Breaker,
    local: LocalBuckets,
}

impl Limiter {
    /// Without Redis every decision is local.
    pub fn new(redis: Option<ConnectionManager>, replicas: u32) -> Self {
        Self(Arc::new(Inner { redis, replicas, breaker: Breaker::default(), local: LocalBuckets::default() }))
    }

    /// The policy a plan grants.
    pub fn policy(limits: &Entitlements) -> Policy {
        Policy::new(limits.requests_per_second, limits.burst)
    }

    /// Takes one request out of the tenant's bucket. Never fails: see the module's words on Redis being away.
    pub async fn take(&self, tenant: TenantId, policy: Policy) -> Decision {
        let inner = &self.0;
        let Some(redis) = &inner.redis else { return self.alone(tenant, policy) };
        match inner.breaker.gate() {
            Gate::Closed => match tokio::time::timeout(PATIENCE, ask(redis, tenant, policy, 0)).await {
                Ok(Ok(decision)) => return decision,
                Ok(Err(error)) => self.redis_failed(&error.to_string()),
                Err(_) => self.redis_failed("no answer in time"),
            },
            Gate::Probe => self.probe(redis.clone()),
            Gate::Open => {}
        }
        self.alone(tenant, policy)
    }

    /// Whether decisions are local just now.
    pub fn is_local(&self) -> bool {
        self.0.redis.is_none() || self.0.breaker.is_open()
    }

    /// How often it has changed between Redis and local decisions. Each change may grant a tenant one burst more.
    pub fn switches(&self) -> u64 {
        self.0.breaker.switches()
    }

    fn redis_failed(&self, why: &str) {
        if self.0.breaker.open() {
            tracing::warn!(why, "redis does not serve; rate limits are local for now");
        }
    }

    fn alone(&self, tenant: TenantId, policy: Policy) -> Decision {
        metrics::counter!("rate_limit_local_total").increment(1);
        self.0.local.decide(tenant, policy.share(self.0.replicas))
    }

    /// Asks Redis for a sign of life, without a request waiting for it.
    fn probe(&self, mut redis: ConnectionManager) {
        let limiter = self.clone();
        tokio::spawn(async move {
            if redis::cmd("PING").query_async::<()>(&mut redis).await.is_ok() {
                limiter.0.breaker.close();
                tracing::info!("redis answers again");
            }
        });
    }
}

/// One round trip. `now_us` 0 means the server's clock; a test gives its own.
async fn ask(
    redis: &ConnectionManager,
    tenant: TenantId,
    policy: Policy,
    now_us: i64,
) -> redis::RedisResult<Decision> {
    // The braces keep a tenant's keys on one node of a cluster.
    let (allowed, remaining, retry_us, reset_us): (i64, i64, i64, i64) = GCRA
        .key(format!("rl:{{{tenant}}}"))
        .arg(policy.interval_us)
        .arg(policy.burst)
        .arg(now_us)
        .invoke_async(&mut redis.clone())
        .await?;
    Ok(Decision { allowed: allowed == 1, remaining, retry_us, reset_us })
}

/// The script against the function it mirrors, over a running Redis: each pair of answers, in order.
#[cfg(feature = "testkit")]
pub async fn side_by_side(
    redis: &ConnectionManager,
    tenant: TenantId,
    policy: Policy,
    times_us: &[i64],
) -> redis::RedisResult<Vec<(Decision, Decision)>> {
    let mut pairs = Vec::new();
    let mut tat = 0;
    for &now in times_us {
        let (here, after) = gcra::decide(policy, tat, now);
        tat = after;
        pairs.push((here, ask(redis, tenant, policy, now).await?));
    }
    Ok(pairs)
}
