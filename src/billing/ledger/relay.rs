//! Carries facts from the shards' outboxes into the ledger.
//!
//! A row leaves the outbox only after the control database has it, and it is taken as it is found: no mark says how far one
//! has read. Transactions commit in another order than they took their numbers, and a reader with a mark would step over the
//! one that commits late. A worker that ends between the two leaves rows that are carried over again, and are then known
//! (`usage_fact_key`): no loss, and nothing twice.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres};
use tokio::sync::Semaphore;

use super::carrier::Carrier;
use super::outbox::{KIND, Row};
use crate::control_plane::ControlPlane;
use crate::control_plane::reconcile::within;
use crate::control_plane::shards::{Shard, shard_list};
use crate::db::admin::{self, ShardAdmins};
use crate::jobs::faults::{self, Moment};
use crate::kernel::ids::ShardId;
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

/// Incidents of the relay, for [`crate::billing::incidents::open`].
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
    let rows = rows_after(&mut conn, 0).await?;
    gauge_oldest(cp, shard, rows.first());
    if rows.is_empty() {
        note_empty(cp, shard.id, worker, asked_at).await?;
        return Ok(Carried::default());
    }
    let mut control = cp.db.acquire().await?;
    if !lease(&mut control, cp, shard.id, worker, 0).await? {
        return Ok(Carried::default());
    }
    let mut carrier = Carrier::new(cp, shard, &mut control).await?;
    let (mut carried, mut done): (_, Vec<i64>) = (Carried::default(), Vec::new());
    let mut whole = false;
    carrier.learn(&mut control, &rows).await?;
    let mut batch = carrier.batch(rows)?;
    // While the control database writes one batch, the shard forgets the one before, reads the next, and that is made ready.
    while let Some(last) = batch.rows.last() {
        let after = last.id;
        let shard_part = async {
            remove(&mut conn, &done).await?;
            let rows = rows_after(&mut conn, after).await?;
            if carrier.knows(&rows) { carrier.batch(rows).map(Ok) } else { Ok(Err(rows)) }
        };
        let (kept, next) = tokio::join!(carrier.keep(&mut control, worker, &batch), shard_part);
        let (kept, held) = kept?;
        faults::point("usage", "relay", Moment::AfterEffect);
        carried = carried.and(kept);
        done = batch.rows.iter().map(|row| row.id).collect();
        // When the shard does not answer any more: what is kept is forgotten by the next round.
        batch = match next? {
            Ok(batch) => batch,
            Err(rows) => {
                carrier.learn(&mut control, &rows).await?;
                carrier.batch(rows)?
            }
        };
        if !held {
            break;
        }
        whole = batch.rows.is_empty();
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

/// Takes the shard's lease or keeps it, and notes what was carried under it. By the database's clock alone. In a transaction
/// it is the last statement: nobody waits for anything while the lease's row is locked.
pub(super) async fn lease(
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
