//! Reading the ledger back: batches, the facts in them, totals. For reconciliation, explanations, pages.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::meters::Aggregation;
use super::{BatchId, FactId};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// One sealed total.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Batch {
    pub id: BatchId,
    pub tenant: TenantId,
    pub meter: String,
    pub window_start: DateTime<Utc>,
    /// 0 for the first batch of a window, then one more each time that late facts came.
    pub seq: i32,
    pub quantity: i64,
    pub facts: i32,
    /// What Stripe tells copies by.
    pub identifier: String,
    /// The moment that Stripe is told.
    pub event_at: DateTime<Utc>,
    /// `ready`, `sending`, `delivered`, `unknown`, `rejected`, `quarantined` or `void`.
    pub state: String,
    pub delivered_via: Option<String>,
    pub livemode: Option<bool>,
    pub customer: Option<String>,
    pub attempts: i32,
    pub carried_forward: bool,
    pub error: Option<String>,
    pub sealed_at: DateTime<Utc>,
    pub settled_at: Option<DateTime<Utc>>,
}

macro_rules! select_batch {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, meter, window_start, seq, quantity, facts, identifier, event_at, state, delivered_via, \
             livemode, customer, attempts, carried_forward, error, sealed_at, settled_at FROM usage_batch ",
            $rest
        )
    };
}

pub async fn batch_by_id(conn: &mut PgConnection, id: BatchId) -> Result<Option<Batch>> {
    Ok(sqlx::query_as(select_batch!("WHERE id = $1")).bind(id).fetch_optional(conn).await?)
}

pub async fn batch_by_identifier(conn: &mut PgConnection, identifier: &str) -> Result<Option<Batch>> {
    Ok(sqlx::query_as(select_batch!("WHERE identifier = $1")).bind(identifier).fetch_optional(conn).await?)
}

/// A tenant's batches that Stripe is told as of `from..to`, oldest first; of one meter, or of all.
pub async fn batches_told(
    conn: &mut PgConnection,
    tenant: TenantId,
    meter: Option<&str>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Batch>> {
    Ok(sqlx::query_as(select_batch!(
        "WHERE tenant = $1 AND ($2::text IS NULL OR meter = $2) AND event_at >= $3 AND event_at < $4
         ORDER BY event_at, meter, seq LIMIT $5"
    ))
    .bind(tenant)
    .bind(meter)
    .bind(from)
    .bind(to)
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

/// One fact as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct FactLine {
    pub id: FactId,
    pub tenant: TenantId,
    pub meter: String,
    pub source: String,
    pub key: String,
    pub quantity: i64,
    pub occurred_at: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub batch: Option<BatchId>,
    /// Why it is kept aside, if it is.
    pub quarantined: Option<String>,
    /// Of a correction: the fact it corrects, why, who asked, who agreed.
    pub corrects: Option<FactId>,
    pub reason: Option<String>,
    pub actor: Option<String>,
    pub approved_by: Option<String>,
}

macro_rules! select_fact {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, meter, source, key, quantity, occurred_at, received_at, batch, quarantined, corrects, reason, \
             actor, approved_by FROM usage_event ",
            $rest
        )
    };
}

/// The facts of a batch in the order in which they happened, after `after` if that is given. At most `limit`.
pub async fn facts_of_batch(
    conn: &mut PgConnection,
    batch: BatchId,
    after: Option<(DateTime<Utc>, FactId)>,
    limit: i64,
) -> Result<Vec<FactLine>> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(select_fact!(
        "WHERE batch = $1 AND ($2::timestamptz IS NULL OR (occurred_at, id) > ($2, $3)) ORDER BY occurred_at, id LIMIT $4"
    ))
    .bind(batch)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

/// One fact, wherever it is.
pub async fn fact_by_id(conn: &mut PgConnection, id: FactId) -> Result<Option<FactLine>> {
    Ok(sqlx::query_as(select_fact!("WHERE id = $1")).bind(id).fetch_optional(conn).await?)
}

/// What a tenant used of a meter. Where facts add up, these are quantities; where the newest counts, they are numbers of
/// facts, since such quantities do not add. `sum` is what the facts say, `sealed` what the batches say: two countings, and
/// `sum = sealed + open`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Total {
    pub tenant: TenantId,
    pub meter: String,
    pub aggregation: Aggregation,
    pub sum: i64,
    pub sealed: i64,
    pub open: i64,
    /// Kept aside; in none of the others.
    pub quarantined: i64,
    /// The newest reading, where the newest counts.
    pub last: Option<i64>,
}

/// Totals of every tenant and meter with use in `from..to`, both at multiples of five minutes: batches are counted by their
/// windows.
pub async fn totals(conn: &mut PgConnection, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Vec<Total>> {
    totals_of(conn, None, from, to).await
}

/// The same, of one tenant.
pub async fn totals_of(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Vec<Total>> {
    Ok(sqlx::query_as(
        "WITH said AS (
             SELECT e.tenant, e.meter,
                    sum(CASE m.aggregation WHEN 'sum' THEN e.quantity ELSE 1 END) FILTER (WHERE e.quarantined IS NULL) AS sum,
                    sum(CASE m.aggregation WHEN 'sum' THEN e.quantity ELSE 1 END)
                        FILTER (WHERE e.quarantined IS NULL AND e.batch IS NULL) AS open,
                    sum(CASE m.aggregation WHEN 'sum' THEN e.quantity ELSE 1 END) FILTER (WHERE e.quarantined IS NOT NULL)
                        AS quarantined,
                    (array_agg(e.quantity ORDER BY e.occurred_at DESC, e.id DESC)
                        FILTER (WHERE m.aggregation = 'last' AND e.quarantined IS NULL))[1] AS last
               FROM usage_event e JOIN meter m ON m.id = e.meter
              WHERE e.occurred_at >= $1 AND e.occurred_at < $2 AND ($3::uuid IS NULL OR e.tenant = $3)
              GROUP BY e.tenant, e.meter),
         sealed AS (
             SELECT b.tenant, b.meter, sum(CASE m.aggregation WHEN 'sum' THEN b.quantity ELSE b.facts END) AS sealed
               FROM usage_batch b JOIN meter m ON m.id = b.meter
              WHERE b.window_start >= $1 AND b.window_start < $2 AND ($3::uuid IS NULL OR b.tenant = $3)
              GROUP BY b.tenant, b.meter)
         SELECT tenant, meter, m.aggregation, coalesce(said.sum, 0)::int8 AS sum, coalesce(sealed.sealed, 0)::int8 AS sealed,
                coalesce(said.open, 0)::int8 AS open, coalesce(said.quarantined, 0)::int8 AS quarantined, said.last
           FROM said FULL JOIN sealed USING (tenant, meter) JOIN meter m ON m.id = meter
          ORDER BY tenant, meter",
    )
    .bind(from)
    .bind(to)
    .bind(tenant)
    .fetch_all(conn)
    .await?)
}
