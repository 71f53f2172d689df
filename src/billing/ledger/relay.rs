//! Carries facts from the shards' outboxes into the ledger.
//!
//! A row leaves the outbox only after the control database has it, and it is taken as it is found: no mark says how far one
//! has read. Transactions commit in another order than they took their numbers, and a reader with a mark would step over the
//! one that commits late. A worker that ends between the two leaves rows that are carried over again, and are then known
//! (`usage_fact_key`): no loss, and nothing twice.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::json;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, Postgres};
use tokio::sync::Semaphore;

use super::events::{Fact, Recorded, record_many};
use super::late;
use super::meters::{Aggregation, meter_list};
use super::outbox::{KIND, Row, Why, fact_of};
use crate::billing::incidents;
use crate::control_plane::ControlPlane;
use crate::control_plane::reconcile::within;
use crate::control_plane::shards::{Shard, shard_list};
use crate::db::admin::{self, ShardAdmins};
use crate::jobs::faults::{self, Moment};
use crate::kernel::ids::{ShardId, TenantId};
use crate::kernel::{Entropy, Result};

/// Rows that are carried in one transaction: enough that round trips and commits cost nothing beside the rows.
const BATCH: i64 = 4_000;
/// A worker that falls silent is replaced after this long.
const LEASE_SECONDS: f64 = 15.0;
/// The longest one shard may keep the others' next round waiting.
const SHARD_LIMIT: Duration = Duration::from_secs(60);
/// How often it is noted that a shard's outbox is empty.
const NOTED_EVERY: TimeDelta = TimeDelta::seconds(15);
/// Shards that are carried from side by side. Each holds a connection to the control database meanwhile.
const SHARDS_AT_ONCE: usize = 4;
/// So many strays of one round are told of one by one; the incident counts all.
const STRAYS_TOLD: usize = 5;

/// Incidents of the relay, for [`incidents::open`].
pub mod kind {
    /// Rows that are no facts: see `usage_stray`.
    pub const STRAY: &str = "usage_stray";
    /// The same key with another body.
    pub const OTHER_BODY: &str = "usage_other_body";
    /// Facts from the future or from long ago: a clock that is wrong, or an outage that was too long.
    pub const LATE: &str = "usage_quarantined";
}

/// What a round carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Facts that are new in the ledger.
    pub new: usize,
    /// Rows whose fact was known.
    pub known: usize,
    /// Rows that were kept aside.
    pub strays: usize,
}

impl Carried {
    fn and(self, other: Self) -> Self {
        Self {
            new: self.new + other.new,
            known: self.known + other.known,
            strays: self.strays + other.strays,
        }
    }
}

/// This process, in the leases it holds.
pub fn this_worker() -> &'static str {
    static NAME: LazyLock<String> =
        LazyLock::new(|| format!("{}:{}", std::process::id(), Entropy::default().base32::<5>()));
    &NAME
}

/// One round: every shard that answers, side by side, until its outbox is empty. A shard that is away does not keep the
/// others waiting.
pub async fn relay(cp: &ControlPlane, admins: &ShardAdmins, worker: &str) -> Result<Carried> {
    let mut shards = shard_list(&mut *cp.db.acquire().await?).await?;
    shards.retain(|shard| shard.database.is_some() && shard.last_failure.is_none());
    let places = Semaphore::new(SHARDS_AT_ONCE);
    let rounds = shards.iter().map(async |shard| {
        let _place = places.acquire().await;
        match within(SHARD_LIMIT, relay_shard(cp, admins, worker, shard)).await {
            Ok(carried) => carried,
            Err(error) => {
                tracing::warn!(
                    shard = shard.name,
                    ?error,
                    "facts could not be carried over; they wait in the outbox"
                );
                Carried::default()
            }
        }
    });
    Ok(join_all(rounds).await.into_iter().fold(Carried::default(), Carried::and))
}

/// Empties one shard's outbox, unless another worker is at it.
///
/// # Errors
/// `shard_unavailable`, `control_unavailable`: what was not carried over waits.
pub async fn relay_shard(
    cp: &ControlPlane,
    admins: &ShardAdmins,
    worker: &str,
    shard: &Shard,
) -> Result<Carried> {
    admins.expect_answer(shard.id)?;
    let mut conn = session(admins, shard).await?;
    let asked_at = cp.clock.now();
    let mut rows = rows_after(&mut conn, 0).await?;
    gauge_oldest(cp, shard, rows.first());
    if rows.is_empty() {
        note_empty(cp, shard.id, worker, asked_at).await?;
        return Ok(Carried::default());
    }
    let mut control = cp.db.acquire().await?;
    if !lease(&mut control, cp, shard.id, worker, 0).await? {
        return Ok(Carried::default());
    }
    let carrier = Carrier::new(cp, shard, &mut control).await?;
    let (mut carried, mut done): (_, Vec<i64>) = (Carried::default(), Vec::new());
    let mut whole = false;
    // While the control database writes one batch, the shard forgets the one before and reads the next.
    while let Some(last) = rows.last() {
        let after = last.id;
        let shard_part = async {
            remove(&mut conn, &done).await?;
            rows_after(&mut conn, after).await
        };
        let (kept, next) = tokio::join!(carrier.keep(&mut control, &rows), shard_part);
        let kept = kept?;
        faults::point("usage", "relay", Moment::AfterEffect);
        carried = carried.and(kept);
        done = rows.iter().map(|row| row.id).collect();
        // When the shard does not answer any more: what is kept is forgotten by the next round.
        rows = next?;
        if !lease(&mut control, cp, shard.id, worker, done.len()).await? {
            break;
        }
        whole = rows.is_empty();
    }
    drop(control);
    if whole {
        // All that was committed by the first look was there to be seen by one of them.
        note_empty(cp, shard.id, worker, asked_at).await?;
    }
    remove(&mut conn, &done).await?;
    faults::point("usage", "relay", Moment::AfterRecord);
    count(shard, carried);
    Ok(carried)
}

async fn session(admins: &ShardAdmins, shard: &Shard) -> Result<PoolConnection<Postgres>> {
    let conn = admins.pool(shard.id, &shard.admin_dsn()?)?.acquire().await;
    conn.inspect_err(|error| {
        // As for every admin session: the secret may have been changed.
        if error.as_database_error().is_some() {
            admins.forget(shard.id);
        }
    })
    .map_err(admin::shard_error)
}

async fn rows_after(conn: &mut PgConnection, after: i64) -> Result<Vec<Row>> {
    sqlx::query_as(
        // A fact's payload is short. One that is not is none, and 64 KiB of each row are not read to find that out.
        "SELECT id, role_name::text AS role_name, key, left(payload::text, 1000) AS payload, at FROM freehold.outbox
          WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(KIND)
    .bind(after)
    .bind(BATCH)
    .fetch_all(conn)
    .await
    .map_err(admin::shard_error)
}

async fn remove(conn: &mut PgConnection, ids: &[i64]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query("DELETE FROM freehold.outbox WHERE id = ANY($1)")
        .bind(ids)
        .execute(conn)
        .await
        .map(drop)
        .map_err(admin::shard_error)
}

/// Takes the shard's lease or keeps it, and notes what was carried under it. By the database's clock alone.
async fn lease(
    control: &mut PgConnection,
    cp: &ControlPlane,
    shard: ShardId,
    worker: &str,
    carried: usize,
) -> Result<bool> {
    let held: Option<String> = sqlx::query_scalar(
        "INSERT INTO usage_relay (shard, held_by, leased_until)
         VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
         ON CONFLICT (shard) DO UPDATE SET held_by = EXCLUDED.held_by, leased_until = EXCLUDED.leased_until,
                relayed = usage_relay.relayed + $4, last_at = CASE WHEN $4 > 0 THEN $5 ELSE usage_relay.last_at END
          WHERE usage_relay.held_by = EXCLUDED.held_by OR usage_relay.leased_until < clock_timestamp()
         RETURNING held_by",
    )
    .bind(shard)
    .bind(worker)
    .bind(LEASE_SECONDS)
    .bind(i64::try_from(carried).unwrap_or(i64::MAX))
    .bind(cp.clock.now())
    .fetch_optional(control)
    .await?;
    Ok(held.is_some())
}

/// Notes that whatever was committed on the shard by then is in the ledger: a period is not closed before. Nothing was there,
/// so nobody's lease is needed, and a mark never goes back.
async fn note_empty(cp: &ControlPlane, shard: ShardId, worker: &str, at: DateTime<Utc>) -> Result<()> {
    static NOTED: LazyLock<Mutex<HashMap<ShardId, DateTime<Utc>>>> = LazyLock::new(Mutex::default);
    let fresh = |noted: &DateTime<Utc>| *noted <= at && at - *noted < NOTED_EVERY;
    if NOTED.lock().get(&shard).is_some_and(fresh) {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO usage_relay (shard, held_by, leased_until, emptied_at) VALUES ($1, $2, clock_timestamp(), $3)
         ON CONFLICT (shard) DO UPDATE SET emptied_at = greatest(usage_relay.emptied_at, EXCLUDED.emptied_at)",
    )
    .bind(shard)
    .bind(worker)
    .bind(at)
    .execute(&cp.db)
    .await?;
    NOTED.lock().insert(shard, at);
    Ok(())
}

/// Writes batches of one shard's rows.
struct Carrier<'a> {
    cp: &'a ControlPlane,
    shard: &'a Shard,
    source: Arc<str>,
    meters: HashMap<Arc<str>, Aggregation>,
}

impl<'a> Carrier<'a> {
    async fn new(cp: &'a ControlPlane, shard: &'a Shard, control: &mut PgConnection) -> Result<Self> {
        let meters = meter_list(control).await?;
        let meters = meters.into_iter().map(|meter| (Arc::from(meter.id), meter.aggregation)).collect();
        Ok(Self { cp, shard, source: Arc::from(format!("outbox:{}", shard.name)), meters })
    }

    /// Writes a batch: facts into the ledger, what is none aside, in one transaction.
    async fn keep(&self, control: &mut PgConnection, rows: &[Row]) -> Result<Carried> {
        let now = self.cp.clock.now();
        let tenants = tenants_of(&mut *control, rows).await?;
        let (mut facts, mut of_row, mut strays) = (Vec::with_capacity(rows.len()), Vec::new(), Vec::new());
        for row in rows {
            match fact_of(row, &tenants, &self.meters, &self.source, now) {
                Ok(fact) => {
                    facts.push(fact);
                    of_row.push(row);
                }
                Err(why) => strays.push((row, why)),
            }
        }
        let mut tx = control.begin().await?;
        let recorded = record_many(&mut tx, &facts).await?;
        let mut carried = Carried::default();
        for (row, recorded) in of_row.iter().zip(&recorded) {
            match recorded {
                Recorded::New(_) => carried.new += 1,
                Recorded::Same(_) => carried.known += 1,
                Recorded::Other => strays.push((row, Why::OtherBody)),
            }
        }
        carried.strays = strays.len();
        set_aside(&mut tx, self.shard.id, &strays, now).await?;
        self.tell(&mut tx, &strays, &facts, now).await?;
        tx.commit().await?;
        Ok(carried)
    }

    /// Opens incidents for what a person has to look at.
    async fn tell(
        &self,
        tx: &mut PgConnection,
        strays: &[(&Row, Why)],
        facts: &[Fact],
        now: DateTime<Utc>,
    ) -> Result<()> {
        let shard = &self.shard.name;
        for (kind, of) in [(kind::OTHER_BODY, true), (kind::STRAY, false)] {
            let these = || strays.iter().filter(|(_, why)| (*why == Why::OtherBody) == of);
            let some: Vec<_> = these()
                .take(STRAYS_TOLD)
                .map(|(row, why)| json!({ "outbox_id": row.id, "role": row.role_name, "key": row.key, "why": why.as_str() }))
                .collect();
            if !some.is_empty() {
                let detail = json!({ "rows": these().count(), "first": some });
                incidents::open(&mut *tx, kind, shard, None, detail, now).await?;
            }
        }
        let aside = || facts.iter().filter_map(|fact| Some((fact, late::judge(fact.occurred_at, now)?)));
        if let Some((fact, why)) = aside().next() {
            let detail = json!({
                "facts": aside().count(), "why": why.as_str(), "first_occurred_at": fact.occurred_at,
                "hint": "a clock that is wrong, or rows that waited for more than 34 days",
            });
            incidents::open(&mut *tx, kind::LATE, shard, Some(fact.tenant), detail, now).await?;
        }
        Ok(())
    }
}

/// Whose logins these are. A login that no placement names is unknown: its tenant was purged before its last facts came.
async fn tenants_of(control: &mut PgConnection, rows: &[Row]) -> Result<HashMap<String, TenantId>> {
    let mut roles: Vec<&str> = rows.iter().map(|row| row.role_name.as_str()).collect();
    roles.sort_unstable();
    roles.dedup();
    let known: Vec<(String, TenantId)> =
        sqlx::query_as("SELECT schema_name, tenant FROM placement WHERE schema_name = ANY($1)")
            .bind(roles)
            .fetch_all(control)
            .await?;
    Ok(known.into_iter().collect())
}

async fn set_aside(
    tx: &mut PgConnection,
    shard: ShardId,
    strays: &[(&Row, Why)],
    now: DateTime<Utc>,
) -> Result<()> {
    if strays.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Row) -> &str| strays.iter().map(|(row, _)| of(row)).collect::<Vec<&str>>();
    sqlx::query(
        "INSERT INTO usage_stray (shard, outbox_id, role_name, key, payload, at, why, received_at)
         SELECT $1, s.id, s.role_name, s.key, s.payload, s.at, s.why, $8
           FROM unnest($2::int8[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
                AS s(id, role_name, key, payload, at, why)
         ON CONFLICT DO NOTHING",
    )
    .bind(shard)
    .bind(strays.iter().map(|(row, _)| row.id).collect::<Vec<i64>>())
    .bind(column(|row| &row.role_name))
    .bind(column(|row| &row.key))
    .bind(column(|row| &row.payload))
    .bind(strays.iter().map(|(row, _)| row.at).collect::<Vec<_>>())
    .bind(strays.iter().map(|(_, why)| why.as_str()).collect::<Vec<&str>>())
    .bind(now)
    .execute(tx)
    .await?;
    Ok(())
}

/// How long the oldest fact has waited on the shard: what an alarm looks at.
fn gauge_oldest(cp: &ControlPlane, shard: &Shard, oldest: Option<&Row>) {
    let seconds = oldest.map_or(0.0, |row| (cp.clock.now() - row.at).as_seconds_f64().max(0.0));
    metrics::gauge!("usage_outbox_oldest_seconds", "shard" => shard.name.clone()).set(seconds);
}

fn count(shard: &Shard, carried: Carried) {
    for (outcome, rows) in [("new", carried.new), ("known", carried.known), ("stray", carried.strays)] {
        metrics::counter!("usage_rows_relayed_total", "shard" => shard.name.clone(), "outcome" => outcome)
            .increment(rows as u64);
    }
}
