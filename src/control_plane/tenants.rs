//! Tenants: found, listed, renamed. How they come to be is in [`super::provisioning`], how they are shut and opened in
//! [`super::access`].

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::audit::{Caller, audit_add};
use super::changes::{self, Change};
use super::infra::resources::ResourcesState;
use super::plans::Tier;
use super::{Addresses, ControlPlane};
use crate::db::on_constraint;
use crate::jobs::run::Run;
use crate::kernel::ids::{RunId, ShardId, TenantId};
use crate::kernel::page::{Asked, Page};
use crate::kernel::{Error, Result, Slug, codes};

/// Where a tenant is in its life: provisioning → active ↔ suspended → deleting → deleted.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum TenantState {
    Provisioning,
    Active,
    Suspended,
    /// Shut, and removed for good at `purge_after`; `tenant undelete` brings it back until then.
    Deleting,
    Deleted,
}

impl TenantState {
    /// The pure state machine: may a tenant go from here to there?
    pub fn may_become(self, next: Self) -> bool {
        use TenantState::{Active, Deleted, Deleting, Provisioning, Suspended};
        matches!(
            (self, next),
            (Provisioning, Active | Deleted)
                | (Active, Suspended | Deleting)
                | (Suspended, Active | Deleting)
                | (Deleting, Active | Suspended | Deleted)
        )
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }
}

impl std::fmt::Display for TenantState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which tenant: its slug or its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantRef {
    Slug(String),
    Id(TenantId),
}

impl std::str::FromStr for TenantRef {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Slug(text.to_owned()), Self::Id))
    }
}

impl std::fmt::Display for TenantRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Slug(slug) => f.write_str(slug),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// A tenant as people and scripts see it.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tenant {
    pub id: TenantId,
    pub slug: String,
    pub name: String,
    pub state: TenantState,
    pub tier: Tier,
    pub plan: String,
    /// The shard's name; none once the tenant is deleted.
    pub shard: Option<String>,
    pub url: String,
    /// The run that last changed it.
    pub run: Option<RunId>,
    pub created_at: DateTime<Utc>,
    /// When it will be removed for good; only while deleting.
    pub purge_after: Option<DateTime<Utc>>,
}

/// A tenant with what only operators need.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TenantDetail {
    #[serde(flatten)]
    pub tenant: Tenant,
    pub schema: Option<String>,
    /// Its login; the same name as its schema.
    pub role: Option<String>,
    pub epoch: i64,
    /// The version of its schema.
    pub version: Option<i64>,
    pub state_reason: Option<String>,
    pub domains: Vec<String>,
    /// What it has in the cloud beside its schema: being made, or ready. None when its plan asks for nothing, or nothing
    /// is provisioned.
    pub resources: Option<ResourcesState>,
}

/// A tenant's row with its placement.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct TenantRow {
    pub id: TenantId,
    pub slug: String,
    pub name: String,
    pub state: TenantState,
    pub state_reason: Option<String>,
    pub plan: String,
    pub tier: Tier,
    pub epoch: i64,
    pub created_at: DateTime<Utc>,
    pub purge_after: Option<DateTime<Utc>>,
    pub shard: Option<ShardId>,
    pub shard_name: Option<String>,
    pub schema_name: Option<String>,
    pub credential_version: Option<i32>,
    pub version: Option<i64>,
    pub run: Option<RunId>,
    pub domains: Vec<String>,
    pub resources: Option<ResourcesState>,
}

impl TenantRow {
    pub fn view(self, addresses: &Addresses) -> Tenant {
        Tenant {
            url: addresses.tenant_url(&self.slug),
            id: self.id,
            slug: self.slug,
            name: self.name,
            state: self.state,
            tier: self.tier,
            plan: self.plan,
            shard: self.shard_name,
            run: self.run,
            created_at: self.created_at,
            purge_after: self.purge_after,
        }
    }

    pub fn detail(self, addresses: &Addresses) -> TenantDetail {
        TenantDetail {
            schema: self.schema_name.clone(),
            role: self.schema_name.clone(),
            epoch: self.epoch,
            version: self.version,
            state_reason: self.state_reason.clone(),
            domains: self.domains.clone(),
            resources: self.resources,
            tenant: self.view(addresses),
        }
    }
}

const TENANT_SELECT: &str =
    "SELECT t.id, t.slug, t.name, t.state, t.state_reason, t.plan, plan.tier, t.epoch, t.created_at, t.purge_after,
            p.shard, shard.name AS shard_name, p.schema_name, p.credential_version, p.version,
            (SELECT run.id FROM run WHERE run.tenant = t.id AND run.kind <> 'resources'
              ORDER BY run.id DESC LIMIT 1) AS run,
            (SELECT r.state FROM tenant_resources r WHERE r.tenant = t.id) AS resources,
            array(SELECT d.domain FROM tenant_domain d WHERE d.tenant = t.id ORDER BY d.domain) AS domains
       FROM tenant t JOIN plan ON plan.id = t.plan
       LEFT JOIN placement p ON p.tenant = t.id LEFT JOIN shard ON shard.id = p.shard";

/// The tenant with this slug or id. A deleted one is found by id only.
pub async fn tenant_find(conn: &mut PgConnection, tenant: &TenantRef) -> Result<TenantRow> {
    let mut query = sqlx::QueryBuilder::new(TENANT_SELECT);
    match tenant {
        TenantRef::Id(id) => query.push(" WHERE t.id = ").push_bind(*id),
        TenantRef::Slug(slug) => query.push(" WHERE t.state <> 'deleted' AND t.slug = ").push_bind(slug),
    };
    query.build_query_as().fetch_optional(conn).await?.ok_or_else(|| {
        Error::new(&codes::TENANT_NOT_FOUND)
            .detail(format!("there is no tenant {tenant}"))
            .hint("see them with: freehold tenant list")
    })
}

/// Whether no living tenant has this slug at the moment. Only the insert decides.
pub async fn slug_is_free(conn: &mut PgConnection, slug: &Slug) -> Result<bool> {
    Ok(sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM tenant WHERE slug = $1 AND state <> 'deleted')")
        .bind(slug.as_str())
        .fetch_one(conn)
        .await?)
}

/// Holds a tenant's row until the transaction ends. Who changes its seats, its keys, its invitations or how its people sign in
/// does so first: each finds what the one before has left. What only refers to the tenant goes on meanwhile.
pub async fn tenant_hold(conn: &mut PgConnection, tenant: TenantId) -> Result<()> {
    sqlx::query("SELECT id FROM tenant WHERE id = $1 FOR NO KEY UPDATE").bind(tenant).execute(conn).await?;
    Ok(())
}

/// A tenant, locked until the transaction ends: a change of state starts here.
pub async fn tenant_lock(conn: &mut PgConnection, tenant: &TenantRef) -> Result<TenantRow> {
    let found = tenant_find(&mut *conn, tenant).await?;
    sqlx::query("SELECT 1 FROM tenant WHERE id = $1 FOR UPDATE").bind(found.id).execute(&mut *conn).await?;
    // Read again: it may have changed while we waited for the lock.
    tenant_find(conn, &TenantRef::Id(found.id)).await
}

/// Which tenants to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TenantFilter {
    pub state: Option<TenantState>,
    /// A shard's name.
    pub shard: Option<String>,
    pub plan: Option<String>,
    /// A part of its slug or name.
    pub search: Option<String>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Tenants by age, oldest first; deleted ones only when asked for.
pub async fn tenant_list(cp: &ControlPlane, filter: &TenantFilter) -> Result<Page<Tenant>> {
    let asked: Asked<(DateTime<Utc>, TenantId)> = Asked::of(filter.limit, filter.cursor.as_deref())?;
    let mut query = sqlx::QueryBuilder::new(TENANT_SELECT);
    match filter.state {
        Some(state) => query.push(" WHERE t.state = ").push_bind(state),
        None => query.push(" WHERE t.state <> 'deleted'"),
    };
    if let Some(shard) = &filter.shard {
        query.push(" AND shard.name = ").push_bind(shard);
    }
    if let Some(plan) = &filter.plan {
        query.push(" AND t.plan = ").push_bind(plan);
    }
    if let Some(search) = &filter.search {
        // No pattern: what somebody types means itself.
        let search = search.to_lowercase();
        query.push(" AND (strpos(t.slug, ").push_bind(search.clone());
        query.push(") > 0 OR strpos(lower(t.name), ").push_bind(search).push(") > 0)");
    }
    if let Some((at, id)) = asked.after {
        query.push(" AND (t.created_at, t.id) > (").push_bind(at).push(", ").push_bind(id).push(")");
    }
    query.push(" ORDER BY t.created_at, t.id LIMIT ").push_bind(asked.rows());
    let rows: Vec<TenantRow> = query.build_query_as().fetch_all(&cp.db).await?;
    let page = asked.page(rows, |row: &TenantRow| (row.created_at, row.id));
    Ok(page.map(|row| row.view(&cp.addresses)))
}

/// One tenant with its details.
pub async fn tenant_show(cp: &ControlPlane, tenant: &TenantRef) -> Result<TenantDetail> {
    Ok(tenant_find(&mut *cp.db.acquire().await?, tenant).await?.detail(&cp.addresses))
}

/// The tenant that a run was about, as it is now; a purged one too.
pub async fn tenant_of_run(cp: &ControlPlane, run: &Run) -> Result<Tenant> {
    let id = run.tenant.ok_or_else(|| Error::internal(format!("run {} is not about a tenant", run.id)))?;
    let row = tenant_find(&mut *cp.db.acquire().await?, &TenantRef::Id(id)).await?;
    Ok(row.view(&cp.addresses))
}

/// New names for a tenant; what is not given stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    #[garde(inner(custom(slug_rule)))]
    pub slug: Option<String>,
    #[garde(inner(length(chars, min = 1, max = 120)))]
    pub name: Option<String>,
}

/// A slug's rules, as a field check.
pub fn slug_rule(slug: &str, (): &()) -> garde::Result {
    Slug::parse(slug).map(drop).map_err(garde::Error::new)
}

/// Gives a tenant another slug, name or both. The old address stops working at once.
pub async fn tenant_rename(
    cp: &ControlPlane,
    caller: &Caller,
    tenant: &TenantRef,
    to: &Rename,
) -> Result<TenantDetail> {
    if to.slug.is_none() && to.name.is_none() {
        return Err(Error::field("name", "give a new name, a new slug, or both"));
    }
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let old = tenant_lock(&mut tx, tenant).await?;
    if matches!(old.state, TenantState::Deleting | TenantState::Deleted) {
        return Err(
            Error::new(&codes::STATE_CONFLICT).detail(format!("tenant {} is {}", old.slug, old.state))
        );
    }
    sqlx::query("UPDATE tenant SET slug = coalesce($2, slug), name = coalesce($3, name), updated_at = $4 WHERE id = $1")
        .bind(old.id)
        .bind(&to.slug)
        .bind(&to.name)
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(on_constraint("tenant_slug_live", &codes::SLUG_TAKEN))?;
    let detail = json!({ "from": { "slug": old.slug, "name": old.name }, "to": to });
    audit_add(&mut tx, caller, now, "tenant.rename", Some(old.id), &old.id.to_string(), detail).await?;
    changes::notify(&mut tx, Change::Tenant(old.id)).await?;
    tx.commit().await?;
    tenant_show(cp, &TenantRef::Id(old.id)).await
}

#[cfg(test)]
mod tests {
    use super::TenantState::{self, Active, Deleted, Deleting, Provisioning, Suspended};

    #[test]
    fn the_state_machine() {
        let all = [Provisioning, Active, Suspended, Deleting, Deleted];
        let allowed: Vec<(TenantState, TenantState)> = all
            .iter()
            .flat_map(|a| all.iter().map(move |b| (*a, *b)))
            .filter(|(a, b)| a.may_become(*b))
            .collect();
        assert_eq!(
            allowed,
            [
                (Provisioning, Active),
                (Provisioning, Deleted),
                (Active, Suspended),
                (Active, Deleting),
                (Suspended, Active),
                (Suspended, Deleting),
                (Deleting, Active),
                (Deleting, Suspended),
                (Deleting, Deleted),
            ]
        );
    }
}
