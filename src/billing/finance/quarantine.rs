//! Batches that wait for a person: Stripe refused them, or nobody knows whether it has them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::billing::ledger::{Batch, BatchId, batch_by_id, batch_by_identifier};
use crate::billing::reconcile::settle::{Fate, is_absent, settle_one};
use crate::billing::reconcile::usage::{Account, MeterAtStripe, meters_at_stripe};
use crate::billing::reconcile::{OLDEST_SENT, require_stripe};
use crate::billing::sender::watch::kind;
use crate::billing::{Billing, incidents};
use crate::control_plane::approvals::person_of;
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::OperatorId;
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result, codes};

/// Which of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct QuarantineFilter {
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Batches that were refused or set aside, oldest first.
///
/// # Errors
/// `invalid_fields`; `bad_cursor`.
pub async fn quarantine_list(conn: &mut PgConnection, filter: &QuarantineFilter) -> Result<Page<Batch>> {
    let limit = page::limit(filter.limit)?;
    let after: Option<(DateTime<Utc>, String)> = filter.cursor.as_deref().map(page::decode).transpose()?;
    let rows = sqlx::query_as(
        "SELECT id, tenant, meter, window_start, seq, quantity, facts, identifier, event_at, state, delivered_via, livemode,
                customer, attempts, carried_forward, error, sealed_at, settled_at FROM usage_batch
          WHERE state IN ('rejected', 'quarantined') AND ($1::timestamptz IS NULL OR (sealed_at, identifier) > ($1, $2))
          ORDER BY sealed_at, identifier LIMIT $3",
    )
    .bind(after.as_ref().map(|(at, _)| *at))
    .bind(after.as_ref().map(|(_, id)| id.as_str()))
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await?;
    Ok(Page::build(rows, limit, |batch: &Batch| (batch.sealed_at, batch.identifier.clone())))
}

/// What to do with a batch that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SettleAs {
    /// Ask what Stripe counted in its minute: delivered, sent again, or left as it is.
    Check,
    /// Send one again that Stripe refused: what was wrong is put right. One that Stripe took first, and then said that it could
    /// not count, two hours after it was sent, and only when the count of its minute shows that.
    Resend,
    /// Stripe has it: somebody saw it there.
    Delivered,
    /// It is never sent, and never billed. Takes two operators: each settles it as void.
    Void,
}

impl SettleAs {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Resend => "resend",
            Self::Delivered => "delivered",
            Self::Void => "void",
        }
    }
}

/// How to settle a batch.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SettleBatch)]
pub struct Settle {
    #[garde(skip)]
    pub r#as: SettleAs,
    /// For the audit log.
    #[garde(length(chars, min = 3, max = 500))]
    #[schema(example = "the customer was restored at Stripe")]
    pub reason: String,
}

/// A batch after it was settled, or not.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SettledBatch)]
pub struct Settled {
    pub fate: Option<Fate>,
    pub batch: Batch,
}

/// Settles a batch that waits, by its identifier.
///
/// # Errors
/// `not_found`; `state_conflict` for one that does not wait, and for what its state does not allow; `payments_unavailable`.
pub async fn quarantine_settle(
    billing: &Billing,
    caller: &Caller,
    identifier: &str,
    how: &Settle,
) -> Result<Settled> {
    let batch = batch_of(&mut *billing.cp.db.acquire().await?, identifier).await?;
    let fate = match how.r#as {
        SettleAs::Check => Some(check(billing, caller, &batch).await?),
        _ => by_hand(billing, caller, &batch, how).await?,
    };
    let mut conn = billing.cp.db.acquire().await?;
    if !matches!(fate, Some(Fate::Unclear | Fate::Asked)) {
        let now = billing.cp.clock.now();
        for kind in [kind::QUARANTINED, kind::REJECTED] {
            for subject in [batch.id.to_string(), batch.id.0.to_string(), batch.identifier.clone()] {
                incidents::settle(&mut conn, kind, &subject, &caller.actor, now).await?;
            }
        }
    }
    Ok(Settled { fate, batch: batch_again(&mut conn, batch.id).await? })
}

/// The same batch, whatever it is called by now.
async fn batch_again(conn: &mut PgConnection, id: BatchId) -> Result<Batch> {
    batch_by_id(conn, id).await?.ok_or_else(|| Error::internal(format!("no batch {id} any more")))
}

async fn batch_of(conn: &mut PgConnection, identifier: &str) -> Result<Batch> {
    batch_by_identifier(conn, identifier).await?.ok_or_else(|| {
        Error::new(&codes::NOT_FOUND)
            .detail(format!("there is no batch {identifier}"))
            .hint("see them with: freehold billing quarantine list")
    })
}

fn conflict(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(&codes::STATE_CONFLICT).detail(why)
}

async fn check(billing: &Billing, caller: &Caller, batch: &Batch) -> Result<Fate> {
    if !matches!(batch.state.as_str(), "quarantined" | "unknown") {
        return Err(conflict(format!("the batch is {}: there is nothing to find out", batch.state)));
    }
    let (account, meter, minute) = whereabouts(billing, batch).await?;
    settle_one(billing, caller, &account, &meter, (batch.id, minute)).await
}

/// Where Stripe counts a batch that was sent.
async fn whereabouts(billing: &Billing, batch: &Batch) -> Result<(Account, MeterAtStripe, DateTime<Utc>)> {
    require_stripe(billing)?;
    let livemode = billing.settings.livemode();
    let Some(customer) = batch.customer.clone().filter(|_| batch.livemode == Some(livemode)) else {
        return Err(conflict("it was never sent in this mode: Stripe cannot have it")
            .hint("settle it as resend or void"));
    };
    let meters = meters_at_stripe(&mut *billing.cp.db.acquire().await?, livemode).await?;
    let Some(meter) = meters.into_iter().find(|meter| meter.meter == batch.meter) else {
        return Err(conflict(format!("the meter {} is not at Stripe", batch.meter)));
    };
    let account = Account { tenant: batch.tenant, customer };
    let minute: DateTime<Utc> = sqlx::query_scalar("SELECT date_trunc('minute', $1::timestamptz, 'UTC')")
        .bind(batch.event_at)
        .fetch_one(&billing.cp.db)
        .await?;
    Ok((account, meter, minute))
}

/// What Stripe took and counts would be counted twice: sent again by hand, it is another event.
///
/// # Errors
/// `state_conflict` unless Stripe was asked, and does not count it.
async fn require_absent(billing: &Billing, batch: &Batch) -> Result<()> {
    let (account, meter, minute) = whereabouts(billing, batch).await?;
    if is_absent(billing, &account, &meter, (batch.id, minute)).await? {
        return Ok(());
    }
    Err(conflict(
        "Stripe took it, and its count of the minute does not show that it is missing: either it is there, or something for \
         that minute was sent within two hours, and may not be counted yet",
    )
    .hint("try again later; settle it as delivered if Stripe's count holds it"))
}

/// Which state a batch may be put into, and which states it may be in for that. Pure. `sent`: Stripe may have it.
fn allowed(how: SettleAs, sent: bool) -> (&'static str, &'static [&'static str]) {
    match (how, sent) {
        // What may have arrived is never sent again by hand: that is what `check` is for.
        (SettleAs::Resend, true) => ("ready", &["rejected"]),
        (SettleAs::Resend, false) => ("ready", &["rejected", "quarantined"]),
        (SettleAs::Delivered, _) => ("delivered", &["rejected", "quarantined"]),
        (SettleAs::Void | SettleAs::Check, _) => ("void", &["rejected", "quarantined"]),
    }
}

/// Whether a second operator agrees that a batch is void. If not, it is noted who asked, or stands for it.
async fn void_agreed(
    conn: &mut PgConnection,
    caller: &Caller,
    batch: &Batch,
    how: &Settle,
    now: DateTime<Utc>,
) -> Result<bool> {
    let person = person_of(&mut *conn, &caller.actor).await?;
    let detail = json!({ "reason": how.reason, "quantity": batch.quantity });
    let asked = sqlx::query(
        "INSERT INTO usage_void (batch, reason, asked_by, asked_person, asked_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (batch) DO NOTHING",
    )
    .bind(batch.id)
    .bind(&how.reason)
    .bind(&caller.actor)
    .bind(person)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    if asked.rows_affected() == 1 {
        // Whoever lists what waits sees it.
        sqlx::query(
            "UPDATE usage_batch SET error = left('to be void, if another operator agrees: ' || $2 || coalesce('; ' || error, ''), 500)
              WHERE id = $1",
        )
        .bind(batch.id)
        .bind(&how.reason)
        .execute(&mut *conn)
        .await?;
        let action = "billing.batch.void_ask";
        audit_add(conn, caller, now, action, Some(batch.tenant), &batch.identifier, detail).await?;
        return Ok(false);
    }
    let (by, stands): (String, Option<OperatorId>) =
        sqlx::query_as("SELECT asked_by, asked_person FROM usage_void WHERE batch = $1 FOR UPDATE")
            .bind(batch.id)
            .fetch_one(&mut *conn)
            .await?;
    let Some(person) = person.filter(|person| by != caller.actor && stands != Some(*person)) else {
        return Ok(false);
    };
    if stands.is_none() {
        sqlx::query("UPDATE usage_void SET asked_person = $2 WHERE batch = $1")
            .bind(batch.id)
            .bind(person)
            .execute(&mut *conn)
            .await?;
        let action = "billing.batch.void_stand_for";
        audit_add(conn, caller, now, action, Some(batch.tenant), &batch.identifier, detail).await?;
        return Ok(false);
    }
    sqlx::query(
        "UPDATE usage_void SET decided_by = $2, decided_person = $3, decided_at = $4 WHERE batch = $1",
    )
    .bind(batch.id)
    .bind(&caller.actor)
    .bind(person)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(true)
}

async fn by_hand(billing: &Billing, caller: &Caller, batch: &Batch, how: &Settle) -> Result<Option<Fate>> {
    let now = billing.cp.clock.now();
    type Times = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);
    let (first_sent_at, last_sent_at): Times =
        sqlx::query_as("SELECT first_sent_at, last_sent_at FROM usage_batch WHERE id = $1")
            .bind(batch.id)
            .fetch_one(&billing.cp.db)
            .await?;
    let sent_at = first_sent_at.and(last_sent_at);
    let (to, from) = allowed(how.r#as, sent_at.is_some());
    if !from.contains(&batch.state.as_str()) {
        return Err(conflict(format!(
            "the batch is {} and was sent {} times: it cannot be settled as {}",
            batch.state,
            batch.attempts,
            how.r#as.as_str()
        )));
    }
    if to == "ready" && batch.event_at <= now - OLDEST_SENT {
        return Err(conflict("Stripe takes no usage that is older than 35 days")
            .hint("ask for a correction with a later moment: freehold billing correct ask"));
    }
    if to == "ready" && sent_at.is_some() {
        require_absent(billing, batch).await?;
    }
    let mut tx = billing.cp.db.begin().await?;
    if how.r#as == SettleAs::Void {
        if !void_agreed(&mut tx, caller, batch, how, now).await? {
            tx.commit().await?;
            return Ok(Some(Fate::Asked));
        }
    } else {
        // Whoever asked for that asked about what it was then.
        sqlx::query("DELETE FROM usage_void WHERE batch = $1").bind(batch.id).execute(&mut *tx).await?;
    }
    // Sent again, it is another event for whoever is the tenant's customer by then: Stripe may have taken the first one, and
    // said later that it could not count it. The same identifier would then be "delivered earlier", and never counted.
    let done = sqlx::query(
        "UPDATE usage_batch SET state = $2, delivered_via = CASE $2 WHEN 'delivered' THEN 'manual' END,
                settled_at = CASE $2 WHEN 'ready' THEN NULL ELSE $3::timestamptz END, salt = salt + 1, not_before = $3,
                leased_until = NULL, error = $4,
                customer = CASE $2 WHEN 'ready' THEN NULL ELSE customer END,
                first_sent_at = CASE $2 WHEN 'ready' THEN NULL ELSE first_sent_at END,
                moved_from = NULL,
                identifier = CASE WHEN $2 = 'ready' AND attempts > 0
                    THEN regexp_replace(identifier, ':r[0-9]+$', '') || ':r' || attempts ELSE identifier END
          WHERE id = $1 AND state = $5 AND last_sent_at IS NOT DISTINCT FROM $6",
    )
    .bind(batch.id)
    .bind(to)
    .bind(now)
    .bind(format!("settled as {}: {}", how.r#as.as_str(), how.reason))
    .bind(&batch.state)
    .bind(last_sent_at)
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Err(conflict("the batch has changed meanwhile; look again"));
    }
    let detail =
        json!({ "as": how.r#as, "was": batch.state, "reason": how.reason, "quantity": batch.quantity });
    audit_add(&mut tx, caller, now, "billing.batch.settle", Some(batch.tenant), &batch.identifier, detail)
        .await?;
    tx.commit().await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_arrived_is_not_sent_again_by_hand() {
        assert!(!allowed(SettleAs::Resend, true).1.contains(&"quarantined"));
        assert!(allowed(SettleAs::Resend, false).1.contains(&"quarantined"));
        assert!(allowed(SettleAs::Resend, true).1.contains(&"rejected"));
        for how in [SettleAs::Delivered, SettleAs::Void, SettleAs::Resend] {
            assert!(!allowed(how, false).1.contains(&"delivered"), "what is settled stays");
        }
    }
}
