//! Stripe's own lists of events, gone through for what never came. Both reach back thirty days.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::about::about;
use super::door::{insert, is_data, keep_unreadable};
use super::read::{moment, read};
use super::{Shape, signature};
use crate::billing::Billing;
use crate::billing::incidents::{self, kind};
use crate::kernel::{Error, Result};

/// How far Stripe's lists reach.
const REACH: TimeDelta = TimeDelta::days(30);
/// Looked through again each time: what happened may appear in a list a little later.
const AGAIN: TimeDelta = TimeDelta::hours(1);
/// What is done with is kept for longer than it is listed; then nothing asks for it, and it holds names and addresses.
const KEPT: TimeDelta = TimeDelta::days(35);
/// Events that are forgotten in one statement.
const FORGOTTEN_AT_ONCE: i64 = 5_000;
/// An event this young may still be on its way.
const YOUNG: TimeDelta = TimeDelta::seconds(signature::TOLERANCE);

/// Looks through both lists since the last time. Says how many events were missing; finding one is an incident, but for
/// the first time, which finds what happened before there was an endpoint.
///
/// # Errors
/// When Stripe or the control database does not answer; the next one looks as far back.
pub async fn sweep(billing: &Billing) -> Result<usize> {
    forget(billing).await?;
    Ok(through(billing, Shape::Snapshot).await? + through(billing, Shape::Thin).await?)
}

/// Removes what is long done with. What failed stays until somebody has seen to it.
async fn forget(billing: &Billing) -> Result<()> {
    loop {
        let gone = sqlx::query(
            "DELETE FROM webhook_inbox WHERE (livemode, event_id) IN (
                 SELECT livemode, event_id FROM webhook_inbox
                  WHERE state IN ('done', 'ignored') AND received_at < $1 ORDER BY received_at LIMIT $2)",
        )
        .bind(billing.cp.clock.now() - KEPT)
        .bind(FORGOTTEN_AT_ONCE)
        .execute(&billing.cp.db)
        .await?;
        if gone.rows_affected() < FORGOTTEN_AT_ONCE as u64 {
            return Ok(());
        }
    }
}

async fn through(billing: &Billing, shape: Shape) -> Result<usize> {
    let now = billing.cp.clock.now();
    let before = seen_to(&mut *billing.cp.db.acquire().await?, billing, shape).await?;
    let since = before.map_or(now - REACH, |seen| (seen - AGAIN).max(now - REACH));
    let listed = match shape {
        Shape::Snapshot => billing.stripe.events_since(since).await?,
        Shape::Thin => billing.stripe.thin_events_since(since).await?,
    };
    let mut found = Vec::new();
    for event in listed.iter().filter(|event| is_missing_candidate(event, now)) {
        let text = event.to_string();
        let Ok(read) = read(text.as_bytes()) else { continue };
        if read.livemode != billing.settings.livemode() || is_there(billing, &read.id).await? {
            continue;
        }
        // It may have come this very moment: then that counts as one more delivery, and is no gap.
        let stored = match insert(billing, shape, &read, &text, "sweep", now).await {
            // JSON that no column can hold: kept as it is, by its name, so that the next sweep finds it.
            Err(error) if is_data(&error) => {
                keep_unreadable(billing, shape, &read.id, text.as_bytes(), &error.to_string(), now).await?
            }
            stored => stored.map_err(Error::from)?,
        };
        if stored == 1 {
            found.push(json!({ "event": read.id, "type": read.kind }));
        }
    }
    let mut tx = billing.cp.db.begin().await?;
    sqlx::query(
        "INSERT INTO webhook_sweep (livemode, shape, seen_to) VALUES ($1, $2, $3)
         ON CONFLICT (livemode, shape) DO UPDATE SET seen_to = greatest(webhook_sweep.seen_to, EXCLUDED.seen_to)",
    )
    .bind(billing.settings.livemode())
    .bind(shape)
    .bind(now - YOUNG)
    .execute(&mut *tx)
    .await?;
    if before.is_some() && !found.is_empty() {
        let some: Vec<&Value> = found.iter().take(20).collect();
        let detail = json!({ "count": found.len(), "some": some, "since": since });
        incidents::open(&mut tx, kind::GAP, shape.as_str(), None, detail, now).await?;
    }
    tx.commit().await?;
    metrics::counter!("webhook_gaps_total", "endpoint" => shape.as_str()).increment(found.len() as u64);
    Ok(found.len())
}

/// Something that we would work on, and that is not still on its way.
fn is_missing_candidate(event: &Value, now: DateTime<Utc>) -> bool {
    let ours = event["type"].as_str().is_some_and(|kind| about(kind).is_some());
    ours && moment(&event["created"]).is_none_or(|at| at <= now - YOUNG)
}

async fn seen_to(conn: &mut PgConnection, billing: &Billing, shape: Shape) -> Result<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar("SELECT seen_to FROM webhook_sweep WHERE livemode = $1 AND shape = $2")
        .bind(billing.settings.livemode())
        .bind(shape)
        .fetch_optional(conn)
        .await?)
}

async fn is_there(billing: &Billing, event: &str) -> Result<bool> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM webhook_inbox WHERE livemode = $1 AND event_id = $2)")
        .bind(billing.settings.livemode())
        .bind(event)
        .fetch_one(&billing.cp.db)
        .await?)
}
