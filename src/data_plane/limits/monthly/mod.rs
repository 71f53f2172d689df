//! How many requests a tenant may make in a month: one counter per tenant and month in Redis, shared by all replicas, and
//! what is known of it written down in the control database (`quota_level`).
//!
//! - Far from the limit a request costs no round trip; near it Redis decides in one step, so that of a hundred requests at
//!   one below the limit exactly one passes. See [`count`].
//! - A Redis that was flushed is made good: by what each replica was told last, and by what is written down. What may be
//!   lost is what other replicas counted in the seconds since they last wrote it down.
//! - While Redis is away each replica decides alone, taking it that the others let as many through, and adds what it let
//!   through to the control database. Nobody is refused because a part is broken; what may pass beyond the limit then is
//!   what the replicas let through unevenly.
//! - What a process owes when it crashes is not counted: at most what it let through in a quarter of a second.
//!
//! | file | holds |
//! |---|---|
//! | `count` | what this process knows of a count, and when that is enough. Pure |
//! | `shared` | the counters in Redis |

pub mod count;
mod shared;

use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use redis::aio::ConnectionManager;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Limiter;
use super::known::Known;
use crate::billing::quotas::levels::{self, Counted};
use crate::billing::quotas::{Level, Month, Quota as Limit};
use crate::control_plane::plans::Entitlements;
use crate::kernel::Clock;
use crate::kernel::ids::TenantId;
use count::{Count, Next, Quota};
use shared::{Asked, Told, Visit};

/// How often what is owed is counted.
const PAY_EVERY: Duration = Duration::from_millis(250);
/// How often what is known is written down: once in so many of those.
const WRITE_EVERY: u32 = 12;
/// The longest a request waits for the control database to say what was written down.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest a round of writing may take.
const WRITING: Duration = Duration::from_secs(5);
/// Questions to the control database at once.
const BASES_AT_ONCE: usize = 8;
/// Counts written down in one statement.
const AT_ONCE: usize = 1_000;

/// What counting takes beside Redis.
pub(super) struct Months {
    db: PgPool,
    clock: Clock,
    counts: Known<Count>,
    /// Counts that owe something.
    owing: Mutex<Vec<(TenantId, Month)>>,
    /// Counts that know something which is not written down.
    unwritten: Mutex<Vec<TenantId>>,
    bases: Semaphore,
}

impl Months {
    pub(super) fn new(db: PgPool, clock: Clock) -> Self {
        Self {
            db,
            clock,
            counts: Known::new(Count::matters),
            owing: Mutex::default(),
            unwritten: Mutex::default(),
            bases: Semaphore::new(BASES_AT_ONCE),
        }
    }

    fn owes(&self, tenant: TenantId, month: Month) {
        self.owing.lock().push((tenant, month));
    }

    /// What was to be counted was not: it is tried again.
    fn unpaid(&self, tenant: TenantId, month: Month, owed: i64) {
        if self.counts.with(tenant, |count| count.unpaid(month, owed)) {
            self.owes(tenant, month);
        }
    }

    fn learn(&self, tenant: TenantId, month: Month, used: i64, sent: i64) {
        if self.counts.with(tenant, |count| count.learn(month, used, sent)) {
            self.unwritten.lock().push(tenant);
        }
    }

    /// What is written down; none when the control database does not say so in time.
    async fn base(&self, tenant: TenantId, month: Month) -> Option<i64> {
        let asking = async {
            // The semaphore is never closed; were it, going on without a permit is right.
            let _permit = self.bases.acquire().await;
            levels::requests_of(&self.db, tenant, month).await
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(used)) => Some(used),
            // It heals: what is written down is compared with what is counted every few seconds.
            Ok(Err(error)) => {
                tracing::debug!(%tenant, %error, "how many requests were counted this month is not known");
                None
            }
            Err(_) => None,
        }
    }

    /// Writes down what is known, and learns where others know more.
    async fn write(&self, now_us: i64) {
        let tenants = std::mem::take(&mut *self.unwritten.lock());
        let seen: Vec<Counted> = tenants
            .into_iter()
            .filter_map(|tenant| {
                let (month, used) = self.counts.with(tenant, |count| count.write())?;
                Some(Counted { tenant, month, used })
            })
            .collect();
        for some in seen.chunks(AT_ONCE) {
            let writing = levels::requests_seen(&self.db, some, self.clock.now());
            match tokio::time::timeout(WRITING, writing).await {
                Ok(Ok(known)) => {
                    for one in known {
                        self.learn(one.tenant, one.month, one.used, now_us);
                    }
                }
                failed => {
                    let why =
                        failed.map_or_else(|_| "no answer in time".to_owned(), |done| format!("{done:?}"));
                    tracing::debug!(why, "counts of requests were not written down; they will be");
                    for one in some {
                        if self.counts.with(one.tenant, Count::unwritten) {
                            self.unwritten.lock().push(one.tenant);
                        }
                    }
                }
            }
        }
    }

    /// Adds what is owed to what is written down: while no Redis counts.
    async fn add(&self, now_us: i64) {
        let owing = std::mem::take(&mut *self.owing.lock());
        for (tenant, month) in owing {
            let Some((owed, used)) = self.take_owed(tenant, month) else { continue };
            let adding =
                levels::requests_add(&self.db, Counted { tenant, month, used }, owed, self.clock.now());
            match tokio::time::timeout(WRITING, adding).await {
                Ok(Ok(Some(used))) => self.learn(tenant, month, used, now_us),
                // There is no such tenant any more.
                Ok(Ok(None)) => {}
                _ => self.unpaid(tenant, month, owed),
            }
        }
    }

    /// What a count owes for this month, with what it knows.
    fn take_owed(&self, tenant: TenantId, month: Month) -> Option<(i64, i64)> {
        self.counts.with(tenant, |count| {
            if count.month() != Some(month) {
                return None;
            }
            let owed = count.pay();
            (owed > 0).then(|| (owed, count.told(month).map_or(0, |(used, _)| used)))
        })
    }
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub allowed: bool,
    /// How the month's limit stands after it.
    pub level: Level,
}

impl Limiter {
    /// Counts one request of the tenant's month, unless the plan's limit is reached. One that `passes` is counted and let
    /// through in any case. None where nothing is counted.
    pub async fn take_of_month(
        &self,
        tenant: TenantId,
        limits: &Entitlements,
        passes: bool,
        now: DateTime<Utc>,
    ) -> Option<Taken> {
        let months = self.0.months.as_ref()?;
        let quota = Quota {
            month: Month::of(now),
            limit: limits.requests_per_month.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX)),
            rate: Self::policy(limits),
            replicas: i64::from(self.0.replicas.max(1)),
        };
        let by_redis = match &self.0.redis {
            Some(redis) if !self.0.breaker.is_open() => {
                self.month_by_redis(months, redis, tenant, quota, passes).await
            }
            _ => None,
        };
        let (allowed, used) = match by_redis {
            Some(decided) => decided,
            None => self.month_alone(months, tenant, quota, passes).await,
        };
        let used = u64::try_from(used).unwrap_or(0);
        let level = Level::at(Limit::RequestsPerMonth, used, limits.requests_per_month, now);
        Some(Taken { allowed, level })
    }

    /// Counts what is owed and writes down what is known, until `stop` is cancelled; then both once more.
    pub async fn run(self, stop: CancellationToken) {
        let Some(months) = &self.0.months else { return };
        let mut rounds = 0_u32;
        while stop.run_until_cancelled(tokio::time::sleep(PAY_EVERY)).await.is_some() {
            rounds = (rounds + 1) % WRITE_EVERY;
            self.pay_months(months).await;
            if rounds == 0 {
                self.write_months(months).await;
            }
        }
        self.pay_months(months).await;
        self.write_months(months).await;
    }

    /// By what is known here, or by Redis. None when Redis does not answer.
    async fn month_by_redis(
        &self,
        months: &Months,
        redis: &ConnectionManager,
        tenant: TenantId,
        quota: Quota,
        passes: bool,
    ) -> Option<(bool, i64)> {
        let sent = self.0.now();
        match months.counts.with(tenant, |count| count.look(quota, passes, sent)) {
            Next::Here { allowed, used, first } => {
                if first {
                    months.owes(tenant, quota.month);
                }
                Some((allowed, used))
            }
            Next::Ask { owed, known } => {
                let asked = if passes { Asked::Anyway } else { Asked::Yes };
                let (month, limit) = (quota.month, quota.limit);
                let visit = Visit { tenant, month, limit, known, based: false, owed, asked };
                let told = self.counted(months, redis, visit).await;
                match told {
                    Some((_, used)) => months.learn(tenant, month, used, sent),
                    None => months.unpaid(tenant, month, owed),
                }
                told
            }
        }
    }

    /// One visit, and a second one when Redis has no such counter: with what is written down.
    async fn counted(&self, months: &Months, redis: &ConnectionManager, visit: Visit) -> Option<(bool, i64)> {
        let mut told = self.in_time(shared::visit(redis, visit)).await?;
        if told == Told::Unknown {
            let base = months.base(visit.tenant, visit.month).await.unwrap_or(0);
            let based = Visit { known: visit.known.max(base), based: true, ..visit };
            told = self.in_time(shared::visit(redis, based)).await?;
        }
        match told {
            Told::Counted { allowed, used } => Some((allowed, used)),
            Told::Unknown => None,
        }
    }

    async fn month_alone(
        &self,
        months: &Months,
        tenant: TenantId,
        quota: Quota,
        passes: bool,
    ) -> (bool, i64) {
        let (month, sent) = (quota.month, self.0.now());
        let known = months.counts.with(tenant, |count| {
            count.turn(month);
            count.told(month).is_some()
        });
        if !known && let Some(used) = months.base(tenant, month).await {
            months.learn(tenant, month, used, sent);
        }
        let (allowed, used, first) = months.counts.with(tenant, |count| count.alone(quota, passes));
        if first {
            months.owes(tenant, month);
        }
        (allowed, used)
    }

    /// Counts in Redis what was let through on trust. What cannot be counted now stays owed.
    async fn pay_months(&self, months: &Months) {
        let Some(redis) = &self.0.redis else { return };
        if self.0.breaker.is_open() {
            return;
        }
        let owing = std::mem::take(&mut *months.owing.lock());
        let visits: Vec<Visit> = owing
            .into_iter()
            .filter_map(|(tenant, month)| {
                // Nothing when it was counted meanwhile by a request that had to ask anyway.
                let (owed, known) = months.take_owed(tenant, month)?;
                Some(Visit { tenant, month, limit: None, known, based: false, owed, asked: Asked::No })
            })
            .collect();
        for some in visits.chunks(AT_ONCE) {
            let sent = self.0.now();
            let told = self.in_time(shared::visit_all(redis, some)).await;
            for (at, &visit) in some.iter().enumerate() {
                let counted = match told.as_ref().and_then(|told| told.get(at)) {
                    Some(&Told::Counted { used, .. }) => Some(used),
                    Some(Told::Unknown) => self.counted(months, redis, visit).await.map(|(_, used)| used),
                    None => None,
                };
                match counted {
                    Some(used) => months.learn(visit.tenant, visit.month, used, sent),
                    None => months.unpaid(visit.tenant, visit.month, visit.owed),
                }
            }
        }
    }

    async fn write_months(&self, months: &Months) {
        if self.is_local() {
            months.add(self.0.now()).await;
        }
        months.write(self.0.now()).await;
    }
}

/// The key of a tenant's counter.
#[cfg(feature = "testkit")]
pub fn key_of(tenant: TenantId, month: Month) -> String {
    shared::key_of(tenant, month)
}

/// Counts and writes down at once, for a test that does not wait.
#[cfg(feature = "testkit")]
pub async fn settle_now(limiter: &Limiter) {
    if let Some(months) = &limiter.0.months {
        limiter.pay_months(months).await;
        limiter.write_months(months).await;
    }
}
