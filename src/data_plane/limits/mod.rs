//! How many requests a tenant may make: one bucket per tenant in Redis, shared by all replicas. A tenant near its limit
//! is decided about in Redis, request by request; one far from it is let through on bounded trust and Redis hears of it
//! a moment later (see [`bucket`]). While Redis is away each replica decides alone over its share of the limit: nobody
//! is refused because the limiter is broken, and nobody gets more than their limit.
//!
//! | file | holds |
//! |---|---|
//! | `gcra` | the algorithm: one number per bucket. Pure |
//! | `bucket` | what this process knows of a bucket, and when that is enough. Pure |
//! | `known` | what it knows of every tenant, for `bucket` and `monthly` |
//! | `shared` | the buckets in Redis, by a script that mirrors `gcra` |
//! | `script` | several visits of a script in one round trip |
//! | `local`, `breaker` | without Redis: own buckets; when to ask it again |
//! | `headers` | what the client is told |
//! | `monthly` | the other limit: requests in a month, exact, and written down |

mod breaker;
pub mod bucket;
pub mod gcra;
pub mod headers;
mod known;
mod local;
pub mod monthly;
mod script;
mod shared;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::Counter;
use parking_lot::Mutex;
use redis::aio::ConnectionManager;
use sqlx::PgPool;

pub use gcra::{Decision, Policy};

use crate::control_plane::plans::Entitlements;
use crate::kernel::Clock;
use crate::kernel::ids::TenantId;
use breaker::{Breaker, Gate};
use bucket::{Bucket, Next};
use known::Known;
use local::LocalBuckets;
use monthly::Months;
use shared::Visit;

/// The longest a request waits for Redis, connecting included.
const PATIENCE: Duration = Duration::from_millis(150);
/// How long a request let through on trust may be owed. How much may be owed does not depend on it.
const PAY_AFTER: Duration = Duration::from_millis(50);

/// The rate limiter. Cheap to clone.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

struct Inner {
    redis: Option<ConnectionManager>,
    /// Server processes that share the tenants' traffic.
    replicas: u32,
    breaker: Breaker,
    local: LocalBuckets,
    start: Instant,
    known: Known<Bucket>,
    /// Buckets that owe something.
    owing: Mutex<Vec<Owing>>,
    decided_alone: OnceLock<Counter>,
    /// None where months are not counted.
    months: Option<Months>,
    #[cfg(feature = "testkit")]
    off: bool,
}

struct Owing {
    tenant: TenantId,
    policy: Policy,
}

impl Limiter {
    /// Without Redis every decision is local.
    pub fn new(redis: Option<ConnectionManager>, replicas: u32) -> Self {
        Self(Arc::new(Inner::new(redis, replicas)))
    }

    /// The same, and it counts requests per month. [`Limiter::run`] has to run beside it.
    pub fn counting(redis: Option<ConnectionManager>, replicas: u32, db: PgPool, clock: Clock) -> Self {
        let months = Some(Months::new(db, clock));
        Self(Arc::new(Inner { months, ..Inner::new(redis, replicas) }))
    }

    /// Lets everything through: what the limits are measured against.
    #[cfg(feature = "testkit")]
    pub fn off() -> Self {
        Self(Arc::new(Inner { off: true, ..Inner::new(None, 1) }))
    }

    /// The policy a plan grants.
    pub fn policy(limits: &Entitlements) -> Policy {
        Policy::new(limits.requests_per_second, limits.burst)
    }

    /// Takes one request out of the tenant's bucket. Never fails: see the module's words on Redis being away.
    pub async fn take(&self, tenant: TenantId, policy: Policy) -> Decision {
        let inner = &self.0;
        #[cfg(feature = "testkit")]
        if inner.off {
            return Decision { allowed: true, remaining: policy.burst, retry_us: 0, reset_us: 0 };
        }
        let Some(redis) = &inner.redis else { return self.alone(tenant, policy) };
        match inner.breaker.gate() {
            Gate::Closed => {
                if let Some(decision) = self.decide(redis, tenant, policy).await {
                    return decision;
                }
            }
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

    /// By what is known here, or by Redis. `None` when Redis does not answer.
    async fn decide(&self, redis: &ConnectionManager, tenant: TenantId, policy: Policy) -> Option<Decision> {
        let inner = &self.0;
        let most = policy.trust() / i64::from(inner.replicas.max(1));
        let sent = inner.now();
        match inner.known.with(tenant, |bucket| bucket.look(policy, most, sent)) {
            Next::Here { decision, first } => {
                if first {
                    self.owes(Owing { tenant, policy });
                }
                Some(decision)
            }
            Next::Ask { owed } => {
                let visit = Visit { tenant, policy, owed, asked: true, now_us: 0 };
                let told = self.in_time(shared::visit(redis, visit)).await;
                inner.known.with(tenant, |bucket| match told {
                    Some(told) => bucket.learn(policy, told, sent, inner.now()),
                    None => bucket.forget(),
                });
                told.map(|told| told.decision)
            }
        }
    }

    /// Sees that it is paid soon, with all else that is owed by then.
    fn owes(&self, owing: Owing) {
        let mut all = self.0.owing.lock();
        all.push(owing);
        if all.len() == 1 {
            let limiter = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(PAY_AFTER).await;
                limiter.pay().await;
            });
        }
    }

    async fn pay(&self) {
        let inner = &self.0;
        let Some(redis) = &inner.redis else { return };
        let mut owing = std::mem::take(&mut *inner.owing.lock());
        let sent = inner.now();
        let mut visits = Vec::with_capacity(owing.len());
        owing.retain(|&Owing { tenant, policy }| {
            // Paid meanwhile by a request that had to ask anyway.
            let owed = inner.known.with(tenant, Bucket::pay);
            if owed > 0 {
                visits.push(Visit { tenant, policy, owed, asked: false, now_us: 0 });
            }
            owed > 0
        });
        if visits.is_empty() || inner.breaker.gate() != Gate::Closed {
            return;
        }
        match self.in_time(shared::visit_all(redis, &visits)).await {
            Some(told) => {
                let now = inner.now();
                for (&Owing { tenant, policy }, told) in owing.iter().zip(told) {
                    inner.known.with(tenant, |bucket| bucket.learn(policy, told, sent, now));
                }
            }
            None => owing.iter().for_each(|owing| inner.known.with(owing.tenant, Bucket::forget)),
        }
    }

    /// What Redis says, if it does in time. The first time it does not opens the breaker.
    async fn in_time<T>(&self, asking: impl Future<Output = redis::RedisResult<T>>) -> Option<T> {
        let why = match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(told)) => return Some(told),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        if self.0.breaker.open() {
            tracing::warn!(why, "redis does not serve; rate limits are local for now");
        }
        None
    }

    fn alone(&self, tenant: TenantId, policy: Policy) -> Decision {
        let inner = &self.0;
        inner.decided_alone.get_or_init(|| metrics::counter!("rate_limit_local_total")).increment(1);
        inner.local.decide(tenant, policy.share(inner.replicas))
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

impl Inner {
    fn new(redis: Option<ConnectionManager>, replicas: u32) -> Self {
        Self {
            redis,
            replicas,
            breaker: Breaker::default(),
            local: LocalBuckets::default(),
            start: Instant::now(),
            known: Known::new(Bucket::owes),
            owing: Mutex::default(),
            decided_alone: OnceLock::new(),
            months: None,
            #[cfg(feature = "testkit")]
            off: false,
        }
    }

    /// This process's own clock, in microseconds.
    fn now(&self) -> i64 {
        self.start.elapsed().as_micros() as i64
    }
}

/// One visit to a bucket in the script's test: what is owed, whether one more is asked for, and when.
#[cfg(feature = "testkit")]
pub type Step = (i64, bool, i64);

/// The script against the function it mirrors, over a running Redis: each pair of answers, in order.
#[cfg(feature = "testkit")]
pub async fn side_by_side(
    redis: &ConnectionManager,
    tenant: TenantId,
    policy: Policy,
    steps: &[Step],
) -> redis::RedisResult<Vec<(gcra::Settled, gcra::Settled)>> {
    let mut pairs = Vec::new();
    let mut tat = 0;
    for &(owed, asked, now_us) in steps {
        let here = gcra::settle(policy, tat, now_us, owed, i64::from(asked));
        tat = here.tat_us;
        let told = shared::visit(redis, Visit { tenant, policy, owed, asked, now_us }).await?;
        pairs.push((here, gcra::Settled { decision: told.decision, tat_us: told.tat_us }));
    }
    Ok(pairs)
}

/// The key of a tenant's bucket.
#[cfg(feature = "testkit")]
pub fn key_of(tenant: TenantId) -> String {
    shared::key_of(tenant)
}
