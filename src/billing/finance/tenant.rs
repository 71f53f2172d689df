//! What a tenant sees of its own use: today, this period, and where it leads.

use chrono::{DateTime, Months, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::billing::customers;
use crate::billing::ledger::Aggregation;
use crate::billing::reconcile::midnight;
use crate::control_plane::plans::plan_by_id;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result};

/// Days in a plot.
const DAYS: i64 = 30;

/// One meter of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MeterUse {
    pub meter: String,
    pub name: String,
    pub unit: String,
    pub aggregation: Aggregation,
    pub today: i64,
    /// In the running period so far; the newest reading, where the newest counts.
    pub period: i64,
    /// At the period's end, if it goes on as so far.
    pub forecast: i64,
    /// What the plan holds without another charge.
    pub included: Option<i64>,
    pub unit_price_minor: Option<i64>,
    /// What it costs so far, and what the forecast would.
    pub amount_minor: Option<i64>,
    pub forecast_minor: Option<i64>,
    /// The last thirty days, this one last.
    pub days: Vec<i64>,
}

/// A tenant's use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TenantUse {
    pub tenant: TenantId,
    pub plan: String,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
    pub subscription: Option<String>,
    /// The running period is a trial: what is used in it is on no invoice, and costs nothing.
    pub trial: bool,
    pub currency: Option<String>,
    /// What the plan costs a month.
    pub monthly_minor: Option<i64>,
    pub meters: Vec<MeterUse>,
}

#[derive(sqlx::FromRow)]
struct Row {
    meter: String,
    name: String,
    unit: String,
    aggregation: Aggregation,
    day: Option<NaiveDate>,
    quantity: i64,
}

/// A tenant's use, from the ledger. The running period is the subscription's; without one, the calendar month.
pub async fn usage(conn: &mut PgConnection, tenant: TenantId, now: DateTime<Utc>) -> Result<TenantUse> {
    let subscription = customers::current(&mut *conn, tenant).await?;
    let running = subscription.as_ref().filter(|one| (one.period_start..one.period_end).contains(&now));
    let trial = running.is_some_and(|one| one.status == "trialing");
    let (from, to) = running.map_or_else(|| month_of(now), |one| (one.period_start, one.period_end));
    let plan: String = sqlx::query_scalar("SELECT plan FROM tenant WHERE id = $1")
        .bind(tenant)
        .fetch_one(&mut *conn)
        .await?;
    let plan = plan_by_id(&mut *conn, &plan)
        .await?
        .ok_or_else(|| Error::internal(format!("tenant {tenant} has a plan that there is not")))?;
    let first = midnight(now.date_naive()) - TimeDelta::days(DAYS - 1);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT m.id AS meter, m.name, m.unit, m.aggregation, e.day, coalesce(e.quantity, 0) AS quantity FROM meter m
           LEFT JOIN LATERAL (
                SELECT (occurred_at AT TIME ZONE 'UTC')::date AS day,
                       CASE m.aggregation WHEN 'sum' THEN sum(quantity)::bigint
                       ELSE (array_agg(quantity ORDER BY occurred_at DESC, id DESC))[1] END AS quantity
                  FROM usage_event
                 WHERE tenant = $1 AND meter = m.id AND occurred_at >= $2 AND occurred_at < $3 AND quarantined IS NULL
                 GROUP BY 1) e ON true
          ORDER BY m.id, e.day",
    )
    .bind(tenant)
    .bind(first.min(from))
    .bind(to.max(now))
    .fetch_all(&mut *conn)
    .await?;
    let mut meters: Vec<MeterUse> = Vec::new();
    for some in rows.chunk_by(|a, b| a.meter == b.meter) {
        let priced = plan.meter(&some[0].meter).map(|priced| (priced.included, priced.unit_price_minor));
        let use_of = meter_use(some, priced, trial, (from, to), now);
        let quiet = use_of.days.iter().all(|day| *day == 0) && use_of.period == 0;
        if priced.is_some() || !quiet {
            meters.push(use_of);
        }
    }
    Ok(TenantUse {
        tenant,
        period_start: from,
        period_end: to,
        subscription: subscription.map(|one| one.id),
        trial,
        currency: plan.price.as_ref().map(|price| price.currency.clone()),
        monthly_minor: plan.price.as_ref().map(|price| price.monthly_minor),
        plan: plan.name,
        meters,
    })
}

fn month_of(now: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
    use chrono::Datelike;
    let first = now.date_naive().with_day(1).unwrap_or(now.date_naive());
    (midnight(first), midnight(first.checked_add_months(Months::new(1)).unwrap_or(first)))
}

fn meter_use(
    rows: &[Row],
    priced: Option<(i64, i64)>,
    trial: bool,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
) -> MeterUse {
    let (head, today) = (&rows[0], now.date_naive());
    let by_day: Vec<(NaiveDate, i64)> =
        rows.iter().filter_map(|row| Some((row.day?, row.quantity))).collect();
    let on = |day: NaiveDate| by_day.iter().find(|(one, _)| *one == day).map(|(_, quantity)| *quantity);
    let window = (0..DAYS).rev().map(|back| today - TimeDelta::days(back));
    let inside = by_day.iter().filter(|(day, _)| (from.date_naive()..to.date_naive()).contains(day));
    let (days, period, forecast): (Vec<i64>, i64, i64) = match head.aggregation {
        Aggregation::Sum => {
            let period = inside.map(|(_, quantity)| quantity).sum();
            (window.map(|day| on(day).unwrap_or(0)).collect(), period, forecast(period, (from, to), now))
        }
        Aggregation::Last => {
            // A reading holds until the next one.
            let mut reading = by_day
                .iter()
                .rfind(|(day, _)| *day < today - TimeDelta::days(DAYS - 1))
                .map_or(0, |(_, q)| *q);
            let mut days = Vec::new();
            for day in window {
                reading = on(day).unwrap_or(reading);
                days.push(reading);
            }
            let newest = by_day.last().map_or(0, |(_, quantity)| *quantity);
            (days, newest, newest)
        }
    };
    let cost =
        |used: i64| priced.map(|(included, unit)| if trial { 0 } else { charge(used, included, unit) });
    MeterUse {
        meter: head.meter.clone(),
        name: head.name.clone(),
        unit: head.unit.clone(),
        aggregation: head.aggregation,
        today: days.last().copied().unwrap_or(0),
        period,
        forecast,
        included: priced.map(|(included, _)| included),
        unit_price_minor: priced.map(|(_, unit)| unit),
        amount_minor: cost(period),
        forecast_minor: cost(forecast),
        days,
    }
}

/// What is charged for a quantity.
pub fn charge(used: i64, included: i64, unit_minor: i64) -> i64 {
    used.saturating_sub(included).max(0).saturating_mul(unit_minor)
}

/// What a sum will be at the end of its period, if it goes on as so far. Of the first hours nothing is said.
fn forecast(so_far: i64, (from, to): (DateTime<Utc>, DateTime<Utc>), now: DateTime<Utc>) -> i64 {
    let (gone, whole) = ((now - from).num_seconds(), (to - from).num_seconds());
    if gone < 6 * 3600 || gone >= whole {
        return so_far;
    }
    let forecast = i128::from(so_far) * i128::from(whole) / i128::from(gone);
    i64::try_from(forecast).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_forecast_goes_on_as_so_far() {
        let month = month_of(at("2026-11-21T09:00:00Z"));
        assert_eq!(month, (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z")));
        assert_eq!(forecast(100, month, at("2026-11-11T00:00:00Z")), 300);
        assert_eq!(forecast(100, month, at("2026-11-01T01:00:00Z")), 100, "an hour says nothing");
        assert_eq!(forecast(100, month, at("2026-12-02T00:00:00Z")), 100);
    }

    #[test]
    fn what_is_included_costs_nothing() {
        assert_eq!([charge(900, 1000, 2), charge(1001, 1000, 2), charge(-5, 0, 2)], [0, 2, 0]);
        assert_eq!(charge(i64::MAX, 0, 5), i64::MAX);
    }

    #[test]
    fn a_reading_holds_until_the_next_and_a_sum_does_not() {
        let now = at("2026-11-21T09:00:00Z");
        let row = |aggregation, day: &str, quantity| Row {
            meter: "m".into(),
            name: "M".into(),
            unit: "u".into(),
            aggregation,
            day: Some(day.parse().unwrap()),
            quantity,
        };
        let rows = [row(Aggregation::Last, "2026-10-01", 3), row(Aggregation::Last, "2026-11-20", 5)];
        let seats = meter_use(&rows, Some((4, 100)), false, month_of(now), now);
        assert_eq!((seats.today, seats.period, seats.forecast, seats.amount_minor), (5, 5, 5, Some(100)));
        let trial = meter_use(&rows, Some((4, 100)), true, month_of(now), now);
        assert_eq!((trial.period, trial.amount_minor, trial.forecast_minor), (5, Some(0), Some(0)));
        assert_eq!((seats.days.len(), seats.days[0], seats.days[28], seats.days[29]), (30, 3, 5, 5));
        let rows = [row(Aggregation::Sum, "2026-10-31", 9), row(Aggregation::Sum, "2026-11-20", 5)];
        let tasks = meter_use(&rows, None, false, month_of(now), now);
        assert_eq!((tasks.today, tasks.period, tasks.amount_minor), (0, 5, None));
        assert_eq!((tasks.days[8], tasks.days[28]), (9, 5));
    }
}
