//! What all tenants together used, day by day: for the desk.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::billing::ledger::Aggregation;
use crate::billing::reconcile::midnight;
use crate::kernel::Result;

/// Days in a plot.
const DAYS: i64 = 30;

/// One meter, of all tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterDays {
    pub meter: String,
    pub name: String,
    pub unit: String,
    /// The last thirty days, this one last. From sealed batches: what a tenant read last on a day, where the newest counts.
    pub days: Vec<i64>,
}

#[derive(sqlx::FromRow)]
struct Row {
    meter: String,
    name: String,
    unit: String,
    day: Option<NaiveDate>,
    quantity: i64,
}

/// Each meter's last thirty days.
pub async fn days_of_all(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<Vec<MeterDays>> {
    let today = now.date_naive();
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT m.id AS meter, m.name, m.unit, e.day, coalesce(e.quantity, 0) AS quantity FROM meter m
           LEFT JOIN LATERAL (
                SELECT day, sum(quantity)::bigint AS quantity FROM (
                    SELECT (event_at AT TIME ZONE 'UTC')::date AS day,
                           CASE m.aggregation WHEN $3 THEN sum(quantity)
                           ELSE (array_agg(quantity ORDER BY event_at DESC, seq DESC))[1]::numeric END AS quantity
                      FROM usage_batch WHERE meter = m.id AND event_at >= $1 AND event_at < $2 AND state <> 'void'
                     GROUP BY tenant, 1) AS each GROUP BY day) e ON true
          ORDER BY m.id, e.day",
    )
    .bind(midnight(today) - TimeDelta::days(DAYS - 1))
    .bind(midnight(today) + TimeDelta::days(1))
    .bind(Aggregation::Sum.as_str())
    .fetch_all(conn)
    .await?;
    let mut meters = Vec::new();
    for some in rows.chunk_by(|a, b| a.meter == b.meter) {
        let on = |day| some.iter().find(|row| row.day == Some(day)).map_or(0, |row| row.quantity);
        meters.push(MeterDays {
            meter: some[0].meter.clone(),
            name: some[0].name.clone(),
            unit: some[0].unit.clone(),
            days: (0..DAYS).rev().map(|back| on(today - TimeDelta::days(back))).collect(),
        });
    }
    Ok(meters)
}
