//! One batch that a person asks about: Stripe's count of its minute says whether it arrived. One that did is delivered; one
//! that provably did not goes back into the queue, once. What the numbers leave open stays as it is.
//!
//! The sender settles what it set aside by itself, by whole days (`sender::settle`); this is for what that leaves.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::ask;
use super::class::absent;
use super::prove::{Sent, is_counted, requeue, sent_in_minute};
use super::usage::{Account, MeterAtStripe};
use crate::billing::Billing;
use crate::billing::ledger::{Aggregation, BatchId};
use crate::billing::sender::orphans;
use crate::billing::stripe::Trouble;
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result};

/// What became of a batch that a person asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Stripe has it.
    Delivered,
    /// Stripe does not have it; it is sent again.
    Requeued,
    /// The numbers do not say, or it is on its way this very moment.
    Unclear,
    /// It is to be void: another operator has to say so too.
    Asked,
}

/// Asks what Stripe counted in the minute of a batch, and settles the batch if that says what became of it.
///
/// # Errors
/// `payments_unavailable` when Stripe does not answer.
pub async fn settle_one(
    billing: &Billing,
    caller: &Caller,
    account: &Account,
    meter: &MeterAtStripe,
    (batch, minute): (BatchId, DateTime<Utc>),
) -> Result<Fate> {
    let now = billing.cp.clock.now();
    let (id, customer) = (&meter.stripe_id, &account.customer);
    let end = minute + TimeDelta::minutes(1);
    let counted = match ask(|| billing.stripe.total_between(id, customer, minute, end)).await {
        // A customer that Stripe does not know has nothing, and never will: its use goes to the one after it.
        Err(error) if orphans::is_gone(&billing.stripe, customer, &error).await? => {
            let mut tx = billing.cp.db.begin().await?;
            let one = (customer.as_str(), &[batch.0][..]);
            let again = orphans::send_again(&mut tx, caller, account.tenant, one, now).await?;
            tx.commit().await?;
            return Ok(if again.is_empty() { Fate::Unclear } else { Fate::Requeued });
        }
        Err(error) if is_missing(&error) => None,
        counted => counted?,
    };
    let mut tx = billing.cp.db.begin().await?;
    let sent = sent_in_minute(&mut tx, account, &meter.meter, minute, now).await?;
    let fate = match decide(meter.aggregation, &sent, counted) {
        _ if !is_counted(&sent, now) => Fate::Unclear,
        None => Fate::Unclear,
        Some(absent) => {
            let Some(one) = sent.iter().find(|one| one.id == batch && one.open) else {
                return Ok(Fate::Unclear);
            };
            let is_absent = absent.contains(&batch);
            if is_absent && one.moved {
                // Stripe may count it as of the moment before it was moved: the sender's own settling looks at both.
                return Ok(Fate::Unclear);
            }
            let done = match is_absent {
                true => requeue(&mut tx, account.tenant, one, &one.state, now).await?,
                false => arrived(&mut tx, caller, account.tenant, one, now).await?,
            };
            match (done, is_absent) {
                (true, true) => Fate::Requeued,
                (true, false) => Fate::Delivered,
                (false, _) => Fate::Unclear,
            }
        }
    };
    tx.commit().await?;
    Ok(fate)
}

/// Whether Stripe certainly does not count a batch, by the same proof. A customer that Stripe does not know has nothing.
///
/// # Errors
/// `payments_unavailable` when Stripe does not answer.
pub async fn is_absent(
    billing: &Billing,
    account: &Account,
    meter: &MeterAtStripe,
    (batch, minute): (BatchId, DateTime<Utc>),
) -> Result<bool> {
    let now = billing.cp.clock.now();
    let (id, customer) = (&meter.stripe_id, &account.customer);
    let end = minute + TimeDelta::minutes(1);
    let counted = match ask(|| billing.stripe.total_between(id, customer, minute, end)).await {
        Err(error) if is_missing(&error) => return Ok(true),
        counted => counted?,
    };
    let mut conn = billing.cp.db.acquire().await?;
    let sent = sent_in_minute(&mut conn, account, &meter.meter, minute, now).await?;
    let absent = decide(meter.aggregation, &sent, counted).unwrap_or_default();
    let moved = sent.iter().any(|one| one.id == batch && one.moved);
    Ok(is_counted(&sent, now) && absent.contains(&batch) && !moved)
}

fn is_missing(error: &Error) -> bool {
    error.cause::<Trouble>().is_some_and(Trouble::is_missing)
}

/// Of the open batches of a minute, those that are absent. None when the numbers do not say.
fn decide(aggregation: Aggregation, sent: &[Sent], counted: Option<i64>) -> Option<Vec<BatchId>> {
    let sure = sent.iter().filter(|one| !one.open).map(|one| one.quantity).sum();
    let open: Vec<&Sent> = sent.iter().filter(|one| one.open).collect();
    let quantities: Vec<i64> = open.iter().map(|one| one.quantity).collect();
    let which = absent(aggregation, sure, &quantities, counted)?;
    Some(which.into_iter().map(|at| open[at].id).collect())
}

/// It arrived: the summary holds it.
async fn arrived(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    batch: &Sent,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE usage_batch SET state = 'delivered', delivered_via = 'summary_check', settled_at = $2, error = NULL,
                leased_until = NULL, moved_from = NULL
          WHERE id = $1 AND state = $3 AND state IN ('quarantined', 'unknown', 'sending')
            AND (leased_until IS NULL OR leased_until < $2)",
    )
    .bind(batch.id)
    .bind(now)
    .bind(&batch.state)
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    let detail = json!({ "as": "delivered", "by": "summary", "quantity": batch.quantity });
    audit_add(conn, caller, now, "billing.batch.settle", Some(tenant), &batch.identifier, detail).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minute_s_count_says_which_arrived() {
        let sent = |quantity, open: bool| Sent {
            id: BatchId::new(),
            identifier: String::new(),
            quantity,
            state: String::new(),
            minute: DateTime::UNIX_EPOCH,
            sure: !open,
            open,
            last_sent_at: None,
            requeued: false,
            moved: false,
        };
        let minute = [sent(3, false), sent(5, true)];
        assert_eq!(decide(Aggregation::Sum, &minute, Some(8)), Some(vec![]));
        assert_eq!(decide(Aggregation::Sum, &minute, Some(3)), Some(vec![minute[1].id]));
        assert_eq!(decide(Aggregation::Sum, &minute, Some(4)), None);
        assert_eq!(decide(Aggregation::Sum, &minute, None), None, "what was sure is not there either");
    }
}
