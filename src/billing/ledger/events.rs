//! One fact, recorded once. The only file that adds rows to `usage_event`. Two things are set later, once: `batch` by the
//! sealer, and who asked for a correction and agreed to it.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments, Connection, PgConnection};
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

/// Facts made ready to be written: all of it that needs no database.
pub struct Ready {
    /// What is to be done with each fact.
    parts: Vec<Part>,
    /// Those that are to be written.
    firsts: Vec<First>,
    /// Their rows: six columns of `usage_fact_key`, nine of `usage_event`.
    rows: PgArguments,
}

struct First {
    /// In the facts.
    place: usize,
    id: FactId,
    hash: [u8; 16],
}

impl Ready {
    /// Finds those that are said twice, gives the others their ids, and writes their rows down.
    ///
    /// # Errors
    /// `internal` for what is larger than a statement may be: gigabytes.
    pub fn of(facts: &[Fact]) -> Result<Self> {
        let parts = dedupe::parts(facts);
        let firsts: Vec<First> = (0..facts.len())
            .filter(|place| parts[*place] == Part::First)
            .map(|place| {
                let Fact { meter, quantity, .. } = &facts[place];
                First { place, id: FactId::new(), hash: dedupe::hash_of(meter, *quantity) }
            })
            .collect();
        let rows = rows(facts, &firsts).map_err(Error::internal)?;
        Ok(Self { parts, firsts, rows })
    }
}

/// Facts as columns. Facts are in the order in which they were given, about that in which they happened: what is indexed by
/// time is written at the index's end. Keys are in an order of their own, the same for all: two who write the same ones at
/// once then wait for each other, and never in a circle.
fn rows(facts: &[Fact], firsts: &[First]) -> std::result::Result<PgArguments, BoxDynError> {
    let events: Vec<(&First, &Fact)> = firsts.iter().map(|first| (first, &facts[first.place])).collect();
    let mut keys = events.clone();
    keys.sort_unstable_by_key(|(_, fact)| (fact.tenant, &*fact.source, fact.key.as_str()));
    let mut rows = PgArguments::default();
    rows.add(column(&keys, |_, fact| fact.tenant.0))?;
    rows.add(column(&keys, |_, fact| &*fact.source))?;
    rows.add(column(&keys, |_, fact| fact.key.as_str()))?;
    rows.add(column(&keys, |first, _| first.hash))?;
    rows.add(column(&keys, |_, fact| month_of(fact)))?;
    rows.add(column(&keys, |first, _| first.id.0))?;
    rows.add(column(&events, |first, _| first.id.0))?;
    rows.add(column(&events, |_, fact| fact.tenant.0))?;
    rows.add(column(&events, |_, fact| &*fact.meter))?;
    rows.add(column(&events, |_, fact| &*fact.source))?;
    rows.add(column(&events, |_, fact| fact.key.as_str()))?;
    rows.add(column(&events, |_, fact| fact.quantity))?;
    rows.add(column(&events, |_, fact| fact.occurred_at))?;
    rows.add(column(&events, |_, fact| fact.received_at))?;
    rows.add(column(&events, |_, fact| {
        late::judge(fact.occurred_at, fact.received_at).map(late::Why::as_str)
    }))?;
    Ok(rows)
}

fn column<'a, T>(of: &[(&'a First, &'a Fact)], value: impl Fn(&'a First, &'a Fact) -> T) -> Vec<T> {
    of.iter().map(|(first, fact)| value(first, fact)).collect()
}

fn month_of(fact: &Fact) -> NaiveDate {
    let day = fact.occurred_at.date_naive();
    day.with_day(1).unwrap_or(day)
}

/// Records facts whose meters and quantities the caller has looked at, all or none, and says what came of each, in their
/// order. A few round trips, however many they are.
pub async fn record_many(conn: &mut PgConnection, facts: &[Fact]) -> Result<Vec<Recorded>> {
    record_ready(conn, facts, &Ready::of(facts)?).await
}

/// As [`record_many`], of facts that were made ready before.
pub async fn record_ready(conn: &mut PgConnection, facts: &[Fact], ready: &Ready) -> Result<Vec<Recorded>> {
    let Ready { parts, firsts, .. } = ready;
    if firsts.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = conn.begin().await?;
    let answers: HashMap<usize, Recorded> = match insert_new(&mut tx, ready).await {
        Ok(()) => {
            tx.commit().await?;
            firsts.iter().map(|first| (first.place, Recorded::New(first.id))).collect()
        }
        // Some are known: rare, since they are only said again after something went wrong.
        Err(error) if violated(&error).is_some_and(|name| name == "usage_fact_key_pkey") => {
            tx.rollback().await?;
            insert_unknown(conn, facts, ready).await?.into_iter().collect()
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

/// Writes them, supposing that none is known. One statement: no key without its fact. And one message: a `COPY` would take two
/// thirds of the time, and whoever stops in the middle of one keeps its locks until his connection ends.
async fn insert_new(conn: &mut PgConnection, ready: &Ready) -> sqlx::Result<()> {
    const SQL: &str = "
        WITH keyed AS (
            INSERT INTO usage_fact_key (tenant, source, key, hash, month, event)
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::date[], $6::uuid[]))
        INSERT INTO usage_event (id, tenant, meter, source, key, quantity, occurred_at, received_at, quarantined)
        SELECT * FROM unnest($7::uuid[], $8::uuid[], $9::text[], $10::text[], $11::text[], $12::int8[], $13::timestamptz[],
                             $14::timestamptz[], $15::text[])";
    sqlx::query_with(SQL, ready.rows.clone()).execute(conn).await.map(drop)
}

/// Writes those that are not known, and says of each, by its place, whether it was.
async fn insert_unknown(
    conn: &mut PgConnection,
    facts: &[Fact],
    ready: &Ready,
) -> Result<Vec<(usize, Recorded)>> {
    // Waits for whoever writes the same key at this moment: after it, every key is there for all to see.
    const SQL: &str = "
        WITH keyed AS (
            INSERT INTO usage_fact_key (tenant, source, key, hash, month, event)
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::date[], $6::uuid[])
            ON CONFLICT (tenant, source, key) DO NOTHING RETURNING event)
        INSERT INTO usage_event (id, tenant, meter, source, key, quantity, occurred_at, received_at, quarantined)
        SELECT s.* FROM unnest($7::uuid[], $8::uuid[], $9::text[], $10::text[], $11::text[], $12::int8[], $13::timestamptz[],
                               $14::timestamptz[], $15::text[])
                     AS s(id, tenant, meter, source, key, quantity, occurred_at, received_at, quarantined)
          JOIN keyed ON keyed.event = s.id";
    // Planned anew each time, with the arrays before the planner's eyes: a plan for arrays of any length would compare
    // each with each.
    sqlx::query_with(SQL, ready.rows.clone()).persistent(false).execute(&mut *conn).await?;
    let said: Vec<(&First, &Fact)> = ready.firsts.iter().map(|first| (first, &facts[first.place])).collect();
    let known: Vec<(Uuid, String, String, Vec<u8>, Uuid)> = sqlx::query_as(
        "SELECT k.tenant, k.source, k.key, k.hash, k.event
           FROM unnest($1::uuid[], $2::text[], $3::text[]) AS s(tenant, source, key)
           JOIN usage_fact_key k ON (k.tenant, k.source, k.key) = (s.tenant, s.source, s.key)",
    )
    .persistent(false)
    .bind(column(&said, |_, fact| fact.tenant.0))
    .bind(column(&said, |_, fact| &*fact.source))
    .bind(column(&said, |_, fact| fact.key.as_str()))
    .fetch_all(conn)
    .await?;
    let known: HashMap<(Uuid, &str, &str), (&[u8], Uuid)> = known
        .iter()
        .map(|(tenant, source, key, hash, event)| {
            ((*tenant, source.as_str(), key.as_str()), (hash.as_slice(), *event))
        })
        .collect();
    let told = |(first, fact): &(&First, &Fact)| {
        let told = match known.get(&(fact.tenant.0, &*fact.source, fact.key.as_str())) {
            Some((_, event)) if *event == first.id.0 => Recorded::New(first.id),
            Some((hash, event)) if *hash == first.hash => Recorded::Same(FactId(*event)),
            _ => Recorded::Other,
        };
        (first.place, told)
    };
    Ok(said.iter().map(told).collect())
}
