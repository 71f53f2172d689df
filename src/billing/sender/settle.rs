//! What stayed unknown for too long, settled by what Stripe counted: never sent again blindly. Of a customer, a meter and a
//! day, what Stripe counted less what is known to be delivered is what it has of the unknown.
//!
//! One that was moved past a final invoice may be counted as of the moment before that: where it is missing now, that one's day
//! is looked at too, before it is sent again.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::decide::COUNTED_AFTER;
use super::lanes::{self, Lane};
use super::{decide, orphans, watch};
use crate::billing::reconcile::midnight;
use crate::billing::stripe::Trouble;
use crate::billing::{Billing, incidents};
use crate::control_plane::audit::Caller;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

const DAYS_PER_ROUND: i64 = 200;
const LEASE: Duration = Duration::from_secs(60);
/// Sums that are looked at before a day is left to a person.
const SUMS_AT_MOST: usize = 100_000;
const BATCHES_AT_MOST: usize = 120;

/// What a day's numbers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stripe has none of them.
    Absent,
    /// Stripe has all of them.
    There,
    /// Stripe has some, and this one may be missing. Sent again, its answer tells more: if it was not missing, another of
    /// the same sum is.
    Resend(usize),
    /// No selection adds up: somebody has to look.
    Unexplained,
}

/// What `theirs`, Stripe's count without what is known to be delivered, says about the unknown `quantities`.
pub fn verdict(theirs: i64, quantities: &[i64]) -> Verdict {
    if theirs == 0 {
        return Verdict::Absent;
    }
    if Some(theirs) == quantities.iter().try_fold(0i64, |sum, quantity| sum.checked_add(*quantity)) {
        return Verdict::There;
    }
    if quantities.len() > BATCHES_AT_MOST {
        return Verdict::Unexplained;
    }
    // Every sum that some of them make, with one selection that makes it.
    let mut sums: HashMap<i64, u128> = HashMap::from([(0, 0)]);
    for (place, quantity) in quantities.iter().enumerate() {
        let more: Vec<(i64, u128)> = sums
            .iter()
            .filter_map(|(sum, picked)| Some((sum.checked_add(*quantity)?, *picked | (1u128 << place))))
            .collect();
        for (sum, picked) in more {
            sums.entry(sum).or_insert(picked);
        }
        if sums.len() > SUMS_AT_MOST {
            return Verdict::Unexplained;
        }
    }
    let missing =
        sums.get(&theirs).and_then(|picked| (0..quantities.len()).find(|place| (*picked >> place) & 1 == 0));
    missing.map_or(Verdict::Unexplained, Verdict::Resend)
}

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Stripe has them.
    pub delivered: u64,
    /// Stripe does not: they are sent again.
    pub requeued: u64,
    /// Days that are left to a person.
    pub unexplained: u64,
}

#[derive(Debug, sqlx::FromRow)]
struct Day {
    tenant: TenantId,
    meter: String,
    customer: String,
    aggregation: String,
    /// The meter at Stripe.
    at_stripe: String,
    day: DateTime<Utc>,
}

#[derive(Debug, sqlx::FromRow)]
struct Batch {
    id: Uuid,
    quantity: i64,
    state: String,
    event_at: DateTime<Utc>,
    /// Since when Stripe may have it.
    first_sent_at: Option<DateTime<Utc>>,
    last_sent_at: Option<DateTime<Utc>>,
    settled_at: Option<DateTime<Utc>>,
    requeued_at: Option<DateTime<Utc>>,
    /// The moment that it was to be told for before it was moved, while nobody knows which of the two Stripe has.
    moved_from: Option<DateTime<Utc>>,
}

impl Batch {
    /// Set aside, and Stripe may have it.
    fn unknown(&self) -> bool {
        self.state == "quarantined" && self.first_sent_at.is_some()
    }

    /// Whether sending it again tells more. One that Stripe knew and did not count, it has to forget first.
    fn may_be_sent(&self, now: DateTime<Utc>) -> bool {
        let forgotten = self.last_sent_at.is_none_or(|at| now - at >= decide::REMEMBERED);
        let known = self.requeued_at.is_some() || self.moved_from.is_some();
        now - self.event_at <= decide::OLDEST && (!known || forgotten)
    }
}

/// Settles what can be settled. Any number of processes may do it at once. Days that cannot be settled keep no others waiting: what
/// Stripe says of one is about that one, and which come first is left to chance.
///
/// # Errors
/// Of the control database, or when Stripe does not say what it counted.
pub async fn settle_unknown(billing: &Billing) -> Result<Settled> {
    settle_unknown_of(billing, None).await
}

/// The same, of one tenant only.
///
/// # Errors
/// As [`settle_unknown`].
pub async fn settle_unknown_of(billing: &Billing, only: Option<TenantId>) -> Result<Settled> {
    let mut settled = Settled::default();
    if !billing.settings.enabled() || !billing.breaker.is_open() {
        return Ok(settled);
    }
    let days: Vec<Day> = sqlx::query_as(
        "SELECT * FROM (
         SELECT DISTINCT b.tenant, b.meter, b.customer, m.aggregation, o.stripe_id AS at_stripe,
             date_trunc('day', b.event_at, 'UTC') AS day
         FROM usage_batch b
         JOIN meter m ON m.id = b.meter
         JOIN stripe_object o ON o.livemode = $1 AND o.kind = 'meter' AND o.name = 'meter:' || b.meter
         WHERE b.state = 'quarantined' AND b.first_sent_at IS NOT NULL AND b.livemode = $1 AND b.customer IS NOT NULL
           AND ($3::uuid IS NULL OR b.tenant = $3)
         ) days ORDER BY random() LIMIT $2",
    )
    .bind(billing.settings.livemode())
    .bind(DAYS_PER_ROUND)
    .bind(only)
    .fetch_all(&billing.cp.db)
    .await?;
    for day in days {
        let now = billing.cp.clock.now();
        // Whoever sends in this lane now, makes the numbers move.
        let Some(lane) = lanes::hold(&billing.cp.db, day.tenant, &day.meter, now, LEASE).await? else {
            continue;
        };
        let done = settle_day(billing, &lane, &day, &mut settled).await;
        lanes::release(&billing.cp.db, &lane).await?;
        match done {
            // An answer about this one says nothing of the others.
            Err(error) if is_of_one(&error) => {
                tracing::warn!(tenant = %day.tenant, meter = day.meter, ?error, "a day could not be settled");
                settled.unexplained += 1;
                let detail = json!({ "day": day.day, "stripe_said": error.to_string() });
                open_unsettled(billing, &day, detail).await?;
            }
            done => done?,
        }
    }
    Ok(settled)
}

async fn settle_day(billing: &Billing, lane: &Lane, day: &Day, settled: &mut Settled) -> Result<()> {
    let now = billing.cp.clock.now();
    let batches = batches_of(billing, day, day.day).await?;
    if moving(&batches, now) {
        return Ok(());
    }
    let unknown: Vec<&Batch> = batches.iter().filter(|batch| batch.unknown()).collect();
    let ids = |batches: &[&Batch]| batches.iter().map(|batch| batch.id).collect::<Vec<_>>();
    if day.aggregation == "last" {
        // Said again, the same value at the same time is the same value.
        return requeue(billing, lane, &unknown, settled).await;
    }
    let counted = match counted_on(billing, day, day.day).await {
        Err(error) if orphans::is_gone(&billing.stripe, &day.customer, &error).await? => {
            return for_another(billing, day, &ids(&unknown), settled).await;
        }
        counted => counted?,
    };
    let delivered = delivered_of(&batches);
    let quantities: Vec<i64> = unknown.iter().map(|batch| batch.quantity).collect();
    match verdict(counted - delivered, &quantities) {
        Verdict::There => {
            settled.delivered += deliver(billing, lane, &ids(&unknown)).await?;
            explained(billing, day).await?;
        }
        Verdict::Absent => {
            again(billing, lane, day, &unknown, settled).await?;
            if !unknown.iter().any(|batch| batch.moved_from.is_some()) {
                explained(billing, day).await?;
            }
        }
        Verdict::Resend(place) => again(billing, lane, day, &unknown[place..=place], settled).await?,
        Verdict::Unexplained => {
            settled.unexplained += 1;
            let detail = json!({ "day": day.day, "stripe_counted": counted, "delivered": delivered,
                "unknown": quantities.iter().take(20).collect::<Vec<_>>() });
            open_unsettled(billing, day, detail).await?;
        }
    }
    Ok(())
}

/// What was told for a customer that is gone goes to the one after it, whatever else of that day was counted.
async fn for_another(billing: &Billing, day: &Day, unknown: &[Uuid], settled: &mut Settled) -> Result<()> {
    let (worker, now) = (Caller::worker(), billing.cp.clock.now());
    let mut tx = billing.cp.db.begin().await?;
    let again = orphans::send_again(&mut tx, &worker, day.tenant, (&day.customer, unknown), now).await?;
    tx.commit().await?;
    settled.requeued += again.len() as u64;
    over(billing, &again).await?;
    if again.len() == unknown.len() {
        return explained(billing, day).await;
    }
    settled.unexplained += 1;
    let detail =
        json!({ "day": day.day, "customer_gone": day.customer, "batches": unknown.len() - again.len() });
    open_unsettled(billing, day, detail).await
}

/// What was sent, or is to be, for a day.
async fn batches_of(billing: &Billing, of: &Day, day: DateTime<Utc>) -> Result<Vec<Batch>> {
    Ok(sqlx::query_as(
        "SELECT id, quantity, state, event_at, first_sent_at, last_sent_at, settled_at, requeued_at, moved_from
           FROM usage_batch
          WHERE tenant = $1 AND meter = $2 AND customer = $3 AND event_at >= $4 AND event_at < $5
          ORDER BY event_at, seq",
    )
    .bind(of.tenant)
    .bind(&of.meter)
    .bind(&of.customer)
    .bind(day)
    .bind(day + TimeDelta::days(1))
    .fetch_all(&billing.cp.db)
    .await?)
}

/// Whether the numbers of these batches still change: something is on its way, or was there too lately to be counted. Pure.
fn moving(batches: &[Batch], now: DateTime<Utc>) -> bool {
    let lately = |at: Option<DateTime<Utc>>| at.is_some_and(|at| now - at < COUNTED_AFTER);
    batches.iter().any(|batch| match batch.state.as_str() {
        "sending" | "unknown" => true,
        "delivered" => batch.settled_at.is_none_or(|at| now - at < COUNTED_AFTER),
        _ => batch.unknown() && lately(batch.last_sent_at),
    })
}

fn delivered_of(batches: &[Batch]) -> i64 {
    batches.iter().filter(|batch| batch.state == "delivered").map(|batch| batch.quantity).sum()
}

/// Whether an answer is about this one customer or meter. Pure.
fn is_of_one(error: &Error) -> bool {
    error.cause::<Trouble>().is_some_and(Trouble::is_of_one)
}

/// What Stripe counted for a day.
async fn counted_on(billing: &Billing, of: &Day, day: DateTime<Utc>) -> Result<i64> {
    let (from, to) = (day, day + TimeDelta::days(1));
    match billing.stripe.summaries(&of.at_stripe, &of.customer, from, to).await {
        Ok(counted) => Ok(counted.iter().map(|summary| summary.value).sum()),
        Err(trouble) => {
            billing.breaker.saw::<()>(&Err(trouble.clone()));
            Err(Error::new(&codes::PAYMENTS_UNAVAILABLE).source(trouble))
        }
    }
}

/// Sends again what is missing where it was told last; but for what Stripe counts as of the moment before it was moved.
async fn again(
    billing: &Billing,
    lane: &Lane,
    day: &Day,
    absent: &[&Batch],
    settled: &mut Settled,
) -> Result<()> {
    let mut missing = Vec::new();
    for batch in absent {
        match batch.moved_from {
            None => missing.push(*batch),
            Some(former) => match at_former(billing, day, batch, former, settled).await? {
                Some(true) => settled.delivered += move_back(billing, lane, batch, former).await?,
                Some(false) => missing.push(*batch),
                None => {}
            },
        }
    }
    requeue(billing, lane, &missing, settled).await
}

/// Whether Stripe counts a batch as of a moment that it was to be told for before. None, and somebody is told, when that
/// day's numbers do not say; or do not say yet.
async fn at_former(
    billing: &Billing,
    of: &Day,
    batch: &Batch,
    former: DateTime<Utc>,
    settled: &mut Settled,
) -> Result<Option<bool>> {
    let day = midnight(former.date_naive());
    let batches = batches_of(billing, of, day).await?;
    if moving(&batches, billing.cp.clock.now()) {
        return Ok(None);
    }
    let others = batches.iter().any(|other| other.unknown() && other.id != batch.id);
    let more = counted_on(billing, of, day).await? - delivered_of(&batches);
    if !others && (more == 0 || more == batch.quantity) {
        return Ok(Some(more != 0));
    }
    settled.unexplained += 1;
    let detail = json!({ "batch": batch.id, "moved_from": former, "more_than_delivered": more });
    open_unsettled(billing, of, detail).await?;
    Ok(None)
}

/// Stripe has it as of the moment before it was moved.
async fn move_back(billing: &Billing, lane: &Lane, batch: &Batch, former: DateTime<Utc>) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE usage_batch SET state = 'delivered', delivered_via = 'summary_check', error = NULL, settled_at = $1,
             event_at = $2, moved_from = NULL,
             carried_forward = NOT ($2 >= window_start AND $2 < window_start + interval '5 minutes')
         WHERE id = $3 AND state = 'quarantined' AND moved_from = $2
           AND EXISTS (SELECT 1 FROM usage_lane WHERE tenant = $4 AND meter = $5 AND fence = $6)",
    )
    .bind(billing.cp.clock.now())
    .bind(former)
    .bind(batch.id)
    .bind(lane.tenant)
    .bind(&lane.meter)
    .bind(lane.fence)
    .execute(&billing.cp.db)
    .await?;
    over(billing, &[batch.id]).await?;
    Ok(done.rows_affected())
}

/// What a day's incident is about.
fn about(day: &Day) -> String {
    format!("{}:{}:{}", day.tenant, day.meter, day.day.format("%Y-%m-%d"))
}

/// The numbers of a day add up by now.
async fn explained(billing: &Billing, day: &Day) -> Result<()> {
    let mut conn = billing.cp.db.acquire().await?;
    let now = billing.cp.clock.now();
    incidents::settle(&mut conn, watch::kind::UNSETTLED, &about(day), "summaries", now).await.map(drop)
}

async fn open_unsettled(billing: &Billing, day: &Day, detail: serde_json::Value) -> Result<()> {
    let subject = about(day);
    let mut conn = billing.cp.db.acquire().await?;
    let now = billing.cp.clock.now();
    incidents::open(&mut conn, watch::kind::UNSETTLED, &subject, Some(day.tenant), detail, now)
        .await
        .map(drop)
}

async fn deliver(billing: &Billing, lane: &Lane, batches: &[Uuid]) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE usage_batch SET state = 'delivered', delivered_via = 'summary_check', error = NULL, settled_at = $1,
             moved_from = NULL
         WHERE id = ANY($2) AND state = 'quarantined'
           AND EXISTS (SELECT 1 FROM usage_lane WHERE tenant = $3 AND meter = $4 AND fence = $5)",
    )
    .bind(billing.cp.clock.now())
    .bind(batches)
    .bind(lane.tenant)
    .bind(&lane.meter)
    .bind(lane.fence)
    .execute(&billing.cp.db)
    .await?;
    over(billing, batches).await?;
    Ok(done.rows_affected())
}

/// Back in the queue, as if never sent: Stripe was seen not to have them. What Stripe would refuse by now stays with a person,
/// and what it would take for the first sending waits. What was sent for a customer that was deleted since is another event, for
/// the one that was made in its place: Stripe may know the first one's identifier.
async fn requeue(billing: &Billing, lane: &Lane, batches: &[&Batch], settled: &mut Settled) -> Result<()> {
    let now = billing.cp.clock.now();
    let ids: Vec<Uuid> =
        batches.iter().filter(|batch| batch.may_be_sent(now)).map(|batch| batch.id).collect();
    let done = sqlx::query(
        "UPDATE usage_batch b SET state = 'ready', first_sent_at = NULL, salt = salt + 1, not_before = $1,
             leased_until = NULL, settled_at = NULL, error = 'Stripe was seen not to have it: sent again',
             customer = CASE WHEN known.same THEN b.customer END,
             identifier = CASE WHEN known.same THEN b.identifier
                 ELSE regexp_replace(b.identifier, ':r[0-9]+$', '') || ':r' || b.attempts END
         FROM (SELECT u.id, EXISTS (SELECT FROM billing_account a WHERE a.tenant = u.tenant AND a.customer = u.customer) AS same
                 FROM usage_batch u WHERE u.id = ANY($2)) AS known
         WHERE b.id = known.id AND b.state = 'quarantined'
           AND EXISTS (SELECT 1 FROM usage_lane WHERE tenant = $3 AND meter = $4 AND fence = $5)",
    )
    .bind(now)
    .bind(&ids)
    .bind(lane.tenant)
    .bind(&lane.meter)
    .bind(lane.fence)
    .execute(&billing.cp.db)
    .await?;
    settled.requeued += done.rows_affected();
    over(billing, &ids).await
}

/// The incidents of these batches are over.
async fn over(billing: &Billing, batches: &[Uuid]) -> Result<()> {
    let mut conn = billing.cp.db.acquire().await?;
    for batch in batches {
        let now = billing.cp.clock.now();
        incidents::settle(&mut conn, watch::kind::QUARANTINED, &batch.to_string(), "summaries", now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_everything_are_plain() {
        assert_eq!(verdict(0, &[5, 7]), Verdict::Absent);
        assert_eq!(verdict(12, &[5, 7]), Verdict::There);
        assert_eq!(verdict(13, &[5, 7]), Verdict::Unexplained);
        assert_eq!(verdict(-5, &[5, 7]), Verdict::Unexplained);
        assert_eq!(verdict(1, &[]), Verdict::Unexplained);
    }

    #[test]
    fn of_some_one_that_is_missing_is_sent() {
        assert_eq!(verdict(5, &[5, 7]), Verdict::Resend(1));
        assert_eq!(verdict(7, &[5, 7]), Verdict::Resend(0));
        assert!(matches!(verdict(4, &[4, 4, 4]), Verdict::Resend(_)));
        assert_eq!(verdict(i64::MAX, &[i64::MAX, 1]), Verdict::Resend(1), "no overflow");
    }

    /// Whatever Stripe really has, and whether it still knows identifiers or counts them again: at the end it has the sum.
    #[test]
    fn it_ends_at_the_sum() {
        let quantities = [5, 5, 7, 12, 3];
        for there in 0u32..(1 << quantities.len()) {
            for remembers in [true, false] {
                let has = |place: usize| (there >> place) & 1 == 1;
                let mut stripe: i64 =
                    (0..quantities.len()).filter(|place| has(*place)).map(|p| quantities[p]).sum();
                let (mut open, mut delivered) = ((0..quantities.len()).collect::<Vec<_>>(), 0i64);
                let send = |place: usize, delivered: &mut i64, stripe: &mut i64| {
                    if !(remembers && has(place)) {
                        *stripe += quantities[place];
                    }
                    *delivered += quantities[place];
                };
                while !open.is_empty() {
                    let left: Vec<i64> = open.iter().map(|place| quantities[*place]).collect();
                    match verdict(stripe - delivered, &left) {
                        Verdict::There => delivered += left.iter().sum::<i64>(),
                        Verdict::Absent => {
                            for place in open.drain(..) {
                                send(place, &mut delivered, &mut stripe);
                            }
                            continue;
                        }
                        Verdict::Resend(index) => {
                            let place = open.remove(index);
                            send(place, &mut delivered, &mut stripe);
                            continue;
                        }
                        Verdict::Unexplained => panic!("{there:b}"),
                    }
                    open.clear();
                }
                let sum: i64 = quantities.iter().sum();
                assert_eq!((stripe, delivered), (sum, sum), "{there:b}, remembers: {remembers}");
            }
        }
    }
}
