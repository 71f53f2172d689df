//! The directory's questions to the control database: one statement per lookup.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sqlx::types::Json;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::entry::{Key, Tenant};
use crate::billing::access::Access;
use crate::control_plane::plans::Entitlements;
use crate::control_plane::tenants::TenantState;
use crate::data_plane::broker::{Endpoint, Login, Tls};
use crate::kernel::credentials::KeyHash;
use crate::kernel::ids::{ApiKeyId, ShardId, TenantId};
use crate::kernel::{Role, Slug};

/// Why there is no answer. A row that makes no sense is not the client's fault and not an outage: the log has to show it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("tenant {0}: {1}")]
    Nonsense(TenantId, String),
    #[error("too many lookups at once")]
    Crowd,
    #[error("the lookup panicked")]
    Panicked,
}

type Plan = (Arc<str>, Arc<Entitlements>);

/// Values that many tenants share, kept once: at 10,000 tenants the difference is megabytes.
#[derive(Debug, Default)]
pub struct Shared {
    endpoints: Mutex<HashMap<ShardId, Arc<Endpoint>>>,
    plans: Mutex<HashMap<String, Plan>>,
}

impl Shared {
    fn endpoint(&self, shard: ShardId, new: Endpoint) -> Arc<Endpoint> {
        let mut endpoints = self.endpoints.lock();
        match endpoints.get(&shard) {
            Some(known) if **known == new => known.clone(),
            _ => {
                let new = Arc::new(new);
                endpoints.insert(shard, new.clone());
                new
            }
        }
    }

    fn plan(&self, id: String, limits: Entitlements) -> Plan {
        let mut plans = self.plans.lock();
        match plans.get(&id) {
            Some(known) if *known.1 == limits => known.clone(),
            _ => {
                let new = (Arc::from(id.as_str()), Arc::new(limits));
                plans.insert(id, new.clone());
                new
            }
        }
    }
}

#[derive(FromRow)]
struct TenantRow {
    id: Uuid,
    slug: String,
    name: String,
    state: TenantState,
    plan: String,
    access: Option<Access>,
    epoch: i64,
    entitlements: Json<Entitlements>,
    stored_bytes: i64,
    domains: Vec<String>,
    schema_name: Option<String>,
    credential_version: Option<i32>,
    shard: Option<Uuid>,
    host: Option<String>,
    port: Option<i32>,
    database: Option<String>,
    tls: Option<String>,
    tls_ca: Option<String>,
}

macro_rules! tenant_where {
    ($condition:literal) => {
        concat!(
            "SELECT t.id, t.slug, t.name, t.state, t.plan, t.epoch, plan.entitlements, account.access,
                    coalesce((SELECT q.used FROM quota_level q
                               WHERE q.tenant = t.id AND q.quota = 'stored_bytes' AND q.period = '1970-01-01'), 0)
                        AS stored_bytes,
                    array(SELECT d.domain FROM tenant_domain d WHERE d.tenant = t.id ORDER BY 1) AS domains,
                    p.schema_name, p.credential_version, s.id AS shard, s.host, s.port, s.database, s.tls,
                    s.tls_ca
             FROM tenant t
             JOIN plan ON plan.id = t.plan
             LEFT JOIN billing_account account ON account.tenant = t.id
             LEFT JOIN placement p ON p.tenant = t.id
             LEFT JOIN shard s ON s.id = p.shard
             WHERE t.state <> 'deleted' AND ",
            $condition
        )
    };
}

pub async fn tenant_by_id(
    db: &PgPool,
    shared: &Shared,
    id: TenantId,
) -> Result<Option<Arc<Tenant>>, LoadError> {
    let row =
        sqlx::query_as::<_, TenantRow>(tenant_where!("t.id = $1")).bind(id.0).fetch_optional(db).await?;
    row.map(|row| tenant(row, shared)).transpose()
}

pub async fn tenant_by_slug(
    db: &PgPool,
    shared: &Shared,
    slug: &Slug,
) -> Result<Option<Arc<Tenant>>, LoadError> {
    let row = sqlx::query_as::<_, TenantRow>(tenant_where!("t.slug = $1"))
        .bind(slug.as_str())
        .fetch_optional(db)
        .await?;
    row.map(|row| tenant(row, shared)).transpose()
}

pub async fn tenant_by_domain(
    db: &PgPool,
    shared: &Shared,
    domain: &str,
) -> Result<Option<Arc<Tenant>>, LoadError> {
    let row = sqlx::query_as::<_, TenantRow>(tenant_where!(
        "t.id = (SELECT d.tenant FROM tenant_domain d WHERE d.domain = $1)"
    ))
    .bind(domain)
    .fetch_optional(db)
    .await?;
    row.map(|row| tenant(row, shared)).transpose()
}

fn tenant(row: TenantRow, shared: &Shared) -> Result<Arc<Tenant>, LoadError> {
    let id = TenantId(row.id);
    let nonsense = |why: &str| LoadError::Nonsense(id, why.to_owned());
    let login = match (row.shard, row.schema_name, row.host, row.port, row.database) {
        (Some(shard), Some(schema), Some(host), Some(port), Some(database)) => {
            let shard = ShardId(shard);
            let tls = match row.tls.as_deref() {
                Some("disable") => Tls::Off,
                Some("verify-full") => Tls::Verify { ca: row.tls_ca.map(Into::into) },
                other => return Err(nonsense(&format!("unknown tls mode {other:?}"))),
            };
            let port = u16::try_from(port).map_err(|_| nonsense("port out of range"))?;
            Some(Login {
                shard,
                endpoint: shared.endpoint(shard, Endpoint { host, port, database, tls }),
                role: schema.into(),
                credential_version: row.credential_version.unwrap_or(1),
                epoch: row.epoch,
                ceiling: row.entitlements.connections,
            })
        }
        _ => None,
    };
    let (plan, limits) = shared.plan(row.plan, row.entitlements.0);
    Ok(Arc::new(Tenant {
        id,
        slug: Slug::parse(&row.slug).map_err(|error| nonsense(&format!("slug {}: {error}", row.slug)))?,
        name: row.name.into(),
        state: row.state,
        plan,
        limits,
        stored_bytes: u64::try_from(row.stored_bytes).unwrap_or(0),
        // Without an account nothing is owed.
        access: row.access.unwrap_or_default(),
        epoch: row.epoch,
        domains: row.domains.into_iter().map(Into::into).collect(),
        login,
    }))
}

#[derive(FromRow)]
struct KeyRow {
    id: ApiKeyId,
    tenant: TenantId,
    name: String,
    role: Role,
    scopes: Option<Vec<String>>,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
}

pub async fn key_by_hash(db: &PgPool, hash: &KeyHash) -> Result<Option<Arc<Key>>, LoadError> {
    let row = sqlx::query_as::<_, KeyRow>(
        "SELECT id, tenant, name, role, scopes, expires_at, last_used_at
         FROM api_key WHERE key_hash = $1 AND revoked_at IS NULL",
    )
    .bind(hash.as_slice())
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| {
        Arc::new(Key {
            id: row.id,
            tenant: row.tenant,
            name: row.name.into(),
            role: row.role,
            scopes: row.scopes.map(|all| all.into_iter().map(String::into_boxed_str).collect()),
            expires_at: row.expires_at,
            noted_ms: AtomicI64::new(row.last_used_at.map_or(0, |at| at.timestamp_millis())),
        })
    }))
}

/// Notes when keys were last used, all in one statement. A later time is never replaced by an earlier one.
pub async fn keys_used(db: &PgPool, uses: &[(ApiKeyId, DateTime<Utc>)]) -> Result<(), sqlx::Error> {
    let (ids, times): (Vec<Uuid>, Vec<DateTime<Utc>>) = uses.iter().map(|(id, at)| (id.0, *at)).unzip();
    sqlx::query(
        "UPDATE api_key k SET last_used_at = greatest(k.last_used_at, used.at)
         FROM unnest($1::uuid[], $2::timestamptz[]) AS used (id, at)
         WHERE k.id = used.id",
    )
    .bind(ids)
    .bind(times)
    .execute(db)
    .await
    .map(drop)
}
