//! Which database is which shard, and how a shard leaves the registry.

use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use super::ControlPlane;
use super::audit::{Caller, audit_add};
use super::changes::{self, Change};
use super::shards::{Shard, ShardState, shard_by_id, shard_find};
use crate::db::admin::shard_error;
use crate::db::mark::{mark, mark_instead};
use crate::jobs::run::run_end;
use crate::kernel::ids::ShardId;
use crate::kernel::{Error, Result, codes};

/// Makes a prepared database this shard's. One that was a shard's which is gone from the registry may be taken, if nobody's
/// schemas are in it.
///
/// # Errors
/// `name_taken` when it is another shard's; `state_conflict` when it holds schemas of a shard that is not known here;
/// `shard_unavailable`.
pub(super) async fn claim(control: &PgPool, shard: ShardId, options: &PgConnectOptions) -> Result<()> {
    let mut conn = options.connect().await.map_err(shard_error)?;
    let found = mark(&mut conn, shard).await.map_err(shard_error)?;
    if found.shard != shard {
        let other: Option<String> = sqlx::query_scalar("SELECT name FROM shard WHERE id = $1")
            .bind(found.shard)
            .fetch_optional(control)
            .await?;
        if let Some(other) = other {
            return Err(Error::new(&codes::NAME_TAKEN)
                .detail(format!("its database is that of shard {other} already, under whatever address"))
                .hint("take this one out of the registry again with: freehold shard remove"));
        }
        if found.schemas > 0 {
            return Err(Error::new(&codes::STATE_CONFLICT)
                .detail(format!(
                    "its database is that of {}, which is no shard here, and holds {} schemas",
                    found.shard, found.schemas
                ))
                .hint(
                    "it may belong to another deployment; if it does not: DELETE FROM freehold.shard in it",
                ));
        }
        if !mark_instead(&mut conn, shard, found.shard).await.map_err(shard_error)? {
            return Err(Error::new(&codes::CONFLICT).detail("somebody else is making its database a shard"));
        }
    }
    conn.close().await.ok();
    Ok(())
}

/// Takes a shard out of the registry: one that was added by mistake, or is not needed any more. In its database nothing is
/// touched.
///
/// # Errors
/// `not_found`; `state_conflict` while it takes tenants, has any, has slots, is being prepared at this moment, was made for one
/// tenant, or may hold usage that is not in the ledger yet.
pub async fn shard_remove(cp: &ControlPlane, caller: &Caller, name_or_id: &str) -> Result<Shard> {
    let mut tx = cp.db.begin().await?;
    let id = shard_find(&mut tx, name_or_id).await?.id;
    // Whoever places a tenant there or makes a slot waits, and then finds no shard.
    sqlx::query("SELECT FROM shard WHERE id = $1 FOR UPDATE").bind(id).execute(&mut *tx).await?;
    let shard = shard_by_id(&mut tx, id).await?;
    if let Some((why, hint)) = kept_by(&mut tx, &shard).await? {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("shard {} cannot be removed: {why}", shard.name))
            .hint(hint));
    }
    run_end(&mut tx, &id.to_string(), "the shard was removed").await?;
    sqlx::query("DELETE FROM shard WHERE id = $1").bind(id).execute(&mut *tx).await?;
    let detail = json!({ "pool": shard.pool, "host": shard.host, "database": shard.database });
    audit_add(&mut tx, caller, cp.clock.now(), "shard.remove", None, &shard.name, detail).await?;
    changes::notify(&mut tx, Change::All).await?;
    tx.commit().await?;
    Ok(shard)
}

#[derive(sqlx::FromRow)]
struct Holds {
    tenants: i64,
    slots: i64,
    of_a_tenant: bool,
    usage: bool,
}

/// Why a shard has to stay, and what to do about it.
async fn kept_by(tx: &mut PgConnection, shard: &Shard) -> Result<Option<(String, &'static str)>> {
    let holds: Holds = sqlx::query_as(
        "SELECT (SELECT count(*) FROM placement WHERE shard = $1) AS tenants,
                (SELECT count(*) FROM slot WHERE shard = $1) AS slots,
                EXISTS (SELECT FROM tenant_resources WHERE server = $2) AS of_a_tenant,
                -- What a purged tenant used was committed there before its purge began.
                EXISTS (SELECT FROM run
                         WHERE kind = 'purge' AND input->>'shard' = $3
                           AND created_at > coalesce((SELECT emptied_at FROM usage_relay WHERE shard = $1), '-infinity')) AS usage",
    )
    .bind(shard.id)
    .bind(&shard.name)
    .bind(shard.id.to_string())
    .fetch_one(tx)
    .await?;
    Ok(if holds.of_a_tenant {
        Some(("it was made for one tenant".to_owned(), "it goes with its tenant: freehold tenant purge"))
    } else if shard.state == ShardState::Active {
        Some(("it takes new tenants".to_owned(), "first: freehold shard drain"))
    } else if holds.tenants > 0 || shard.tenants > 0 {
        let tenants = holds.tenants.max(shard.tenants.into());
        Some((
            format!("tenants are on it ({tenants}, deleted ones included)"),
            "see them with: freehold tenant list --shard",
        ))
    } else if holds.slots > 0 {
        Some((
            format!("slots are on it ({})", holds.slots),
            "a worker removes them after: freehold slot fill --target 0 --shard",
        ))
    } else if holds.usage {
        Some((
            "what its last tenants used may not be in the ledger yet".to_owned(),
            "a worker carries it over within seconds, if the shard answers",
        ))
    } else {
        None
    })
}
