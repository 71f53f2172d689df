//! The worker's side of the inbox. Events of one object are worked on in turn, and together: the object is asked for once.
//!
//! Two workers never have one object: each takes its lane first, a row, and only then looks at the events. (Looking first
//! and locking then let two overlap in a trial.) What a worker that fell silent still writes is older than what its
//! successor writes, and changes nothing (see `customers`).

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream::{StreamExt, iter};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::apply;
use crate::billing::Billing;
use crate::billing::incidents::{self, kind};
use crate::billing::stripe::Trouble;
use crate::control_plane::audit::{Caller, audit_add};
use crate::jobs::backoff::Backoff;
use crate::kernel::{Error, Result, codes};

/// An event that failed this often waits for a person.
pub const MAX_ATTEMPTS: i32 = 8;
pub(super) const READY: &str = "ready";
pub(super) const IGNORED: &str = "ignored";

/// Objects worked on side by side.
const AT_ONCE: usize = 4;
/// Objects looked for in one round.
const A_ROUND: i64 = 200;
/// Events of one object taken together.
const TOGETHER: i64 = 200;
/// How long a worker may have an object. What it asks of Stripe takes far less.
const LEASE_SECONDS: f64 = 120.0;
/// While Stripe is away its events wait, and no attempt is counted.
const AWAY: TimeDelta = TimeDelta::seconds(30);
/// Between a failed attempt and the next.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(256));

/// An event that this worker has.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Taken {
    pub event_id: String,
    #[sqlx(rename = "type")]
    pub kind: String,
    pub object: Option<String>,
    pub api_version: Option<String>,
    pub payload: Option<Value>,
    pub attempts: i32,
}

/// Works off what is due. Says how many events were done.
///
/// # Errors
/// When the control database does not answer; what goes wrong with an event is recorded with it.
pub async fn work_off(billing: &Billing) -> Result<usize> {
    let mut done = 0;
    loop {
        let lanes = due(billing).await?;
        if lanes.is_empty() {
            return Ok(done);
        }
        let worked: Vec<Result<usize>> =
            iter(lanes).map(|lane| work_on(billing, lane)).buffer_unordered(AT_ONCE).collect().await;
        let mut round = 0;
        for outcome in worked {
            round += outcome?;
        }
        done += round;
        // What is left is somebody else's, or failed and waits.
        if round == 0 {
            return Ok(done);
        }
    }
}

/// Objects with events that are due, the one that waits longest first.
async fn due(billing: &Billing) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT coalesce(object, event_id) FROM webhook_inbox
          WHERE state = 'ready' AND not_before <= $1 AND livemode = $2
          GROUP BY 1 ORDER BY min(received_at) LIMIT $3",
    )
    .bind(billing.cp.clock.now())
    .bind(billing.settings.livemode())
    .bind(A_ROUND)
    .fetch_all(&billing.cp.db)
    .await?)
}

async fn work_on(billing: &Billing, lane: String) -> Result<usize> {
    let Some(fence) = enter(billing, &lane).await? else { return Ok(0) };
    let outcome = work_in(billing, &lane).await;
    // A lane that cannot be given back runs out.
    leave(billing, &lane, fence).await?;
    outcome
}

async fn work_in(billing: &Billing, lane: &str) -> Result<usize> {
    let events = take(billing, lane).await?;
    if events.is_empty() {
        return Ok(0);
    }
    match apply::apply(billing, &events).await {
        Ok(()) => {
            close(billing, &events).await?;
            Ok(events.len())
        }
        Err(error) => {
            put_back(billing, &events, &error).await?;
            Ok(0)
        }
    }
}

/// Takes an object's lane; none when somebody has it.
async fn enter(billing: &Billing, lane: &str) -> Result<Option<i64>> {
    Ok(sqlx::query_scalar(
        "INSERT INTO webhook_lane AS l (object, fence, leased_until)
         VALUES ($1, nextval('usage_fence'), clock_timestamp() + make_interval(secs => $2))
         ON CONFLICT (object) DO UPDATE SET fence = EXCLUDED.fence, leased_until = EXCLUDED.leased_until
          WHERE l.leased_until < clock_timestamp()
         RETURNING fence",
    )
    .bind(lane)
    .bind(LEASE_SECONDS)
    .fetch_optional(&billing.cp.db)
    .await?)
}

async fn leave(billing: &Billing, lane: &str, fence: i64) -> Result<()> {
    sqlx::query("DELETE FROM webhook_lane WHERE object = $1 AND fence = $2")
        .bind(lane)
        .bind(fence)
        .execute(&billing.cp.db)
        .await?;
    Ok(())
}

/// The object's events that are due, oldest first. The attempt is counted before it is made: one that ends the process
/// is one as well.
async fn take(billing: &Billing, lane: &str) -> Result<Vec<Taken>> {
    Ok(sqlx::query_as(
        "WITH due AS (
           SELECT livemode, event_id FROM webhook_inbox
            WHERE state = 'ready' AND not_before <= $1 AND livemode = $2 AND coalesce(object, event_id) = $3
            ORDER BY happened_at, event_id LIMIT $4),
         taken AS (
           UPDATE webhook_inbox i SET attempts = i.attempts + 1 FROM due
            WHERE i.livemode = due.livemode AND i.event_id = due.event_id
           RETURNING i.event_id, i.type, i.object, i.api_version, i.payload, i.attempts, i.happened_at)
         SELECT event_id, type, object, api_version, payload, attempts FROM taken ORDER BY happened_at, event_id",
    )
    .bind(billing.cp.clock.now())
    .bind(billing.settings.livemode())
    .bind(lane)
    .bind(TOGETHER)
    .fetch_all(&billing.cp.db)
    .await?)
}

fn ids(events: &[Taken]) -> Vec<String> {
    events.iter().map(|event| event.event_id.clone()).collect()
}

async fn close(billing: &Billing, events: &[Taken]) -> Result<()> {
    sqlx::query(
        "UPDATE webhook_inbox SET state = 'done', done_at = $3, error = NULL
          WHERE livemode = $1 AND event_id = ANY($2)",
    )
    .bind(billing.settings.livemode())
    .bind(ids(events))
    .bind(billing.cp.clock.now())
    .execute(&billing.cp.db)
    .await?;
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for event in events {
        *kinds.entry(event.kind.as_str()).or_default() += 1;
    }
    for (kind, count) in kinds {
        metrics::counter!("webhooks_worked_total", "type" => kind.to_owned()).increment(count);
    }
    Ok(())
}

/// Whether the trouble is Stripe's, and passes by itself.
fn is_away(error: &Error) -> bool {
    error.is(&codes::CONTROL_UNAVAILABLE)
        || error
            .cause::<Trouble>()
            .is_some_and(|trouble| trouble.passes() || matches!(trouble, Trouble::Key { .. }))
}

async fn put_back(billing: &Billing, events: &[Taken], error: &Error) -> Result<()> {
    let now = billing.cp.clock.now();
    let said = format!("{error:?}");
    let said: String = said.chars().take(1000).collect();
    let away = is_away(error);
    let mut tx = billing.cp.db.begin().await?;
    for event in events {
        let dead = !away && event.attempts >= MAX_ATTEMPTS;
        let after =
            if away { AWAY } else { TimeDelta::from_std(AGAIN.after(event.attempts)).unwrap_or(AWAY) };
        sqlx::query(
            "UPDATE webhook_inbox SET state = $3, attempts = attempts - $4, not_before = $5, error = $6
              WHERE livemode = $1 AND event_id = $2 AND state = 'ready'",
        )
        .bind(billing.settings.livemode())
        .bind(&event.event_id)
        .bind(if dead { "dead" } else { READY })
        .bind(i32::from(away))
        .bind(now + after)
        .bind(&said)
        .execute(&mut *tx)
        .await?;
        if dead {
            metrics::counter!("webhooks_dead_total").increment(1);
            let detail = json!({ "type": event.kind, "object": event.object, "error": said });
            incidents::open(&mut tx, kind::DEAD, &event.event_id, None, detail, now).await?;
        }
    }
    tracing::warn!(
        object = events[0].object,
        events = events.len(),
        away,
        error = said,
        "not applied; again later"
    );
    Ok(tx.commit().await?)
}

/// Puts a dead event, or one that is done, back to work.
///
/// # Errors
/// `not_found` for one that there is not, or that cannot be read.
pub async fn replay(billing: &Billing, caller: &Caller, event: &str) -> Result<()> {
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    let put = replay_in(&mut tx, billing.settings.livemode(), event, now).await?;
    if !put {
        return Err(
            Error::new(&codes::NOT_FOUND).detail(format!("there is no event {event} that can be read"))
        );
    }
    incidents::settle(&mut tx, kind::DEAD, event, &caller.actor, now).await?;
    audit_add(&mut tx, caller, now, "billing.replay", None, event, json!({})).await?;
    Ok(tx.commit().await?)
}

async fn replay_in(conn: &mut PgConnection, livemode: bool, event: &str, now: DateTime<Utc>) -> Result<bool> {
    let put = sqlx::query(
        "UPDATE webhook_inbox SET state = 'ready', attempts = 0, not_before = $3, error = NULL, done_at = NULL
          WHERE livemode = $1 AND event_id = $2 AND payload IS NOT NULL",
    )
    .bind(livemode)
    .bind(event)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(put.rows_affected() == 1)
}
