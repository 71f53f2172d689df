//! Which batches Stripe does not have, when it counted less than was delivered for a day.
//!
//! Stripe lists no meter events. But it says what it counted between any two minutes, and a batch is alone in its minute but
//! for those that came late for the same window. So the day is halved until the minutes remain that differ, and a batch
//! counts as absent when the number leaves no other answer.
//!
//! Stripe counts with a delay. Nothing is proven of a minute while something for it was sent within [`SETTLED`]: neither for what
//! goes back by itself, nor for what a person asks about or sends again ([`super::settle`]).

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::class::absent;
use super::usage::{Account, MeterAtStripe};
use super::{OLDEST_SENT, SETTLED, ask, midnight};
use crate::billing::Billing;
use crate::billing::ledger::{Aggregation, BatchId};
use crate::billing::sender::decide;
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Questions about one day of one meter. Halving 288 windows takes 17 for one that is absent.
const QUESTIONS: usize = 200;

/// A batch that was sent.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Sent {
    pub id: BatchId,
    pub identifier: String,
    pub quantity: i64,
    pub state: String,
    pub minute: DateTime<Utc>,
    /// Delivered, as far as we know, and long enough ago to be counted.
    pub sure: bool,
    /// Nobody knows, or it was delivered a moment ago: the numbers of its minute prove nothing.
    pub open: bool,
    pub last_sent_at: Option<DateTime<Utc>>,
    /// It was put back once: what is absent again is for a person.
    pub requeued: bool,
    /// It was moved here, and Stripe may have it as of the moment before that.
    pub moved: bool,
}

impl Sent {
    /// Since when Stripe does not know its identifier any more. Sent before that, it is "delivered earlier" again, and not
    /// counted again.
    pub fn forgotten_at(&self) -> DateTime<Utc> {
        self.last_sent_at.map_or(DateTime::UNIX_EPOCH, |at| at + decide::REMEMBERED)
    }
}

/// What was sent of a meter between two moments, in the order of its minutes.
async fn sent_between(
    conn: &mut PgConnection,
    account: &Account,
    meter: &str,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
) -> Result<Vec<Sent>> {
    Ok(sqlx::query_as(
        "SELECT id, identifier, quantity, state, date_trunc('minute', event_at, 'UTC') AS minute,
                state = 'delivered' AND coalesce(settled_at <= $6, true) AS sure,
                state <> 'delivered' OR coalesce(settled_at > $6, false) AS open, last_sent_at,
                requeued_at IS NOT NULL AS requeued, moved_from IS NOT NULL AS moved
           FROM usage_batch
          WHERE tenant = $1 AND customer = $2 AND meter = $3 AND event_at >= $4 AND event_at < $5
            AND (state = 'delivered'
              OR state IN ('sending', 'unknown', 'quarantined', 'rejected') AND first_sent_at IS NOT NULL)
          ORDER BY minute, seq, id",
    )
    .bind(account.tenant)
    .bind(&account.customer)
    .bind(meter)
    .bind(from)
    .bind(to)
    .bind(now - SETTLED)
    .fetch_all(conn)
    .await?)
}

/// The batches of a day that are proven absent. No transaction is open while Stripe is asked.
///
/// # Errors
/// `payments_unavailable` when Stripe does not answer.
pub async fn absent_of_day(
    billing: &Billing,
    account: &Account,
    meter: &MeterAtStripe,
    day: NaiveDate,
    now: DateTime<Utc>,
) -> Result<Vec<Sent>> {
    let (from, to) = (midnight(day), midnight(day) + TimeDelta::days(1));
    let mut conn = billing.cp.db.acquire().await?;
    let sent = sent_between(&mut conn, account, &meter.meter, (from, to), now).await?;
    drop(conn);
    let minutes: Vec<&[Sent]> = sent.chunk_by(|a, b| a.minute == b.minute).collect();
    // Of a last value only the newest of the day shows in what is billed.
    let mut ranges: Vec<&[&[Sent]]> = match meter.aggregation {
        Aggregation::Sum => vec![&minutes[..]],
        Aggregation::Last => minutes.chunks(1).next_back().into_iter().collect(),
    };
    let (mut proven, mut asked) = (Vec::new(), 0);
    while let Some(range) = ranges.pop() {
        let (Some(first), Some(last)) = (range.first(), range.last()) else { continue };
        if asked == QUESTIONS {
            break;
        }
        asked += 1;
        let (begin, end) = (first[0].minute, last[0].minute + TimeDelta::minutes(1));
        let (id, customer) = (&meter.stripe_id, &account.customer);
        let counted = ask(|| billing.stripe.total_between(id, customer, begin, end)).await?;
        if let [minute] = range {
            proven.extend(absent_of_minute(meter.aggregation, minute, counted, now));
            continue;
        }
        let all = || range.iter().flat_map(|minute| minute.iter());
        let ours: i64 = all().filter(|one| one.sure).map(|one| one.quantity).sum();
        if counted.unwrap_or(0) != ours || all().any(|one| one.open) {
            let (early, late) = range.split_at(range.len() / 2);
            ranges.extend([early, late]);
        }
    }
    Ok(proven)
}

/// Whether Stripe's count of a minute holds all that was sent for it by now. Pure.
pub(super) fn is_counted(minute: &[Sent], now: DateTime<Utc>) -> bool {
    let lately = |one: &Sent| one.last_sent_at.is_some_and(|at| at > now - SETTLED);
    !minute.iter().any(|one| lately(one) || one.state == "sending" || one.open && one.state == "delivered")
}

/// The batches of a minute that are proven absent; none when something in it is open.
fn absent_of_minute(
    aggregation: Aggregation,
    minute: &[Sent],
    counted: Option<i64>,
    now: DateTime<Utc>,
) -> Vec<Sent> {
    if minute.iter().any(|one| one.open) || !is_counted(minute, now) {
        return Vec::new();
    }
    let quantities: Vec<i64> = minute.iter().map(|one| one.quantity).collect();
    let which = absent(aggregation, 0, &quantities, counted).unwrap_or_default();
    which.into_iter().map(|at| minute[at].clone()).collect()
}

/// What was sent in one minute, for [`super::settle`].
pub(super) async fn sent_in_minute(
    conn: &mut PgConnection,
    account: &Account,
    meter: &str,
    minute: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Vec<Sent>> {
    sent_between(conn, account, meter, (minute, minute + TimeDelta::minutes(1)), now).await
}

/// Puts a batch that is proven absent back into the queue: once in its life, and only while Stripe still takes its time. Its
/// next sending has another idempotency header, because Stripe replays saved answers for a day. One that Stripe took before
/// waits until Stripe has forgotten its identifier: see [`Sent::forgotten_at`].
pub(super) async fn requeue(
    conn: &mut PgConnection,
    tenant: TenantId,
    batch: &Sent,
    was: &str,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE usage_batch SET state = 'ready', delivered_via = NULL, settled_at = NULL, salt = salt + 1, not_before = $3,
                first_sent_at = NULL, leased_until = NULL, requeued_at = $3, error = 'Stripe does not have it; it is sent again'
          WHERE id = $1 AND state = $2 AND requeued_at IS NULL AND event_at > $4
            AND ($2 <> 'delivered' OR last_sent_at IS NULL OR last_sent_at <= $5)
            AND (leased_until IS NULL OR leased_until < $3)",
    )
    .bind(batch.id)
    .bind(was)
    .bind(now)
    .bind(now - OLDEST_SENT)
    .bind(now - decide::REMEMBERED)
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    let detail = json!({ "was": was, "quantity": batch.quantity });
    let caller = Caller::worker();
    audit_add(conn, &caller, now, "billing.batch.requeue", Some(tenant), &batch.identifier, detail).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(quantity: i64, open: bool) -> Sent {
        Sent {
            id: BatchId::new(),
            identifier: format!("ub:{quantity}"),
            quantity,
            state: if open { "unknown" } else { "delivered" }.to_owned(),
            minute: DateTime::UNIX_EPOCH,
            sure: !open,
            open,
            last_sent_at: None,
            requeued: false,
            moved: false,
        }
    }

    #[test]
    fn nothing_is_proven_beside_what_is_open() {
        let (sure, open) = (sent(5, false), sent(5, true));
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let of = |minute: &[Sent], counted| absent_of_minute(Aggregation::Sum, minute, counted, now).len();
        assert_eq!(of(std::slice::from_ref(&sure), Some(0)), 1);
        assert_eq!(of(std::slice::from_ref(&sure), Some(5)), 0);
        assert_eq!(of(&[sure, open], Some(0)), 0);
    }

    #[test]
    fn nothing_is_proven_of_what_was_sent_lately() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let ago = |age| Sent { last_sent_at: Some(now - age), ..sent(5, false) };
        let (old, young) = (ago(SETTLED), ago(SETTLED - TimeDelta::seconds(1)));
        assert!(is_counted(std::slice::from_ref(&old), now) && !is_counted(&[old, young.clone()], now));
        assert!(absent_of_minute(Aggregation::Sum, &[young], Some(0), now).is_empty());
    }
}
