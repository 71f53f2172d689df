//! How much tenants store: what their tables and indexes take up on the shard, sampled. Who passes 80 or 100 percent, in
//! either direction, is told to the servers at once; they refuse the writes of a tenant that is full.
//!
//! The number is what the disk holds. Room that deleted rows leave is used again by new ones, and it counts until the
//! table is written anew.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::level::ALWAYS;
use crate::billing::Billing;
use crate::control_plane::changes::{self, Change};
use crate::control_plane::shards::{Shard, shard_list};
use crate::db::admin;
use crate::kernel::ids::{ShardId, TenantId};
use crate::kernel::{Error, Result, codes};

/// The longest a shard may take to say.
const PATIENCE: Duration = Duration::from_secs(30);

/// Samples every tenant of every shard that answers, and writes it down. A shard that does not answer is looked at the next
/// time; the others' numbers are kept.
///
/// # Errors
/// What the control database says; the first trouble with a shard, after all were looked at.
pub async fn sample(billing: Billing) -> Result<()> {
    let shards = shard_list(&mut *billing.cp.db.acquire().await?).await?;
    let mut trouble = None;
    for shard in &shards {
        match sample_shard(&billing, shard).await {
            Ok(levels) => write_down(&billing.cp.db, &levels, billing.cp.clock.now()).await?,
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    trouble.map_or(Ok(()), Err)
}

/// What the tenants of one shard store. Empty for a shard that is not set up.
///
/// # Errors
/// `shard_unavailable`; `timeout`.
pub async fn sample_shard(billing: &Billing, shard: &Shard) -> Result<Vec<(TenantId, i64)>> {
    if shard.host.is_none() {
        return Ok(Vec::new());
    }
    let placed = placed_on(&billing.cp.db, shard.id).await?;
    if placed.is_empty() {
        return Ok(Vec::new());
    }
    billing.admins.expect_answer(shard.id)?;
    let pool = billing.admins.pool(shard.id, &shard.admin_dsn()?)?;
    let ask = async {
        let mut conn = pool.acquire().await.map_err(admin::shard_error)?;
        bytes_of_schemas(&mut conn, placed.keys()).await
    };
    let said = tokio::time::timeout(PATIENCE, ask)
        .await
        .map_err(|_| Error::new(&codes::TIMEOUT).detail(format!("shard {} took too long", shard.name)))??;
    Ok(said.into_iter().filter_map(|(schema, bytes)| Some((*placed.get(&schema)?, bytes))).collect())
}

/// What these schemas hold: tables, indexes, what is kept beside the rows.
pub async fn bytes_of_schemas<'a>(
    conn: &mut PgConnection,
    schemas: impl Iterator<Item = &'a String>,
) -> Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "SELECT n.nspname::text, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
           FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'm')
          WHERE n.nspname = ANY($1::text[]) GROUP BY n.nspname",
    )
    .bind(schemas.cloned().collect::<Vec<_>>())
    .fetch_all(conn)
    .await
    .map_err(admin::shard_error)
}

async fn placed_on(db: &PgPool, shard: ShardId) -> Result<BTreeMap<String, TenantId>> {
    let rows: Vec<(String, TenantId)> = sqlx::query_as(
        "SELECT p.schema_name, p.tenant FROM placement p JOIN tenant t ON t.id = p.tenant
          WHERE p.shard = $1 AND t.state <> 'deleted'",
    )
    .bind(shard)
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Writes down what was sampled. Servers hear of those who went from one stage to another, in either direction.
pub async fn write_down(db: &PgPool, levels: &[(TenantId, i64)], now: DateTime<Utc>) -> Result<()> {
    let (tenants, used): (Vec<Uuid>, Vec<i64>) =
        levels.iter().map(|(tenant, used)| (tenant.0, *used)).unzip();
    let mut tx = db.begin().await?;
    let moved: Vec<TenantId> = sqlx::query_scalar(
        "WITH said AS (
             SELECT s.tenant, s.used, coalesce(level.used, 0) AS was,
                    (plan.entitlements->>'stored_bytes')::numeric AS most
               FROM unnest($1::uuid[], $2::bigint[]) AS s (tenant, used)
               JOIN tenant ON tenant.id = s.tenant JOIN plan ON plan.id = tenant.plan
               LEFT JOIN quota_level level
                 ON (level.tenant, level.quota, level.period) = (s.tenant, 'stored_bytes', $3)),
         put AS (
             INSERT INTO quota_level AS level (tenant, quota, period, used, updated_at)
             SELECT tenant, 'stored_bytes', $3, used, $4 FROM said ORDER BY tenant
             ON CONFLICT (tenant, quota, period) DO UPDATE
                SET used = EXCLUDED.used, updated_at = EXCLUDED.updated_at
              WHERE level.used <> EXCLUDED.used)
         SELECT tenant FROM said
          WHERE (used >= most) <> (was >= most) OR (used * 100.0 >= most * 80) <> (was * 100.0 >= most * 80)
          ORDER BY tenant",
    )
    .bind(tenants)
    .bind(used)
    .bind(ALWAYS)
    .bind(now)
    .fetch_all(&mut *tx)
    .await?;
    for tenant in moved {
        changes::notify(&mut tx, Change::Tenant(tenant)).await?;
    }
    tx.commit().await?;
    Ok(())
}
