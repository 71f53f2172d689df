//! What a tenant uses. A product names what it counts in a transaction of its own, in the statement that makes the change where
//! that can be ([`Usage::fact`]), or beside it ([`Usage::record`]): rolled back, nothing was used. Calls of the API are counted
//! in memory ([`ApiCalls`]).
//!
//! A fact is a row in the shard's outbox. The tenant's login may only add rows there, and each row bears the login's name, so
//! no tenant can use anything in another's name.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::context::TenantContext;
use crate::billing::ledger::api_calls::{Calls, record_calls};
use crate::billing::ledger::outbox::{KIND, Payload};
use crate::kernel::ids::TenantId;
use crate::kernel::{Clock, Entropy, Error, Result};

pub use crate::billing::ledger::meters::{Aggregation, Meter};

/// The longest key that a product may give.
const KEY_MAX: usize = 160;

/// What a product says was used: two values for a statement that inserts `(kind, key, payload)` into `freehold.outbox`, with
/// [`Fact::KIND`] as the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The outbox row's `key`.
    pub key: String,
    /// The outbox row's `payload`, JSON.
    pub payload: String,
}

impl Fact {
    /// The outbox row's `kind`.
    pub const KIND: &str = KIND;

    fn new(meter: &Meter, quantity: i64, key: &str, at: DateTime<Utc>) -> Result<Self> {
        let most = meter.aggregation.most();
        if !(0..=most).contains(&quantity) {
            return Err(Error::internal(format!("{quantity} {} of {}: 0 to {most}", meter.unit, meter.id)));
        }
        if !(1..=KEY_MAX).contains(&key.chars().count()) {
            return Err(Error::internal(format!("a key of {}: 1 to {KEY_MAX} characters", meter.id)));
        }
        let payload = Payload { meter: meter.id.into(), quantity, at: Some(at.timestamp_micros()) };
        let payload = serde_json::to_string(&payload).map_err(Error::internal)?;
        // Two meters may count the same thing.
        Ok(Self { key: format!("{}:{key}", meter.id), payload })
    }
}

/// How a product says what was used. See [`TenantContext::usage`].
pub struct Usage<'a>(&'a Clock);

impl TenantContext {
    /// How to say what was used. The facts are this tenant's: the connection they are written on is.
    pub fn usage(&self) -> Usage<'_> {
        Usage(&self.clock)
    }
}

impl Usage<'_> {
    /// A fact to be written by the product's own statement, which costs no round trip. `key` tells this use from every other
    /// of this meter: the id of what was made, say. Said twice, it counts once.
    ///
    /// # Errors
    /// `internal` for a quantity that is negative or larger than the meter takes, or a key that is not 1 to 160 characters
    /// long: faults of the product.
    pub fn fact(&self, meter: &Meter, quantity: i64, key: &str) -> Result<Fact> {
        Fact::new(meter, quantity, key, self.0.now())
    }

    /// Records a fact in the transaction of `conn`: one statement.
    ///
    /// # Errors
    /// As [`Usage::fact`].
    pub async fn record(
        &self,
        conn: &mut PgConnection,
        meter: &Meter,
        quantity: i64,
        key: &str,
    ) -> Result<()> {
        let fact = self.fact(meter, quantity, key)?;
        sqlx::query("INSERT INTO freehold.outbox (kind, key, payload) VALUES ($1, $2, $3::jsonb)")
            .bind(Fact::KIND)
            .bind(fact.key)
            .bind(fact.payload)
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// Locks of the counts: enough that requests on all cores seldom meet.
const LOCKS: usize = 16;
/// How often closed minutes are looked for.
const ROUND: Duration = Duration::from_secs(5);
/// The longest a round may take, and the last one at the end.
const ROUND_LIMIT: Duration = Duration::from_secs(10);
/// Counts that are recorded in one transaction.
const RECORDED_AT_ONCE: usize = 2_000;
/// Counts that wait while the control database is away: a day of ten thousand tenants' minutes would be more than memory
/// should hold. What is over is dropped, said and counted: an under-count.
const WAITING_AT_MOST: usize = 500_000;

/// Counts the calls that are let in, by tenant and minute. Cheap to clone; off unless it was [started](ApiCalls::new).
#[derive(Clone, Default)]
pub struct ApiCalls(Option<Arc<Counter>>);

struct Counter {
    /// Of this process alone: another one's counts are other facts.
    source: String,
    locks: [Mutex<Minute>; LOCKS],
    closed: AtomicU64,
    /// Taken out and not recorded yet. Here and not in the task, which may panic and be begun again.
    waiting: tokio::sync::Mutex<Vec<Calls>>,
}

#[derive(Default)]
struct Minute {
    /// Minutes since 1970.
    number: i64,
    calls: HashMap<TenantId, i64>,
    /// Earlier ones, until they are taken.
    closed: Vec<(i64, HashMap<TenantId, i64>)>,
}

impl Minute {
    fn close(&mut self, next: i64) {
        let calls = std::mem::take(&mut self.calls);
        if !calls.is_empty() {
            self.closed.push((self.number, calls));
        }
        self.number = next;
    }
}

impl ApiCalls {
    pub fn new(entropy: &Entropy) -> Self {
        let source = format!("api_calls:{}", entropy.base32::<10>());
        let (locks, closed, waiting) = Default::default();
        Self(Some(Arc::new(Counter { source, locks, closed, waiting })))
    }

    /// One call, at this moment.
    pub fn count(&self, tenant: TenantId, now: DateTime<Utc>) {
        let Some(counter) = &self.0 else { return };
        let number = now.timestamp().div_euclid(60);
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        let mut minute = counter.locks[hasher.finish() as usize % LOCKS].lock();
        if minute.number != number {
            minute.close(number);
        }
        *minute.calls.entry(tenant).or_default() += 1;
    }

    /// Takes out what was counted in minutes that are over, or in all. Each has a key that this process gives once.
    pub fn take(&self, now: DateTime<Utc>, all: bool) -> Vec<Calls> {
        let Some(counter) = &self.0 else { return Vec::new() };
        let number = now.timestamp().div_euclid(60);
        let mut sums: BTreeMap<(i64, TenantId), i64> = BTreeMap::new();
        for lock in &counter.locks {
            let mut minute = lock.lock();
            if all || minute.number != number {
                minute.close(number);
            }
            for (number, calls) in std::mem::take(&mut minute.closed) {
                for (tenant, calls) in calls {
                    *sums.entry((number, tenant)).or_default() += calls;
                }
            }
        }
        sums.into_iter()
            .map(|((number, tenant), calls)| Calls {
                tenant,
                minute: DateTime::from_timestamp(number * 60, 0).unwrap_or(now),
                key: format!("{number}:{}", counter.closed.fetch_add(1, Ordering::Relaxed)),
                calls,
            })
            .collect()
    }

    /// Records what was counted, a few seconds after each minute, until `stop` is cancelled; then the rest.
    pub async fn run(self, db: PgPool, clock: Clock, stop: CancellationToken) {
        let Some(counter) = self.0.clone() else { return };
        let mut waiting = counter.waiting.lock().await;
        loop {
            let ending = stop.run_until_cancelled(tokio::time::sleep(ROUND)).await.is_none();
            waiting.extend(self.take(clock.now(), ending));
            match tokio::time::timeout(ROUND_LIMIT, flush(&db, &counter.source, &mut waiting, &clock)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(?error, "calls could not be recorded; they wait"),
                Err(_) => tracing::warn!("calls could not be recorded in time; they wait"),
            }
            if let Some(over) = waiting.len().checked_sub(WAITING_AT_MOST).filter(|over| *over > 0) {
                let lost: i64 = waiting.drain(..over).map(|calls| calls.calls).sum();
                metrics::counter!("api_calls_lost_total").increment(lost.unsigned_abs());
                tracing::error!(lost, "more calls wait than are kept; the oldest are not billed");
            }
            if ending {
                let lost: i64 = waiting.iter().map(|calls| calls.calls).sum();
                if lost > 0 {
                    tracing::error!(
                        lost,
                        "stopping with calls that could not be recorded; they are not billed"
                    );
                }
                return;
            }
        }
    }
}

/// Records what waits, a part at a time: what is recorded waits no more, whatever becomes of the rest.
async fn flush(db: &PgPool, source: &str, waiting: &mut Vec<Calls>, clock: &Clock) -> Result<()> {
    while !waiting.is_empty() {
        let some = waiting.len().min(RECORDED_AT_ONCE);
        record_calls(db, source, &waiting[..some], clock.now()).await?;
        waiting.drain(..some);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TASKS: Meter = Meter { id: "tasks", name: "Tasks", unit: "task", aggregation: Aggregation::Sum };

    #[test]
    fn a_fact_is_refused_where_the_product_is_wrong() {
        let clock = Clock::movable();
        let usage = Usage(&clock);
        let fact = usage.fact(&TASKS, 3, "tsk_1").unwrap();
        assert_eq!(fact.key, "tasks:tsk_1");
        assert!(fact.payload.starts_with(r#"{"meter":"tasks","quantity":3,"at":"#), "{}", fact.payload);
        let long = "x".repeat(161);
        for (quantity, key) in
            [(-1, "k"), (1_000_000_000_001, "k"), (i64::MAX, "k"), (1, ""), (1, long.as_str())]
        {
            assert_eq!(usage.fact(&TASKS, quantity, key).unwrap_err().code().name, "internal");
        }
    }

    proptest! {
        /// Whenever it is looked: every call is taken out once, with the minute it came in, and no key is given twice.
        ///
        /// Shown to fail: close a minute without keeping its calls; give keys by the minute alone.
        #[test]
        fn every_call_is_taken_once(steps in prop::collection::vec((0u128..4, 0i64..50, any::<bool>()), 1..80)) {
            let calls = ApiCalls::new(&Entropy::default());
            let (mut seconds, mut expected, mut taken) = (0, BTreeMap::<(u128, i64), i64>::new(), Vec::new());
            for (tenant, step, look) in steps {
                seconds += step;
                let now = DateTime::from_timestamp(seconds, 0).unwrap();
                calls.count(TenantId(uuid::Uuid::from_u128(tenant)), now);
                *expected.entry((tenant, seconds.div_euclid(60))).or_default() += 1;
                if look {
                    taken.extend(calls.take(now, false));
                }
            }
            taken.extend(calls.take(DateTime::from_timestamp(seconds, 0).unwrap(), true));
            let mut found = BTreeMap::new();
            let mut keys = std::collections::BTreeSet::new();
            for calls in taken {
                prop_assert!(keys.insert(calls.key.clone()), "twice: {}", calls.key);
                *found.entry((calls.tenant.0.as_u128(), calls.minute.timestamp() / 60)).or_default() += calls.calls;
            }
            prop_assert_eq!(found, expected);
        }
    }
}
