//! Shard pools and shards.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use super::ControlPlane;
use super::audit::{Caller, audit_add};
use super::changes::{self, Change};
use super::plans::Tier;
use super::provisioning::SHARD_PREPARE;
use crate::db::admin_dsn::AdminDsn;
use crate::db::on_constraint;
use crate::db::tenant_tls::TenantTls;
use crate::jobs::wake;
use crate::kernel::ids::{RunId, ShardId};
use crate::kernel::{Error, Result, SecretRef, codes};

/// A named group of shards that a plan may be placed on.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct ShardPool {
    pub name: String,
    pub region: String,
    pub tier: Tier,
    pub created_at: DateTime<Utc>,
}

/// What a new pool is to be.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPool {
    #[garde(custom(short_name))]
    pub name: String,
    #[garde(length(chars, min = 1, max = 60))]
    pub region: String,
    #[garde(skip)]
    pub tier: Tier,
}

/// Whether a shard takes new tenants, only serves the ones it has, or neither.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ShardState {
    Active,
    Draining,
    Offline,
}

impl ShardState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Offline => "offline",
        }
    }
}

/// A shard, as people and scripts see it.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Shard {
    pub id: ShardId,
    pub name: String,
    pub pool: String,
    pub region: String,
    pub state: ShardState,
    pub tenants: i32,
    pub tenant_cap: i32,
    /// Spare slots that are ready.
    pub slots_ready: i64,
    /// Spare slots that the reconciler keeps ready.
    pub slot_target: i32,
    pub host: Option<String>,
    pub port: Option<i32>,
    pub database: Option<String>,
    /// Where the admin DSN is kept, or how it is derived; never the DSN.
    pub admin_dsn_ref: String,
    /// Size of the database at the last look.
    pub bytes: i64,
    pub last_seen_at: Option<DateTime<Utc>>,
    /// Why the last look failed.
    pub last_failure: Option<String>,
    pub created_at: DateTime<Utc>,
}

impl Shard {
    pub fn admin_dsn(&self) -> Result<AdminDsn> {
        self.admin_dsn_ref.parse().map_err(|why: String| Error::internal(why))
    }

    /// The database's name, known once the shard was prepared.
    pub fn database(&self) -> Result<&str> {
        self.database.as_deref().ok_or_else(|| {
            Error::new(&codes::STATE_CONFLICT)
                .detail(format!("shard {} is not prepared yet", self.name))
                .hint("see why with: freehold run list --open")
        })
    }
}

/// What a new shard is to be.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewShard {
    #[garde(custom(short_name))]
    pub name: String,
    #[garde(skip)]
    pub pool: String,
    /// Where the admin DSN is kept: `env:NAME` or `file:/path`.
    #[garde(skip)]
    #[schema(value_type = String, example = "file:/run/secrets/shard-1")]
    pub dsn: SecretRef,
    /// The most tenants it may hold.
    #[garde(range(min = 1, max = 100_000))]
    pub tenant_cap: i32,
    /// Spare slots to keep ready.
    #[garde(range(min = 0, max = 1_000))]
    pub slots: i32,
}

fn short_name(name: &str, (): &()) -> garde::Result {
    let fine = (2..=31).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if fine {
        Ok(())
    } else {
        Err(garde::Error::new("2 to 31 characters a-z, 0-9 and -, starting with a letter"))
    }
}

/// Adds a pool.
pub async fn pool_add(cp: &ControlPlane, caller: &Caller, new: &NewPool) -> Result<ShardPool> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let pool = sqlx::query_as(
        "INSERT INTO shard_pool (name, region, tier, created_at) VALUES ($1, $2, $3, $4)
         RETURNING name, region, tier, created_at",
    )
    .bind(&new.name)
    .bind(&new.region)
    .bind(new.tier)
    .bind(now)
    .fetch_one(&mut *tx)
    .await
    .map_err(on_constraint("shard_pool_pkey", &codes::NAME_TAKEN))?;
    audit_add(&mut tx, caller, now, "pool.add", None, &new.name, json!({ "region": new.region })).await?;
    tx.commit().await?;
    Ok(pool)
}

pub async fn pool_list(conn: &mut PgConnection) -> Result<Vec<ShardPool>> {
    Ok(sqlx::query_as("SELECT name, region, tier, created_at FROM shard_pool ORDER BY name")
        .fetch_all(conn)
        .await?)
}

/// Registers a shard and records the run that prepares it. It takes tenants once that run is done.
pub async fn shard_add(cp: &ControlPlane, caller: &Caller, new: &NewShard) -> Result<(ShardId, RunId)> {
    let now = cp.clock.now();
    let id = ShardId::new();
    let mut tx = cp.db.begin().await?;
    let region: String = sqlx::query_scalar("SELECT region FROM shard_pool WHERE name = $1")
        .bind(&new.pool)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| {
            Error::field("pool", format!("there is no pool {:?}", new.pool))
                .hint("see them with: freehold pool list; add one with: freehold pool add")
        })?;
    sqlx::query(
        "INSERT INTO shard (id, name, pool, region, state, tenant_cap, admin_dsn_ref, slot_target, created_at)
         VALUES ($1, $2, $3, $4, 'offline', $5, $6, $7, $8)",
    )
    .bind(id)
    .bind(&new.name)
    .bind(&new.pool)
    .bind(region)
    .bind(new.tenant_cap)
    .bind(new.dsn.to_string())
    .bind(new.slots)
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(on_constraint("shard_name_key", &codes::NAME_TAKEN))?;
    let run = SHARD_PREPARE.record(&mut tx, id.to_string(), None, &json!({ "shard": id }), 0, now).await?;
    audit_add(&mut tx, caller, now, "shard.add", None, &new.name, json!({ "pool": new.pool })).await?;
    tx.commit().await?;
    Ok((id, run))
}

const SHARD_SELECT: &str = "SELECT s.id, s.name, s.pool, s.region, s.state, s.tenants, s.tenant_cap,
        (SELECT count(*) FROM slot WHERE slot.shard = s.id AND slot.state = 'ready') AS slots_ready,
        s.slot_target, s.host, s.port, s.database, s.admin_dsn_ref, s.bytes, s.last_seen_at, s.last_failure,
        s.created_at
   FROM shard s";

pub async fn shard_list(conn: &mut PgConnection) -> Result<Vec<Shard>> {
    Ok(sqlx::QueryBuilder::new(SHARD_SELECT)
        .push(" ORDER BY s.name")
        .build_query_as()
        .fetch_all(conn)
        .await?)
}

/// Which shard: its name or its id.
pub async fn shard_find(conn: &mut PgConnection, name_or_id: &str) -> Result<Shard> {
    let mut query = sqlx::QueryBuilder::new(SHARD_SELECT);
    match name_or_id.parse::<ShardId>() {
        Ok(id) => query.push(" WHERE s.id = ").push_bind(id),
        Err(_) => query.push(" WHERE s.name = ").push_bind(name_or_id),
    };
    query.build_query_as().fetch_optional(conn).await?.ok_or_else(|| {
        Error::new(&codes::NOT_FOUND)
            .detail(format!("there is no shard {name_or_id:?}"))
            .hint("see them with: freehold shard list")
    })
}

pub async fn shard_by_id(conn: &mut PgConnection, id: ShardId) -> Result<Shard> {
    shard_find(conn, &id.to_string()).await
}

/// How logins protect their connection to a prepared shard: `disable` or `verify-full`.
pub async fn shard_tls(conn: &mut PgConnection, id: ShardId) -> Result<String> {
    Ok(sqlx::query_scalar("SELECT tls FROM shard WHERE id = $1 AND tls IS NOT NULL")
        .bind(id)
        .fetch_one(conn)
        .await?)
}

/// Lets a shard take tenants, or stops it from taking any more.
pub async fn shard_set_state(
    cp: &ControlPlane,
    caller: &Caller,
    name_or_id: &str,
    state: ShardState,
) -> Result<Shard> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let shard = shard_find(&mut tx, name_or_id).await?;
    shard.database()?;
    sqlx::query("UPDATE shard SET state = $2 WHERE id = $1")
        .bind(shard.id)
        .bind(state)
        .execute(&mut *tx)
        .await?;
    audit_add(
        &mut tx,
        caller,
        now,
        "shard.state",
        None,
        &shard.name,
        json!({ "from": shard.state, "to": state }),
    )
    .await?;
    changes::notify(&mut tx, Change::All).await?;
    tx.commit().await?;
    Ok(Shard { state, ..shard })
}

/// Sets how many spare slots a shard keeps. The worker makes what is missing.
pub async fn shard_set_slots(
    cp: &ControlPlane,
    caller: &Caller,
    name_or_id: &str,
    target: i32,
) -> Result<Shard> {
    let mut tx = cp.db.begin().await?;
    let shard = shard_find(&mut tx, name_or_id).await?;
    if shard.slot_target == target {
        return Ok(shard);
    }
    sqlx::query("UPDATE shard SET slot_target = $2 WHERE id = $1")
        .bind(shard.id)
        .bind(target)
        .execute(&mut *tx)
        .await?;
    let detail = json!({ "from": shard.slot_target, "to": target });
    audit_add(&mut tx, caller, cp.clock.now(), "shard.slots", None, &shard.name, detail).await?;
    wake::workers(&mut tx).await?;
    tx.commit().await?;
    Ok(Shard { slot_target: target, ..shard })
}

/// Registers a shard under a new address, with how tenants protect their connections to it; for a server that has moved.
pub async fn shard_set_endpoint(
    conn: &mut PgConnection,
    id: ShardId,
    options: &PgConnectOptions,
    tls: &TenantTls,
) -> Result<()> {
    let database = options.get_database().unwrap_or(options.get_username()).to_owned();
    sqlx::query(
        "UPDATE shard SET host = $2, port = $3, database = $4, tls = $5, tls_ca = $6, last_failure = NULL,
                last_seen_at = clock_timestamp()
          WHERE id = $1",
    )
    .bind(id)
    .bind(options.get_host())
    .bind(i32::from(options.get_port()))
    .bind(database)
    .bind(tls.mode)
    .bind(&tls.ca)
    .execute(&mut *conn)
    .await
    .map_err(|error| match crate::db::violated(&error) {
        Some("shard_host_port_database_key") => {
            Error::new(&codes::NAME_TAKEN).detail("another shard already uses this database").source(error)
        }
        _ => error.into(),
    })?;
    changes::notify(conn, Change::All).await?;
    Ok(())
}
