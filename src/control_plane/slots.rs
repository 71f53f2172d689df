//! Slots: empty, fully migrated schemas with their logins, made ahead of time so that a tenant is ready in one
//! transaction.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::reconcile::within;
use super::shards::{Shard, shard_by_id, shard_find};
use super::{ControlPlane, Hands};
use crate::db::admin;
use crate::db::schema::{LoginLimits, Schema};
use crate::kernel::ids::ShardId;
use crate::kernel::{Result, codes};

/// How many times slots are made side by side: enough to hide round trips, not enough to crowd out tenants.
pub const SIDE_BY_SIDE: usize = 2;
/// The longest one slot's repair may take before the next one's turn comes.
const SLOT_LIMIT: Duration = Duration::from_secs(30);
/// The longest one shard may be filled before the shards are looked at again.
const FILL_LIMIT: Duration = Duration::from_secs(60);

/// A slot, as people and scripts see it.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Slot {
    pub schema_name: String,
    pub shard: String,
    /// `making`, `ready`, `claimed` or `broken`.
    pub state: String,
    pub version: i64,
    pub created_at: DateTime<Utc>,
}

/// Slots of one shard, by name or id, or of all, oldest first; claimed ones are left out.
pub async fn slot_list(conn: &mut PgConnection, shard: Option<&str>) -> Result<Vec<Slot>> {
    let shard = match shard {
        Some(name_or_id) => Some(shard_find(&mut *conn, name_or_id).await?.id),
        None => None,
    };
    Ok(sqlx::query_as(
        "SELECT slot.schema_name, shard.name AS shard, slot.state, slot.version, slot.created_at
           FROM slot JOIN shard ON shard.id = slot.shard
          WHERE slot.state <> 'claimed' AND ($1::uuid IS NULL OR slot.shard = $1)
          ORDER BY shard.name, slot.created_at, slot.schema_name LIMIT 1000",
    )
    .bind(shard)
    .fetch_all(conn)
    .await?)
}

/// A name that says nothing: names of schemas can be seen by every login of the server.
pub fn new_schema_name(cp: &ControlPlane) -> String {
    // 130 random bits in 26 characters.
    format!("t_{}", &cp.entropy.base32::<17>()[..26])
}

/// Claims the oldest spare slot of this version, or of a newer one that another build made, if there is one.
pub async fn slot_claim(conn: &mut PgConnection, shard: ShardId, version: i64) -> Result<Option<String>> {
    Ok(sqlx::query_scalar(
        "UPDATE slot SET state = 'claimed'
          WHERE schema_name = (SELECT schema_name FROM slot
                                WHERE shard = $1 AND state = 'ready' AND version >= $2
                                ORDER BY ready_at, schema_name LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING schema_name",
    )
    .bind(shard)
    .bind(version)
    .fetch_optional(conn)
    .await?)
}

/// Records a slot in a state before anything is made on the shard, so that nothing there is ever unknown here.
pub async fn slot_record(
    conn: &mut PgConnection,
    schema: &str,
    shard: ShardId,
    state: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query("INSERT INTO slot (schema_name, shard, state, created_at) VALUES ($1, $2, $3, $4)")
        .bind(schema)
        .bind(shard)
        .bind(state)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// A fencing number for work that is not part of a run.
pub async fn next_fence(conn: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT nextval('run_fence')").fetch_one(conn).await?)
}

/// Makes one spare slot on a shard, unless it has as many as it should. Killed at any point, [`repair`] finishes or
/// removes what was begun.
async fn slot_make(hands: &Hands, shard: &Shard, target: i64) -> Result<bool> {
    let name = new_schema_name(&hands.cp);
    let mut tx = hands.cp.db.begin().await?;
    // Counted one at a time, so that workers who were woken together do not each make what is missing.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('freehold.slots.' || $1::text, 0))")
        .bind(shard.id)
        .execute(&mut *tx)
        .await?;
    // Slots of a newer version count: during an upgrade, the older workers would make others without end. Places taken
    // count too: spare slots beyond the cap could never be claimed.
    let wanted: bool = sqlx::query_scalar(
        "SELECT count(slot) < least($3, max(shard.tenant_cap - shard.tenants))
           FROM shard LEFT JOIN slot ON slot.shard = shard.id
                AND (slot.state = 'making' OR (slot.state = 'ready' AND slot.version >= $2))
          WHERE shard.id = $1",
    )
    .bind(shard.id)
    .bind(hands.cp.schema_version())
    .bind(target)
    .fetch_one(&mut *tx)
    .await?;
    if !wanted {
        return Ok(false);
    }
    slot_record(&mut tx, &name, shard.id, "making", hands.cp.clock.now()).await?;
    tx.commit().await?;
    slot_finish(hands, shard, &name).await?;
    Ok(true)
}

async fn slot_finish(hands: &Hands, shard: &Shard, name: &str) -> Result<()> {
    let fence = next_fence(&mut *hands.cp.db.acquire().await?).await?;
    let schema = Schema { name, database: shard.database()?, credential_version: 1, fence: Some(fence) };
    let mut conn = hands.admin(shard).await?;
    let version = schema.create(&mut conn, &hands.master, hands.cp.tables, LoginLimits::SPARE).await?;
    let now = hands.cp.clock.now();
    sqlx::query("UPDATE slot SET state = 'ready', version = $2, ready_at = $3 WHERE schema_name = $1 AND state = 'making'")
        .bind(name)
        .bind(version)
        .bind(now)
        .execute(&hands.cp.db)
        .await?;
    Ok(())
}

/// Makes spare slots until the shard has `target`. Returns how many were made.
pub async fn slot_fill(
    hands: &Hands,
    shard: &Shard,
    target: i64,
    mut made_one: impl FnMut(),
) -> Result<usize> {
    let mut making = FuturesUnordered::new();
    for _ in 0..SIDE_BY_SIDE {
        making.push(slot_make(hands, shard, target));
    }
    let mut made = 0;
    while let Some(outcome) = making.next().await {
        if outcome? {
            made += 1;
            made_one();
            making.push(slot_make(hands, shard, target));
        }
    }
    Ok(made)
}

/// Finishes slots whose maker died, migrates spare ones that are behind, and removes broken ones and those that nobody
/// will claim. Those of a shard that does not answer wait until it does.
pub async fn repair(hands: &Hands) -> Result<()> {
    give_up_spares(hands).await?;
    let rows: Vec<(String, ShardId, String)> = sqlx::query_as(
        "SELECT slot.schema_name, slot.shard, slot.state FROM slot JOIN shard ON shard.id = slot.shard
          WHERE shard.last_failure IS NULL
            AND (slot.state = 'broken' OR (slot.state = 'ready' AND slot.version < $1)
                 OR (slot.state = 'making' AND slot.created_at < $2))
          ORDER BY slot.created_at LIMIT 200",
    )
    .bind(hands.cp.schema_version())
    .bind(hands.cp.clock.now() - chrono::Duration::seconds(20))
    .fetch_all(&hands.cp.db)
    .await?;
    let mut away = HashSet::new();
    for (name, shard, state) in rows {
        if away.contains(&shard) {
            continue;
        }
        let shard = shard_by_id(&mut *hands.cp.db.acquire().await?, shard).await?;
        let mend = async {
            match state.as_str() {
                "broken" => slot_remove(hands, &shard, &name).await,
                "making" => slot_finish(hands, &shard, &name).await,
                _ => slot_migrate(hands, &shard, &name).await,
            }
        };
        if let Err(error) = within(SLOT_LIMIT, mend).await {
            tracing::warn!(shard = shard.name, slot = name, state, ?error, "a slot could not be repaired");
            if error.is(&codes::SHARD_UNAVAILABLE) || error.is(&codes::TIMEOUT) {
                away.insert(shard.id);
            }
        }
    }
    Ok(())
}

/// Spare slots of a shard that takes no tenants, and is to keep none, are of no use to anybody.
async fn give_up_spares(hands: &Hands) -> Result<()> {
    sqlx::query(
        "UPDATE slot SET state = 'broken' FROM shard
          WHERE shard.id = slot.shard AND shard.state = 'draining' AND shard.slot_target = 0 AND slot.state = 'ready'",
    )
    .execute(&hands.cp.db)
    .await?;
    Ok(())
}

async fn slot_migrate(hands: &Hands, shard: &Shard, name: &str) -> Result<()> {
    let fence = next_fence(&mut *hands.cp.db.acquire().await?).await?;
    let schema = Schema { name, database: shard.database()?, credential_version: 1, fence: Some(fence) };
    let version = schema.migrate(&mut *hands.admin(shard).await?, hands.cp.tables).await?;
    sqlx::query("UPDATE slot SET version = $2 WHERE schema_name = $1 AND state = 'ready'")
        .bind(name)
        .bind(version)
        .execute(&hands.cp.db)
        .await?;
    Ok(())
}

async fn slot_remove(hands: &Hands, shard: &Shard, name: &str) -> Result<()> {
    let fence = next_fence(&mut *hands.cp.db.acquire().await?).await?;
    let schema = Schema { name, database: shard.database()?, credential_version: 1, fence: Some(fence) };
    schema.drop(&mut *hands.admin(shard).await?).await?;
    sqlx::query("DELETE FROM slot WHERE schema_name = $1 AND state = 'broken'")
        .bind(name)
        .execute(&hands.cp.db)
        .await?;
    Ok(())
}

/// How many spare slots a shard is brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// A part of its number: while a crowd signs up, making slots must not take the processors from those who use them,
    /// unless these would soon find none.
    Low,
    /// Its number.
    Full,
}

impl Fill {
    /// Of so many, one; rounded up.
    const fn divisor(self) -> i32 {
        match self {
            Self::Low => 4,
            Self::Full => 1,
        }
    }

    fn of(self, target: i32) -> i64 {
        i64::from((target + self.divisor() - 1) / self.divisor())
    }
}

/// Brings every active shard to its number of spare slots. A shard that is down does not keep the others waiting.
pub async fn refill(hands: &Hands, fill: Fill) -> Result<usize> {
    // Asked at every wake-up of the worker, and most have nothing to do with slots: one question, whatever the number of
    // shards.
    let mut control = hands.cp.db.acquire().await?;
    let lacking: Vec<ShardId> = sqlx::query_scalar(
        "SELECT id FROM shard
          WHERE state = 'active' AND last_failure IS NULL
            AND (SELECT count(*) FROM slot WHERE slot.shard = shard.id
                    AND (slot.state = 'making' OR (slot.state = 'ready' AND slot.version >= $1)))
                < least((slot_target + $2 - 1) / $2, tenant_cap - tenants)",
    )
    .bind(hands.cp.schema_version())
    .bind(fill.divisor())
    .fetch_all(&mut *control)
    .await?;
    let mut shards = Vec::with_capacity(lacking.len());
    for shard in lacking {
        shards.push(shard_by_id(&mut control, shard).await?);
    }
    drop(control);
    let fills = shards.iter().map(async |shard| {
        let filling = slot_fill(hands, shard, fill.of(shard.slot_target), || {});
        within(FILL_LIMIT, filling).await.unwrap_or_else(|error| {
            tracing::warn!(shard = shard.name, ?error, "slots could not be made");
            0
        })
    });
    Ok(join_all(fills).await.into_iter().sum())
}

impl Hands {
    /// An admin session on a shard, unless the worker's last look found it away.
    pub async fn admin(&self, shard: &Shard) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
        self.admins.expect_answer(shard.id)?;
        self.try_admin(shard).await
    }

    /// An admin session on a shard, whatever the last look found.
    pub async fn try_admin(&self, shard: &Shard) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
        let conn = self.admins.pool(shard.id, &shard.admin_dsn()?)?.acquire().await;
        conn.inspect_err(|error| {
            // A refused login may mean that the secret was changed: the next attempt reads it again.
            if error.as_database_error().is_some() {
                self.admins.forget(shard.id);
            }
        })
        .map_err(admin::shard_error)
    }
}
