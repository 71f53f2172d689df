//! Bringing shards and tenant schemas to this build's version, one after the other.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::shards::{shard_by_id, shard_list};
use super::slots::{self, next_fence};
use super::{Hands, registry};
use crate::db::schema::Schema;
use crate::db::{admin, prepare};
use crate::kernel::ids::{ShardId, TenantId};
use crate::kernel::{Error, Result, codes};

/// How one shard or tenant fared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// A shard's name or a tenant's slug.
    pub name: String,
    pub version: Option<i64>,
    pub error: Option<String>,
}

/// Prepares every shard again: its `freehold` schema at the newest version, everything closed that can be.
pub async fn migrate_shards(hands: &Hands, mut done: impl FnMut(&Outcome)) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for shard in shard_list(&mut *hands.cp.db.acquire().await?).await? {
        let prepared = async {
            let options = admin::options(&shard.admin_dsn()?.read(Some(&hands.master))?)?;
            let prepared = prepare::prepare(&options).await?;
            registry::claim(&hands.cp.db, shard.id, &options).await?;
            Ok::<_, Error>(prepared)
        };
        let outcome = match prepared.await {
            Ok(prepared) => Outcome { name: shard.name, version: Some(prepared.migrated.to), error: None },
            Err(error) => Outcome { name: shard.name, version: None, error: Some(error.to_string()) },
        };
        done(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

#[derive(sqlx::FromRow)]
struct Behind {
    tenant: TenantId,
    slug: String,
    shard: ShardId,
    schema_name: String,
    credential_version: i32,
}

/// Brings every tenant's schema, and every spare slot, to the newest version. One that fails stays on its old version,
/// served as before; the others go on.
pub async fn migrate_tenants(hands: &Hands, mut done: impl FnMut(&Outcome)) -> Result<Vec<Outcome>> {
    let behind: Vec<Behind> = sqlx::query_as(
        "SELECT p.tenant, t.slug, p.shard, p.schema_name, p.credential_version
           FROM placement p JOIN tenant t ON t.id = p.tenant
          WHERE p.version < $1 AND t.state <> 'provisioning' ORDER BY t.created_at, t.id",
    )
    .bind(hands.cp.schema_version())
    .fetch_all(&hands.cp.db)
    .await?;
    let mut outcomes = Vec::new();
    // A shard that is away is asked once, not for each of its thousands.
    let mut away = HashMap::new();
    for row in behind {
        let migrated = match away.get(&row.shard) {
            Some(why) => Err(String::clone(why)),
            None => migrate_tenant(hands, &row).await.map_err(|error| {
                if error.is(&codes::SHARD_UNAVAILABLE) {
                    away.insert(row.shard, error.to_string());
                }
                error.to_string()
            }),
        };
        let outcome = match migrated {
            Ok(version) => Outcome { name: row.slug, version: Some(version), error: None },
            Err(error) => Outcome { name: row.slug, version: None, error: Some(error) },
        };
        done(&outcome);
        outcomes.push(outcome);
    }
    slots::repair(hands).await?;
    Ok(outcomes)
}

async fn migrate_tenant(hands: &Hands, row: &Behind) -> Result<i64> {
    let mut control = hands.cp.db.acquire().await?;
    let shard = shard_by_id(&mut control, row.shard).await?;
    let fence = next_fence(&mut control).await?;
    drop(control);
    let schema = Schema {
        name: &row.schema_name,
        database: shard.database()?,
        credential_version: row.credential_version,
        fence: Some(fence),
    };
    let version = schema.migrate(&mut *hands.admin(&shard).await?, hands.cp.tables).await?;
    for statement in [
        "UPDATE placement SET version = $2 WHERE schema_name = $1",
        "UPDATE slot SET version = $2 WHERE schema_name = $1",
    ] {
        sqlx::query(statement).bind(&row.schema_name).bind(version).execute(&hands.cp.db).await?;
    }
    tracing::info!(tenant = %row.tenant, version, "migrated");
    Ok(version)
}
