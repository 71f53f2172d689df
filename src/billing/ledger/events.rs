//! One fact, recorded once. The only file that adds rows to `usage_event`. Two things are set later, once: `batch` by the
//! sealer, and who asked for a correction and agreed to it.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::dedupe::{self, Part};
use super::meters::Aggregation;
use super::{FactId, late};
use crate::db::error::violated;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// The longest key, in characters.
pub const KEY_MAX: usize = 200;

/// What was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub tenant: TenantId,
    pub meter: Arc<str>,
    /// Who says so: `outbox:<shard>`, `api_calls:<replica>`, `sampler`, `correction`.
    pub source: Arc<str>,
    /// Tells it from all other facts of this tenant and source. 1 to 200 characters.
    pub key: String,
    pub quantity: i64,
    pub occurred_at: DateTime<Utc>,
    /// When we heard of it, by the control plane's clock: [`late`] compares the two.
    pub received_at: DateTime<Utc>,
}

/// What came of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the ledger now.
    New(FactId),
    /// It was there: this is the one.
    Same(FactId),
    /// Its key belongs to a fact that says something else. Nothing was recorded.
    Other,
}

/// Records a fact in the caller's transaction. Said again, it is the same fact and gets the same answer, also when several
/// say it at once.
///
/// # Errors
/// `invalid_fields` for an unknown meter, a quantity that is negative or too large for its meter, or a key of a wrong length;
/// `idempotency_conflict` when the key was used for something else.
pub async fn record(conn: &mut PgConnection, fact: &Fact) -> Result<Recorded> {
    let aggregation = aggregation_of(&mut *conn, &fact.meter).await?;
    if !(0..=aggregation.most()).contains(&fact.quantity) {
        return Err(Error::field("quantity", format!("0 to {} for this meter", aggregation.most())));
    }
    if !(1..=KEY_MAX).contains(&fact.key.chars().count()) {
        return Err(Error::field("key", format!("1 to {KEY_MAX} characters")));
    }
    match record_many(conn, std::slice::from_ref(fact)).await?[0] {
        Recorded::Other => Err(Error::new(&codes::IDEMPOTENCY_CONFLICT)
            .detail(format!("the key {:?} was used for another fact", fact.key))
            .hint("use a new key for a new fact")),
        recorded => Ok(recorded),
    }
}

/// How a meter adds up.
///
/// # Errors
/// `invalid_fields` for one that there is not.
pub async fn aggregation_of(conn: &mut PgConnection, meter: &str) -> Result<Aggregation> {
    sqlx::query_scalar("SELECT aggregation FROM meter WHERE id = $1")
        .bind(meter)
        .fetch_optional(conn)
        .await?
        .ok_or_else(|| Error::field("meter", format!("there is no meter {meter:?}")))
}

/// Facts as columns, in the order in which they are written.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    tenants: Vec<Uuid>,
    meters: Vec<&'a str>,
    sources: Vec<&'a str>,
    keys: Vec<&'a str>,
    quantities: Vec<i64>,
    occurred: Vec<DateTime<Utc>>,
    received: Vec<DateTime<Utc>>,
    quarantined: Vec<Option<&'static str>>,
    hashes: Vec<[u8; 16]>,
    months: Vec<NaiveDate>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, fact: &'a Fact) {
        self.ids.push(FactId::new().0);
        self.tenants.push(fact.tenant.0);
        self.meters.push(&fact.meter);
        self.sources.push(&fact.source);
        self.keys.push(&fact.key);
        self.quantities.push(fact.quantity);
        self.occurred.push(fact.occurred_at);
        self.received.push(fact.received_at);
        self.quarantined.push(late::judge(fact.occurred_at, fact.received_at).map(late::Why::as_str));
        self.hashes.push(dedupe::hash_of(&fact.meter, fact.quantity));
        let day = fact.occurred_at.date_naive();
        self.months.push(day.with_day(1).unwrap_or(day));
    }
}

/// Records facts whose meters and quantities the caller has looked at, all or none, and says what came of each, in their
/// order. A few round trips, however many they are.
pub async fn record_many(conn: &mut PgConnection, facts: &[Fact]) -> Result<Vec<Recorded>> {
    let parts = dedupe::parts(facts);
    let mut firsts: Vec<usize> = (0..facts.len()).filter(|place| parts[*place] == Part::First).collect();
    if firsts.is_empty() {
        return Ok(Vec::new());
    }
    // Whoever writes many does so in one order: two at once then wait for each other, and never in a circle.
    firsts.sort_unstable_by(|a, b| {
        let order = |place: &usize| {
            let fact = &facts[*place];
            (fact.tenant, &*fact.source, fact.key.as_str())
        };
        order(a).cmp(&order(b))
    });
    let mut columns = Columns::default();
    firsts.iter().for_each(|place| columns.push(&facts[*place]));

    let mut tx = conn.begin().await?;
    let answers: HashMap<usize, Recorded> = match insert_new(&mut tx, &columns).await {
        Ok(()) => {
            tx.commit().await?;
            firsts.iter().zip(&columns.ids).map(|(place, id)| (*place, Recorded::New(FactId(*id)))).collect()
        }
        // Some are known: rare, since they are only said again after something went wrong.
        Err(error) if violated(&error).is_some_and(|name| name == "usage_fact_key_pkey") => {
            tx.rollback().await?;
            let told = insert_unknown(conn, &columns).await?;
            firsts.iter().copied().zip(told).collect()
        }
        Err(error) => return Err(error.into()),
    };
    Ok(parts
        .iter()
        .enumerate()
        .map(|(place, part)| match part {
            Part::First => answers.get(&place).copied().unwrap_or(Recorded::Other),
            Part::Contrary => Recorded::Other,
            Part::Echo(of) => match answers.get(of) {
                Some(Recorded::New(id) | Recorded::Same(id)) => Recorded::Same(*id),
                _ => Recorded::Other,
            },
        })
        .collect())
}

/// Writes them, supposing that none is known. One statement: no key without its fact.
async fn insert_new(conn: &mut PgConnection, columns: &Columns<'_>) -> sqlx::Result<()> {
    const SQL: &str = "
        WITH said AS (
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::int8[],
                                 $7::timestamptz[], $8::timestamptz[], $9::text[], $10::bytea[], $11::date[])
                       AS s(id, tenant, meter, source, key, quantity, occurred_at, received_at, quarantined, hash, month)),
        keyed AS (
            INSERT INTO usage_fact_key (tenant, source, key, hash, month, event)
            SELECT tenant, source, key, hash, month, id FROM said)
        INSERT INTO usage_event (id, tenant, meter, source, key, quantity, occurred_at, received_at, quarantined)
        SELECT id, tenant, meter, source, key, quantity, occurred_at, received_at, quarantined FROM said";
    bound(sqlx::query(SQL), columns).execute(conn).await.map(drop)
}

/// Writes those that are not known, and says of each whether it was.
async fn insert_unknown(conn: &mut PgConnection, columns: &Columns<'_>) -> Result<Vec<Recorded>> {
    // Waits for whoever writes the same key at this moment: after it, every key is there for all to see.
    const SQL: &str = "
        WITH said AS (
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::int8[],
                                 $7::timestamptz[], $8::timestamptz[], $9::text[], $10::bytea[], $11::date[])
                       AS s(id, tenant, meter, source, key, quantity, occurred_at, received_at, quarantined, hash, month)),
        keyed AS (
            INSERT INTO usage_fact_key (tenant, source, key, hash, month, event)
            SELECT tenant, source, key, hash, month, id FROM said
            ON CONFLICT (tenant, source, key) DO NOTHING RETURNING event)
        INSERT INTO usage_event (id, tenant, meter, source, key, quantity, occurred_at, received_at, quarantined)
        SELECT id, tenant, meter, source, key, quantity, occurred_at, received_at, quarantined
          FROM said JOIN keyed ON keyed.event = said.id";
    // Planned anew each time, with the arrays before the planner's eyes: a plan for arrays of any length would compare
    // each with each.
    bound(sqlx::query(SQL).persistent(false), columns).execute(&mut *conn).await?;
    let known: Vec<(Uuid, String, String, Vec<u8>, Uuid)> = sqlx::query_as(
        "SELECT k.tenant, k.source, k.key, k.hash, k.event
           FROM unnest($1::uuid[], $2::text[], $3::text[]) AS s(tenant, source, key)
           JOIN usage_fact_key k ON (k.tenant, k.source, k.key) = (s.tenant, s.source, s.key)",
    )
    .persistent(false)
    .bind(&columns.tenants)
    .bind(&columns.sources)
    .bind(&columns.keys)
    .fetch_all(conn)
    .await?;
    let known: HashMap<(Uuid, &str, &str), (&[u8], Uuid)> = known
        .iter()
        .map(|(tenant, source, key, hash, event)| {
            ((*tenant, source.as_str(), key.as_str()), (hash.as_slice(), *event))
        })
        .collect();
    let told = |place: usize| {
        let key = (columns.tenants[place], columns.sources[place], columns.keys[place]);
        match known.get(&key) {
            Some((_, event)) if *event == columns.ids[place] => Recorded::New(FactId(*event)),
            Some((hash, event)) if **hash == columns.hashes[place] => Recorded::Same(FactId(*event)),
            _ => Recorded::Other,
        }
    };
    Ok((0..columns.ids.len()).map(told).collect())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bound<'q>(query: Query<'q>, columns: &Columns<'_>) -> Query<'q> {
    query
        .bind(&columns.ids)
        .bind(&columns.tenants)
        .bind(&columns.meters)
        .bind(&columns.sources)
        .bind(&columns.keys)
        .bind(&columns.quantities)
        .bind(&columns.occurred)
        .bind(&columns.received)
        .bind(&columns.quarantined)
        .bind(&columns.hashes)
        .bind(&columns.months)
}
