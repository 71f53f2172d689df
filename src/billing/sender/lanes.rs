//! Who sends what: a lane is one customer's one meter, and one sender at a time holds it. Every change of a batch names the
//! fencing number of the lane's holder, so that one whose lease ran out changes nothing any more.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::decide::{Next, Via};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// How long a lane is held without news: longer than the longest call.
pub const LEASE: Duration = Duration::from_secs(60);

/// A lane that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    pub tenant: TenantId,
    pub meter: String,
    pub fence: i64,
}

/// A batch that may be sent next in a lane.
#[derive(Debug, sqlx::FromRow)]
pub struct Due {
    pub id: Uuid,
    pub event_at: DateTime<Utc>,
    /// Since when Stripe may have it. None: it certainly has not.
    pub first_sent_at: Option<DateTime<Utc>>,
}

/// A batch whose attempt is on record.
#[derive(Debug, sqlx::FromRow)]
pub struct Attempt {
    pub id: Uuid,
    pub identifier: String,
    pub event_name: String,
    pub customer: String,
    pub quantity: i64,
    pub event_at: DateTime<Utc>,
    pub attempts: i32,
    pub salt: i32,
    /// Whether Stripe may have it from an attempt before this one.
    pub maybe: bool,
}

fn after(now: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX)
}

/// Takes a lane in which something is due, if there is one that nobody holds. A tenant without a customer, and a meter that
/// Stripe does not have yet, wait.
pub async fn take(db: &PgPool, livemode: bool, now: DateTime<Utc>, lease: Duration) -> Result<Option<Lane>> {
    let free: Vec<(TenantId, String)> = sqlx::query_as(
        "SELECT b.tenant, b.meter
         FROM usage_batch b
         JOIN billing_account a ON a.tenant = b.tenant AND a.livemode = $1
         JOIN stripe_object o ON o.livemode = $1 AND o.kind = 'meter' AND o.name = 'meter:' || b.meter
         LEFT JOIN usage_lane l ON l.tenant = b.tenant AND l.meter = b.meter
         WHERE b.state IN ('ready', 'sending', 'unknown') AND b.not_before <= $2
           AND (b.livemode IS NULL OR b.livemode = $1)
           AND (b.leased_until IS NULL OR b.leased_until <= $2)
           AND (l.leased_until IS NULL OR l.leased_until <= $2)
         ORDER BY b.not_before, b.id LIMIT 32",
    )
    .bind(livemode)
    .bind(now)
    .fetch_all(db)
    .await?;
    let mut tried: Vec<&(TenantId, String)> = Vec::new();
    for lane in &free {
        if tried.contains(&lane) {
            continue;
        }
        tried.push(lane);
        if let Some(held) = hold(db, lane.0, &lane.1, now, lease).await? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// Takes this lane, if nobody holds it. Two who try meet at its row, and one of them gets it.
pub async fn hold(
    db: &PgPool,
    tenant: TenantId,
    meter: &str,
    now: DateTime<Utc>,
    lease: Duration,
) -> Result<Option<Lane>> {
    let fence: Option<i64> = sqlx::query_scalar(
        "INSERT INTO usage_lane (tenant, meter, leased_until, fence) VALUES ($1, $2, $3, nextval('usage_fence'))
         ON CONFLICT (tenant, meter) DO UPDATE SET leased_until = EXCLUDED.leased_until, fence = EXCLUDED.fence
            WHERE usage_lane.leased_until IS NULL OR usage_lane.leased_until <= $4
         RETURNING fence",
    )
    .bind(tenant)
    .bind(meter)
    .bind(after(now, lease))
    .bind(now)
    .fetch_optional(db)
    .await?;
    Ok(fence.map(|fence| Lane { tenant, meter: meter.to_owned(), fence }))
}

/// Lets a lane go.
pub async fn release(db: &PgPool, lane: &Lane) -> Result<()> {
    sqlx::query("UPDATE usage_lane SET leased_until = NULL WHERE tenant = $1 AND meter = $2 AND fence = $3")
        .bind(lane.tenant)
        .bind(&lane.meter)
        .bind(lane.fence)
        .execute(db)
        .await?;
    Ok(())
}

/// What is due next in a lane.
pub async fn next_due(db: &PgPool, lane: &Lane, livemode: bool, now: DateTime<Utc>) -> Result<Option<Due>> {
    Ok(sqlx::query_as(
        "SELECT id, event_at, first_sent_at FROM usage_batch
         WHERE tenant = $1 AND meter = $2 AND state IN ('ready', 'sending', 'unknown') AND not_before <= $3
           AND (livemode IS NULL OR livemode = $4) AND (leased_until IS NULL OR leased_until <= $3)
         ORDER BY event_at, seq LIMIT 1",
    )
    .bind(lane.tenant)
    .bind(&lane.meter)
    .bind(now)
    .bind(livemode)
    .fetch_optional(db)
    .await?)
}

/// Puts an attempt on record, before the call: whatever becomes of this process, others see that Stripe may have it. None
/// when the lane is another's by now. From the first attempt on, the customer and the mode stay what they are.
pub async fn begin(
    db: &PgPool,
    lane: &Lane,
    due: &Due,
    livemode: bool,
    now: DateTime<Utc>,
    lease: Duration,
) -> Result<Option<Attempt>> {
    Ok(sqlx::query_as(
        "WITH mine AS (
            UPDATE usage_lane SET leased_until = $1 WHERE tenant = $2 AND meter = $3 AND fence = $4 RETURNING 1
         )
         UPDATE usage_batch b
         SET state = 'sending', attempts = b.attempts + 1, livemode = $5, customer = COALESCE(b.customer, a.customer),
             first_sent_at = COALESCE(b.first_sent_at, $6), last_sent_at = $6, leased_until = $1, fence = $4
         FROM billing_account a, meter m
         WHERE b.id = $7 AND a.tenant = b.tenant AND a.livemode = $5 AND m.id = b.meter
           AND b.state IN ('ready', 'sending', 'unknown') AND EXISTS (SELECT 1 FROM mine)
         RETURNING b.id, b.identifier, m.event_name, b.customer, b.quantity, b.event_at, b.attempts, b.salt,
             $8::boolean AS maybe",
    )
    .bind(after(now, lease))
    .bind(lane.tenant)
    .bind(&lane.meter)
    .bind(lane.fence)
    .bind(livemode)
    .bind(now)
    .bind(due.id)
    .bind(due.first_sent_at.is_some())
    .fetch_optional(db)
    .await?)
}

/// Writes down what became of an attempt. False when the lane is another's by now: then nothing is changed, and the
/// other finds out by itself.
pub async fn record(
    db: &PgPool,
    lane: &Lane,
    attempt: &Attempt,
    next: &Next,
    now: DateTime<Utc>,
) -> Result<bool> {
    // Not taken this time; whether it was before, only an earlier attempt could say.
    let as_it_was = if attempt.maybe { "unknown" } else { "ready" };
    let (state, via, salt, wait, why): (&str, Option<Via>, bool, Duration, Option<&str>) = match next {
        Next::Delivered(via) => ("delivered", Some(*via), false, Duration::ZERO, None),
        Next::Rejected(why) => ("rejected", None, false, Duration::ZERO, Some(why)),
        Next::Again { wait, why } => (as_it_was, None, false, *wait, Some(why)),
        Next::Unknown { wait, salt, why } => ("unknown", None, *salt, *wait, Some(why)),
        Next::Halt(why) => (as_it_was, None, false, Duration::ZERO, Some(why)),
    };
    let settled = matches!(state, "delivered" | "rejected").then_some(now);
    let done = sqlx::query(
        "UPDATE usage_batch
         SET state = $1, delivered_via = $2, salt = salt + $3, not_before = $4, error = $5, leased_until = NULL,
             settled_at = $6, first_sent_at = CASE WHEN $1 = 'ready' THEN NULL ELSE first_sent_at END
         WHERE id = $7 AND fence = $8 AND state = 'sending'",
    )
    .bind(state)
    .bind(via)
    .bind(i32::from(salt))
    .bind(after(now, wait))
    .bind(why.map(|why| why.chars().take(500).collect::<String>()))
    .bind(settled)
    .bind(attempt.id)
    .bind(lane.fence)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets a batch aside that may not be sent.
pub async fn quarantine(
    db: &PgPool,
    lane: &Lane,
    batch: Uuid,
    why: &str,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE usage_batch SET state = 'quarantined', error = $1, leased_until = NULL, settled_at = $2, fence = $3
         WHERE id = $4 AND state IN ('ready', 'sending', 'unknown')
           AND EXISTS (SELECT 1 FROM usage_lane WHERE tenant = $5 AND meter = $6 AND fence = $3)",
    )
    .bind(why)
    .bind(now)
    .bind(lane.fence)
    .bind(batch)
    .bind(lane.tenant)
    .bind(&lane.meter)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// How long the oldest batch has waited that should be with Stripe and is not.
pub async fn oldest_undelivered(
    conn: &mut PgConnection,
    livemode: bool,
    now: DateTime<Utc>,
) -> Result<Option<TimeDelta>> {
    let sealed: Option<DateTime<Utc>> = sqlx::query_scalar(
        "SELECT min(b.sealed_at) FROM usage_batch b
         JOIN billing_account a ON a.tenant = b.tenant AND a.livemode = $1
         WHERE b.state IN ('ready', 'sending', 'unknown') AND (b.livemode IS NULL OR b.livemode = $1)",
    )
    .bind(livemode)
    .fetch_one(conn)
    .await?;
    Ok(sealed.map(|sealed| now - sealed))
}
