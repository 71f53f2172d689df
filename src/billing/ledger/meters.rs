//! What is counted. The product brings meters, and the platform its own; plans say what a unit costs.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::kernel::{Error, Result, codes};

/// How the facts of a period become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Aggregation {
    /// Each fact adds.
    Sum,
    /// The newest fact counts.
    Last,
}

impl Aggregation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Last => "last",
        }
    }

    /// The largest quantity of one fact, either way. What adds up must stay far from what 64 bits hold: nine million such
    /// facts in one window.
    pub const fn most(self) -> i64 {
        match self {
            Self::Sum => 1_000_000_000_000,
            Self::Last => 1_000_000_000_000_000,
        }
    }
}

/// Something that is counted. A product names its own in `Product::METERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// 2 to 31 of `a-z0-9_`, a letter first.
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// What one is: `task`, `byte`.
    pub unit: &'static str,
    pub aggregation: Aggregation,
}

/// Members, sampled when they change and at least daily.
pub const SEATS: Meter = Meter { id: "seats", name: "Seats", unit: "seat", aggregation: Aggregation::Last };
/// What a tenant's tables and indexes take up, sampled like seats.
pub const STORED_BYTES: Meter =
    Meter { id: "stored_bytes", name: "Stored bytes", unit: "byte", aggregation: Aggregation::Last };
/// Requests to `/api/…` that were let in.
pub const API_CALLS: Meter =
    Meter { id: "api_calls", name: "API calls", unit: "call", aggregation: Aggregation::Sum };

/// What the platform counts of any product.
pub const OF_PLATFORM: &[Meter] = &[SEATS, STORED_BYTES, API_CALLS];

/// A meter as the control database has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct MeterRow {
    pub id: String,
    pub name: String,
    pub unit: String,
    pub aggregation: Aggregation,
    /// The event name at Stripe.
    pub event_name: String,
}

/// Every meter, by id.
pub async fn meter_list(conn: &mut PgConnection) -> Result<Vec<MeterRow>> {
    Ok(sqlx::query_as("SELECT id, name, unit, aggregation, event_name FROM meter ORDER BY id")
        .fetch_all(conn)
        .await?)
}

/// Brings the control database to these meters, and to those of the platform. Others that are there stay: they may have
/// facts. Doing it again changes nothing.
///
/// # Errors
/// `state_conflict` for a meter that is added up otherwise than before: what was billed by it would change its meaning.
pub async fn meters_put(conn: &mut PgConnection, of_product: &[Meter]) -> Result<()> {
    let all = || OF_PLATFORM.iter().chain(of_product);
    let texts = |of: fn(&Meter) -> &'static str| all().map(of).collect::<Vec<&str>>();
    let other: Option<String> = sqlx::query_scalar(
        "WITH said AS (
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS s(id, name, unit, aggregation)),
         put AS (
             INSERT INTO meter (id, name, unit, aggregation, event_name)
             SELECT id, name, unit, aggregation, 'freehold_' || id FROM said ORDER BY id
             ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, unit = EXCLUDED.unit
              WHERE (meter.name, meter.unit) IS DISTINCT FROM (EXCLUDED.name, EXCLUDED.unit))
         SELECT said.id FROM said JOIN meter ON meter.id = said.id AND meter.aggregation <> said.aggregation LIMIT 1",
    )
    .bind(texts(|meter| meter.id))
    .bind(texts(|meter| meter.name))
    .bind(texts(|meter| meter.unit))
    .bind(texts(|meter| meter.aggregation.as_str()))
    .fetch_optional(conn)
    .await?;
    match other {
        None => Ok(()),
        Some(id) => Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("the meter {id} is added up in another way than before"))
            .hint("give the new one another id")),
    }
}
