//! A tenant with a database server of its own: its server, the registry, its database, its schema, what else it has in the
//! cloud; then it is active. It waits for all of that, and nobody else waits with it.
//!
//! The row in `tenant_resources` names the server before anything is made, and goes after everything is removed. Nothing here
//! removes a server by itself: a run that fails goes on trying, and an operator may turn it round (`freehold run undo`). What
//! may be removed is asked at the moment of removing ([`remove_server`]), and once more of the plan, by the adapter.

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::resources::{make_ready, told, whose};
use super::{MadeFor, ShardCloud, Target};
use crate::control_plane::changes::{self, Change};
use crate::control_plane::plans::{Entitlements, Plan};
use crate::control_plane::provisioning::{
    activate, make_schema, nothing, open_account, shard_open, shard_prepare, take_account_back,
};
use crate::control_plane::slots::new_schema_name;
use crate::control_plane::tenants::{TenantRef, TenantState, tenant_find};
use crate::control_plane::{ControlPlane, Hands};
use crate::db::admin_dsn::AdminDsn;
use crate::jobs::run::{NewRun, run_record};
use crate::jobs::saga::{self, Held, Kind, OnFailure, Pace, StepDef, Writes};
use crate::kernel::ids::{RunId, ShardId, TenantId};
use crate::kernel::{Error, Result, codes};

/// A worker that provisions says so every ten seconds; after this many without a word nobody counts on it.
const SEEN_SECONDS: f64 = 60.0;
/// The first version of a server's password. Nothing raises it yet.
const PASSWORD_VERSION: i32 = 1;

/// reserve → server → register → prepare → open → schema → resources → billing → activate.
pub static DEDICATED: Kind<Hands> = Kind {
    name: "provision_dedicated",
    steps: &[
        StepDef { name: "reserve", run: nothing, undo: Some(release) },
        StepDef { name: "server", run: make_server, undo: Some(unmake_server) },
        StepDef { name: "register", run: register, undo: Some(unregister) },
        StepDef { name: "prepare", run: shard_prepare, undo: None },
        StepDef { name: "open", run: shard_open, undo: None },
        StepDef { name: "schema", run: make_schema, undo: None },
        StepDef { name: "resources", run: make_resources, undo: Some(unmake_resources) },
        StepDef { name: "billing", run: open_account, undo: Some(take_account_back) },
        StepDef { name: "activate", run: activate, undo: None },
    ],
    on_failure: OnFailure::Retry,
    pace: Pace::Slow,
};

/// What all attempts must know. `tenant`, `shard`, `schema` and `limits` are what provisioning's own steps read.
#[derive(Debug, Serialize, Deserialize)]
struct Input {
    tenant: TenantId,
    shard: ShardId,
    server: String,
    pool: String,
    schema: String,
    limits: Limits,
}

#[derive(Debug, Serialize, Deserialize)]
struct Limits {
    connections: i32,
    statement_timeout_ms: i32,
}

/// What the server of a tenant's own is called: it never changes, and nobody else's is called so.
pub fn server_name(tenant: TenantId) -> String {
    let id = tenant.to_string();
    format!("d-{}", id.trim_start_matches("ten_"))
}

/// How an adapter is asked for it.
pub(super) fn server(hands: &Hands, name: &str, tenant: TenantId) -> ShardCloud {
    let admin_password = hands.master.server_password(name, PASSWORD_VERSION);
    ShardCloud { name: name.to_owned(), made_for: Some(MadeFor { tenant, admin_password }) }
}

/// Says that this worker can make servers. Those that have not said so for a day are forgotten.
///
/// # Errors
/// Those of the control database.
pub async fn seen(hands: &Hands) -> Result<()> {
    if !hands.cloud.is_there() || !hands.cloud.get()?.makes_servers() {
        return Ok(());
    }
    sqlx::query(
        "WITH gone AS (DELETE FROM infra_worker WHERE seen_at < clock_timestamp() - interval '1 day' AND worker <> $1)
         INSERT INTO infra_worker (worker, seen_at) VALUES ($1, clock_timestamp())
         ON CONFLICT (worker) DO UPDATE SET seen_at = EXCLUDED.seen_at",
    )
    .bind(&hands.worker)
    .execute(&hands.cp.db)
    .await?;
    Ok(())
}

/// Records the run that makes a server for a tenant whose row the caller has just written.
///
/// # Errors
/// `no_capacity` when nobody makes servers, or the plan's pool is not there.
pub(in crate::control_plane) async fn begin(
    cp: &ControlPlane,
    tx: &mut PgConnection,
    tenant: TenantId,
    plan: &Plan,
    now: DateTime<Utc>,
) -> Result<RunId> {
    let (anybody, pool): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM infra_worker WHERE seen_at > clock_timestamp() - make_interval(secs => $1)),
                EXISTS (SELECT FROM shard_pool WHERE name = $2)",
    )
    .bind(SEEN_SECONDS)
    .bind(&plan.shard_pool)
    .fetch_one(&mut *tx)
    .await?;
    if !anybody {
        return Err(Error::new(&codes::NO_CAPACITY)
            .detail(format!("no shard of pool {} is free, and nobody makes servers", plan.shard_pool))
            .hint("start a worker whose --infra names a cloud with a network; or add a shard with: freehold shard add"));
    }
    if !pool {
        return Err(Error::new(&codes::NO_CAPACITY)
            .detail(format!("there is no pool {}", plan.shard_pool))
            .hint("add it with: freehold pool add --tier dedicated"));
    }
    let server = server_name(tenant);
    sqlx::query(
        "INSERT INTO tenant_resources (tenant, state, server, updated_at) VALUES ($1, 'pending', $2, $3)",
    )
    .bind(tenant)
    .bind(&server)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let limits = login_limits(&plan.entitlements);
    let input = Input {
        tenant,
        shard: ShardId::new(),
        server,
        pool: plan.shard_pool.clone(),
        schema: new_schema_name(cp),
        limits,
    };
    let run = NewRun {
        kind: DEDICATED.name,
        subject: tenant.to_string(),
        tenant: Some(tenant),
        input: serde_json::to_value(&input).map_err(Error::internal)?,
        steps: &DEDICATED.step_names(),
        done: 1,
    };
    run_record(tx, &run, now).await
}

fn login_limits(entitlements: &Entitlements) -> Limits {
    let limits = entitlements.login_limits();
    Limits { connections: limits.connections, statement_timeout_ms: limits.statement_timeout_ms }
}

fn make_server<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        let target = Target::Shard(server(hands, &input.server, input.tenant));
        let outputs =
            told(hands, held, |cloud, report| async move { cloud.apply(&target, report).await }).await?;
        let now = hands.cp.clock.now();
        saga::write(move |tx| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE tenant_resources SET server_outputs = $2, updated_at = $3 WHERE tenant = $1",
                )
                .bind(input.tenant)
                .bind(outputs)
                .bind(now)
                .execute(tx)
                .await?;
                Ok(())
            })
        })
    })
}

fn unmake_server<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        remove_server(hands, held, input.tenant).await?;
        Ok(None)
    })
}

/// Removes the server that was made for a tenant, if one was: an undo's step, and a purge's last.
///
/// The first gate of three. Only a server that is in no registry goes, and only when its tenant never was active or is gone
/// for good. The adapter takes its protections off, and then holds a plan against a list of what may go.
///
/// # Errors
/// `infra_refused` when it must stay; what the cloud says.
pub(in crate::control_plane) async fn remove_server(
    hands: &Hands,
    held: &Held,
    tenant: TenantId,
) -> Result<()> {
    let found: Option<(String, TenantState, bool)> = sqlx::query_as(
        "SELECT r.server, t.state, EXISTS (SELECT FROM shard WHERE shard.name = r.server)
           FROM tenant_resources r JOIN tenant t ON t.id = r.tenant
          WHERE r.tenant = $1 AND r.server IS NOT NULL",
    )
    .bind(tenant)
    .fetch_optional(&hands.cp.db)
    .await?;
    let Some((name, state, registered)) = found else { return Ok(()) };
    if registered || !matches!(state, TenantState::Provisioning | TenantState::Deleted) {
        return Err(Error::new(&codes::INFRA_REFUSED)
            .detail(format!("server {name} is in use: its tenant is {state}, registered: {registered}"))
            .hint(
                "a server goes with its tenant's purge, or with the undo of a tenant that never was active",
            ));
    }
    let target = Target::Shard(server(hands, &name, tenant));
    // Nothing of it is kept.
    told(hands, held, |cloud, report| async move { cloud.destroy(&target, report).await }).await.map(drop)
}

fn register<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        let address: Option<String> =
            sqlx::query_scalar("SELECT server_outputs->>'address' FROM tenant_resources WHERE tenant = $1")
                .bind(input.tenant)
                .fetch_one(&hands.cp.db)
                .await?;
        let address = address.ok_or_else(|| {
            Error::new(&codes::INFRA_FAILED).detail("the server that was made does not say where it is")
        })?;
        let dsn = AdminDsn::Derived { server: input.server.clone(), version: PASSWORD_VERSION, address };
        let now = hands.cp.clock.now();
        saga::write(move |tx| {
            Box::pin(async move {
                // Full from the beginning: its place is taken in the statement that makes it.
                sqlx::query(
                    "INSERT INTO shard (id, name, pool, region, state, tenant_cap, tenants, admin_dsn_ref, slot_target, created_at)
                     SELECT $1, $2, pool.name, pool.region, 'offline', 1, 1, $4, 0, $5 FROM shard_pool pool WHERE pool.name = $3
                     ON CONFLICT (id) DO NOTHING",
                )
                .bind(input.shard)
                .bind(&input.server)
                .bind(&input.pool)
                .bind(dsn.to_string())
                .bind(now)
                .execute(&mut *tx)
                .await?;
                sqlx::query(
                    "INSERT INTO slot (schema_name, shard, state, created_at) VALUES ($1, $2, 'claimed', $3)
                     ON CONFLICT (schema_name) DO NOTHING",
                )
                .bind(&input.schema)
                .bind(input.shard)
                .bind(now)
                .execute(&mut *tx)
                .await?;
                sqlx::query(
                    "INSERT INTO placement (tenant, shard, schema_name, placed_at) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (tenant) DO NOTHING",
                )
                .bind(input.tenant)
                .bind(input.shard)
                .bind(&input.schema)
                .bind(now)
                .execute(tx)
                .await?;
                Ok(())
            })
        })
    })
}

fn unregister<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        hands.admins.forget(input.shard);
        saga::write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM placement WHERE tenant = $1")
                    .bind(input.tenant)
                    .execute(&mut *tx)
                    .await?;
                forget_shard(&mut *tx, input.shard, &input.server).await?;
                Ok(changes::notify(tx, Change::All).await?)
            })
        })
    })
}

/// Takes a server that was made for one tenant out of the registry, with what is left of its slots. Its placement is gone
/// before: as long as somebody is placed there, the database refuses.
pub(in crate::control_plane) async fn forget_shard(
    tx: &mut PgConnection,
    shard: ShardId,
    server: &str,
) -> Result<()> {
    for statement in [
        "DELETE FROM slot USING shard WHERE slot.shard = shard.id AND shard.id = $1 AND shard.name = $2",
        "DELETE FROM shard WHERE id = $1 AND name = $2",
    ] {
        sqlx::query(statement).bind(shard).bind(server).execute(&mut *tx).await?;
    }
    Ok(())
}

fn make_resources<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        let row = tenant_find(&mut *hands.cp.db.acquire().await?, &TenantRef::Id(input.tenant)).await?;
        make_ready(hands, held, &row).await
    })
}

fn unmake_resources<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        let row = tenant_find(&mut *hands.cp.db.acquire().await?, &TenantRef::Id(input.tenant)).await?;
        let target = Target::Tenant(whose(hands, &row));
        told(hands, held, |cloud, report| async move { cloud.destroy(&target, report).await }).await?;
        Ok(None)
    })
}

fn release<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        let now = hands.cp.clock.now();
        saga::write(move |tx| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE tenant SET state = 'deleted', state_reason = 'provisioning failed', updated_at = $2
                      WHERE id = $1 AND state = 'provisioning'",
                )
                .bind(input.tenant)
                .bind(now)
                .execute(&mut *tx)
                .await?;
                for statement in [
                    "DELETE FROM infra_look WHERE tenant = $1",
                    "DELETE FROM tenant_resources WHERE tenant = $1",
                ] {
                    sqlx::query(statement).bind(input.tenant).execute(&mut *tx).await?;
                }
                Ok(changes::notify(tx, Change::Tenant(input.tenant)).await?)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_name_is_a_shards_name() {
        let tenant = TenantId::new();
        let name = server_name(tenant);
        assert_eq!(name.len(), 28, "{name}");
        assert!(name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{name}");
        assert_ne!(name, server_name(TenantId::new()));
    }
}
