//! L3: what was delivered for a day, and what Stripe counted for it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use super::class::{Class, DayAtHome, Level, Signed, of_day};
use super::runs::{Found, Span};
use super::{SETTLED, ask};
use crate::billing::Billing;
use crate::billing::ledger::Aggregation;
use crate::billing::stripe::Summary;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// A tenant as Stripe knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub tenant: TenantId,
    pub customer: String,
}

/// A meter as Stripe knows it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct MeterAtStripe {
    pub meter: String,
    pub aggregation: Aggregation,
    /// `mtr_…`
    pub stripe_id: String,
}

/// The meters that were brought to Stripe in this mode.
pub async fn meters_at_stripe(conn: &mut PgConnection, livemode: bool) -> Result<Vec<MeterAtStripe>> {
    Ok(sqlx::query_as(
        "SELECT m.id AS meter, m.aggregation, o.stripe_id FROM meter m
           JOIN stripe_object o ON o.kind = 'meter' AND o.name = 'meter:' || m.id AND o.livemode = $1 ORDER BY m.id",
    )
    .bind(livemode)
    .fetch_all(conn)
    .await?)
}

#[derive(sqlx::FromRow)]
struct DayRow {
    meter: String,
    day: NaiveDate,
    delivered: Option<i64>,
    fresh_more: i64,
    fresh_less: i64,
    is_fresh: bool,
    in_flight_more: i64,
    in_flight_less: i64,
    is_in_flight: bool,
}

/// What we delivered, by meter and day.
async fn days_at_home(
    conn: &mut PgConnection,
    account: &Account,
    span: Span,
    now: DateTime<Utc>,
) -> Result<BTreeMap<(String, NaiveDate), DayAtHome>> {
    let rows: Vec<DayRow> = sqlx::query_as(
        "SELECT b.meter, (b.event_at AT TIME ZONE 'UTC')::date AS day,
                CASE m.aggregation WHEN 'sum' THEN (sum(b.quantity) FILTER (WHERE b.state = 'delivered'))::bigint
                ELSE (array_agg(b.quantity ORDER BY b.event_at DESC, b.seq DESC) FILTER (WHERE b.state = 'delivered'))[1]
                END AS delivered,
                coalesce(sum(b.quantity) FILTER (WHERE b.fresh AND b.quantity > 0), 0)::bigint AS fresh_more,
                coalesce(sum(-b.quantity) FILTER (WHERE b.fresh AND b.quantity < 0), 0)::bigint AS fresh_less,
                coalesce(bool_or(b.fresh), false) AS is_fresh,
                coalesce(sum(b.quantity) FILTER (WHERE b.in_flight AND b.quantity > 0), 0)::bigint AS in_flight_more,
                coalesce(sum(-b.quantity) FILTER (WHERE b.in_flight AND b.quantity < 0), 0)::bigint AS in_flight_less,
                coalesce(bool_or(b.in_flight), false) AS is_in_flight
           FROM (SELECT *, state = 'delivered' AND coalesce(settled_at > $5, false) AS fresh,
                        state IN ('sending', 'unknown') AS in_flight FROM usage_batch) b
           JOIN meter m ON m.id = b.meter
          WHERE b.tenant = $1 AND b.customer = $2 AND b.event_at >= $3 AND b.event_at < $4
          GROUP BY b.meter, m.aggregation, day",
    )
    .bind(account.tenant)
    .bind(&account.customer)
    .bind(span.from)
    .bind(span.to)
    .bind(now - SETTLED)
    .fetch_all(conn)
    .await?;
    let home = |row: DayRow| {
        let fresh = Signed { more: row.fresh_more, less: row.fresh_less };
        let in_flight = Signed { more: row.in_flight_more, less: row.in_flight_less };
        let DayRow { meter, day, delivered, is_fresh, is_in_flight, .. } = row;
        ((meter, day), DayAtHome { delivered, fresh, is_fresh, in_flight, is_in_flight })
    };
    Ok(rows.into_iter().map(home).collect())
}

/// A day that differs.
#[derive(Clone, Debug)]
pub struct Day {
    pub found: Found,
    pub meter: MeterAtStripe,
    pub day: NaiveDate,
}

/// Asks Stripe for each meter's days, keeps the answers for reports, and names what differs.
///
/// # Errors
/// `payments_unavailable` when Stripe does not answer.
pub async fn days(
    billing: &Billing,
    account: &Account,
    meters: &[MeterAtStripe],
    span: Span,
    now: DateTime<Utc>,
) -> Result<Vec<Day>> {
    let home = days_at_home(&mut *billing.cp.db.acquire().await?, account, span, now).await?;
    let mut differ = Vec::new();
    for meter in meters {
        let (id, customer) = (&meter.stripe_id, &account.customer);
        let counted: Vec<Summary> =
            ask(|| billing.stripe.summaries(id, customer, span.from, span.to)).await?;
        let theirs: BTreeMap<NaiveDate, i64> =
            counted.iter().map(|row| (row.from.date_naive(), row.value)).collect();
        keep(&mut *billing.cp.db.acquire().await?, account, meter, span, &theirs, now).await?;
        let mine = home.keys().filter(|(name, _)| *name == meter.meter).map(|(_, day)| *day);
        let all: BTreeSet<NaiveDate> = mine.chain(theirs.keys().copied()).collect();
        for day in all {
            let nothing = DayAtHome::default();
            let at_home = home.get(&(meter.meter.clone(), day)).unwrap_or(&nothing);
            let counted = theirs.get(&day).copied();
            let Some(class) = of_day(meter.aggregation, at_home, counted) else { continue };
            let found = named(account, meter, day, at_home, counted, class);
            differ.push(Day { found, meter: meter.clone(), day });
        }
    }
    Ok(differ)
}

fn named(
    account: &Account,
    meter: &MeterAtStripe,
    day: NaiveDate,
    home: &DayAtHome,
    theirs: Option<i64>,
    class: Class,
) -> Found {
    let mut detail = format!("customer {}", account.customer);
    if home.is_fresh {
        detail += &format!(", {} delivered within two hours", home.fresh.sum());
    }
    if home.is_in_flight {
        detail += &format!(", {} on its way", home.in_flight.sum());
    }
    Found {
        level: Level::L3,
        meter: Some(meter.meter.clone()),
        subject: format!("{}:{}:{day}", account.tenant, meter.meter),
        ours: home.delivered.unwrap_or(0),
        theirs: theirs.unwrap_or(0),
        class,
        detail,
    }
}

/// Writes down what Stripe counted; days that it no longer has go.
async fn keep(
    conn: &mut PgConnection,
    account: &Account,
    meter: &MeterAtStripe,
    span: Span,
    theirs: &BTreeMap<NaiveDate, i64>,
    now: DateTime<Utc>,
) -> Result<()> {
    let livemode: bool = sqlx::query_scalar("SELECT livemode FROM billing_account WHERE tenant = $1")
        .bind(account.tenant)
        .fetch_one(&mut *conn)
        .await?;
    let (days, values): (Vec<NaiveDate>, Vec<i64>) = theirs.iter().map(|(day, value)| (*day, *value)).unzip();
    sqlx::query(
        "WITH gone AS (DELETE FROM reconcile_summary WHERE livemode = $1 AND tenant = $2 AND meter = $3
                          AND day >= ($4 AT TIME ZONE 'UTC')::date AND day < ($5 AT TIME ZONE 'UTC')::date
                          AND NOT day = ANY($6))
         INSERT INTO reconcile_summary (livemode, tenant, meter, day, value, asked_at)
         SELECT $1, $2, $3, said.day, said.value, $8 FROM unnest($6::date[], $7::bigint[]) AS said(day, value)
         ON CONFLICT (livemode, tenant, meter, day) DO UPDATE SET value = EXCLUDED.value, asked_at = EXCLUDED.asked_at",
    )
    .bind(livemode)
    .bind(account.tenant)
    .bind(&meter.meter)
    .bind(span.from)
    .bind(span.to)
    .bind(days)
    .bind(values)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}
