//! Who sends what: a lane is one customer's one meter, and one sender at a time holds it. Every change of a batch names the
//! fencing number of the lane's holder, so that one whose lease ran out changes nothing any more.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::decide::{Before, Next, Via};
use crate::billing::ledger::finals::{DRAFT_FOR, final_periods, is_final};
use crate::billing::ledger::{Aggregation, BatchId, sealer, window};
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
    pub aggregation: Aggregation,
    /// Its moment lies in a period whose invoice takes nothing more.
    pub closed: bool,
    pub carried_forward: bool,
    /// It was moved by an attempt before, and Stripe may have it as of either moment.
    pub moved: bool,
    /// The moment that it was to be told for before [`carry`] moved it now, and whether it was carried forward then.
    #[sqlx(skip)]
    pub moved_from: Option<(DateTime<Utc>, bool)>,
}

/// What becomes of a batch that is not sent, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    Quarantined(&'static str),
    Void(&'static str),
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
    /// What was tried with it before this attempt.
    #[sqlx(skip)]
    pub before: Before,
    requeued: bool,
    #[sqlx(skip)]
    moved_from: Option<(DateTime<Utc>, bool)>,
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
    Ok(sqlx::query_as(concat!(
        "SELECT b.id, b.event_at, b.first_sent_at, m.aggregation, b.carried_forward, b.moved_from IS NOT NULL AS moved,
                EXISTS (SELECT FROM invoice i WHERE i.tenant = b.tenant AND i.period_start <= b.event_at
                           AND b.event_at < i.period_end AND ",
        is_final!("$5"),
        ") AS closed
           FROM usage_batch b JOIN meter m ON m.id = b.meter
          WHERE b.tenant = $1 AND b.meter = $2 AND b.state IN ('ready', 'sending', 'unknown') AND b.not_before <= $3
            AND (b.livemode IS NULL OR b.livemode = $4) AND (b.leased_until IS NULL OR b.leased_until <= $3)
          ORDER BY b.event_at, b.seq LIMIT 1"
    ))
    .bind(lane.tenant)
    .bind(&lane.meter)
    .bind(now)
    .bind(livemode)
    .bind(now - DRAFT_FOR)
    .fetch_optional(db)
    .await?)
}

/// Moves a batch that Stripe certainly does not have past the periods whose invoice takes nothing more: it was sealed while
/// there was room, and what is told there now is counted and never billed. [`begin`] writes the new moment down. Gives what becomes
/// of one that cannot be moved, and may not be sent either.
pub async fn carry(db: &PgPool, lane: &Lane, due: &mut Due, now: DateTime<Utc>) -> Result<Option<Stays>> {
    if !due.closed {
        return Ok(None);
    }
    if due.first_sent_at.is_some() {
        let why = "unknown, and its period's invoice is final by now: summaries will settle it";
        return Ok(Some(Stays::Quarantined(why)));
    }
    if due.aggregation == Aggregation::Last {
        // As the sealer does with one that comes so late.
        return Ok(Some(Stays::Void(
            "its period's invoice is final, and a reading says nothing of the next period",
        )));
    }
    let finals = final_periods(&mut *db.acquire().await?, lane.tenant, now).await?;
    let later = window::past(due.event_at, &finals);
    if later != due.event_at {
        due.moved_from = Some((due.event_at, due.carried_forward));
        (due.event_at, due.carried_forward) = (later, true);
    }
    Ok(None)
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
    let attempt: Option<Attempt> = sqlx::query_as(
        "WITH mine AS (
            UPDATE usage_lane SET leased_until = $1 WHERE tenant = $2 AND meter = $3 AND fence = $4 RETURNING 1
         )
         UPDATE usage_batch b
         SET state = 'sending', attempts = b.attempts + 1, livemode = $5, customer = COALESCE(b.customer, a.customer),
             first_sent_at = COALESCE(b.first_sent_at, $6), last_sent_at = $6, leased_until = $1, fence = $4,
             event_at = $8, carried_forward = $9, moved_from = COALESCE($10, b.moved_from)
         FROM billing_account a, meter m
         WHERE b.id = $7 AND a.tenant = b.tenant AND a.livemode = $5 AND m.id = b.meter
           AND b.state IN ('ready', 'sending', 'unknown') AND EXISTS (SELECT 1 FROM mine)
         RETURNING b.id, b.identifier, m.event_name, b.customer, b.quantity, b.event_at, b.attempts, b.salt,
             b.requeued_at IS NOT NULL AS requeued",
    )
    .bind(after(now, lease))
    .bind(lane.tenant)
    .bind(&lane.meter)
    .bind(lane.fence)
    .bind(livemode)
    .bind(now)
    .bind(due.id)
    .bind(due.event_at)
    .bind(due.carried_forward)
    .bind(due.moved_from.map(|(at, _)| at))
    .fetch_optional(db)
    .await?;
    Ok(attempt.map(|attempt| Attempt {
        before: Before { maybe: due.first_sent_at.is_some(), requeued: attempt.requeued, moved: due.moved },
        moved_from: due.moved_from,
        ..attempt
    }))
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
    let as_it_was = if attempt.before.maybe { "unknown" } else { "ready" };
    let (state, via, salt, wait, why): (&str, Option<Via>, bool, Duration, Option<&str>) = match next {
        Next::Delivered(via) => ("delivered", Some(*via), false, Duration::ZERO, None),
        Next::Rejected(why) => ("rejected", None, false, Duration::ZERO, Some(why)),
        Next::Doubtful(why) => ("quarantined", None, false, Duration::ZERO, Some(why)),
        Next::Again { wait, why } => (as_it_was, None, false, *wait, Some(why)),
        Next::Unknown { wait, salt, why } => ("unknown", None, *salt, *wait, Some(why)),
        Next::Halt(why) => (as_it_was, None, false, Duration::ZERO, Some(why)),
    };
    let settled = matches!(state, "delivered" | "rejected" | "quarantined").then_some(now);
    // What Stripe knows already it knows as of the moment that it was told then: the one before this attempt moved it. One that
    // an earlier attempt moved may be known as of either.
    let known = matches!(next, Next::Delivered(Via::Duplicate400) | Next::Doubtful(_));
    let moved_back = attempt.moved_from.filter(|_| known && !attempt.before.moved);
    let placed = state == "delivered" || moved_back.is_some();
    let done = sqlx::query(
        "UPDATE usage_batch
         SET state = $1, delivered_via = $2, salt = salt + $3, not_before = $4, error = $5, leased_until = NULL,
             settled_at = $6, first_sent_at = CASE WHEN $1 IN ('ready', 'rejected') THEN NULL ELSE first_sent_at END,
             event_at = COALESCE($9, event_at), carried_forward = COALESCE($10, carried_forward),
             moved_from = CASE WHEN $11 THEN NULL ELSE moved_from END
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
    .bind(moved_back.map(|(at, _)| at))
    .bind(moved_back.map(|(_, carried)| carried))
    .bind(placed)
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

/// Gives a batch up that Stripe certainly does not have, and that would change no bill.
pub async fn give_up(db: &PgPool, lane: &Lane, batch: Uuid, why: &str, now: DateTime<Utc>) -> Result<()> {
    let mut tx = db.begin().await?;
    let done = sqlx::query(
        "UPDATE usage_batch SET state = 'void', error = $1, leased_until = NULL, settled_at = $2, fence = $3
         WHERE id = $4 AND state IN ('ready', 'unknown') AND first_sent_at IS NULL
           AND EXISTS (SELECT 1 FROM usage_lane WHERE tenant = $5 AND meter = $6 AND fence = $3)",
    )
    .bind(why)
    .bind(now)
    .bind(lane.fence)
    .bind(batch)
    .bind(lane.tenant)
    .bind(&lane.meter)
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 1 {
        sealer::tell_of_corrections(&mut tx, &[BatchId(batch)], now).await?;
    }
    Ok(tx.commit().await?)
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
