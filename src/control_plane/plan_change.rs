//! A tenant moves to another plan. What it may use from then on is in effect on every server within a second: they hear of
//! it when the transaction commits. Money is the caller's business (`billing::customers`).

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::audit::{Caller, audit_add};
use super::changes::{self, Change};
use super::plans::{Plan, plan_by_id, plan_on_sale, same_tier};
use super::provisioning::align_later;
use super::tenants::{TenantRef, TenantState, tenant_lock};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// Whether a tenant of a plan can be given another one where it is: to be asked before the other one is sold.
///
/// # Errors
/// `tier_change_unavailable`; `state_conflict` for a plan whose tenants live in another pool of shards.
pub async fn within_reach(conn: &mut PgConnection, from: &str, to: &Plan) -> Result<()> {
    let Some(from) = plan_by_id(conn, from).await? else { return Ok(()) };
    same_tier(from.tier, to.tier)?;
    if from.shard_pool != to.shard_pool {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("tenants of plan {} live in the shard pool {}", to.id, to.shard_pool))
            .hint("the tenant has to be moved there first"));
    }
    Ok(())
}

/// Gives a tenant another plan in the caller's transaction, and gives the plan. The one it has already changes nothing.
/// More may be in use than the new plan grants: what is there stays, and no more comes.
///
/// # Errors
/// `tenant_not_found`; `tier_change_unavailable`; `state_conflict` for one that is being deleted, and for a plan whose
/// tenants live in another pool of shards; `invalid_fields` for a plan that is not sold.
pub async fn tenant_plan_set(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    plan: &str,
    now: DateTime<Utc>,
) -> Result<Plan> {
    let row = tenant_lock(&mut *conn, &TenantRef::Id(tenant)).await?;
    if matches!(row.state, TenantState::Deleting | TenantState::Deleted) {
        return Err(
            Error::new(&codes::STATE_CONFLICT).detail(format!("tenant {} is {}", row.slug, row.state))
        );
    }
    if row.plan == plan {
        // One that is no longer sold may be kept.
        let kept = plan_by_id(&mut *conn, plan).await?;
        return kept.ok_or_else(|| Error::internal(format!("tenant {tenant} has no plan")));
    }
    let to = plan_on_sale(&mut *conn, plan).await?;
    within_reach(&mut *conn, &row.plan, &to).await?;
    sqlx::query("UPDATE tenant SET plan = $2, updated_at = $3 WHERE id = $1")
        .bind(tenant)
        .bind(plan)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    let detail = json!({ "from": row.plan, "to": plan });
    audit_add(&mut *conn, caller, now, "tenant.plan", Some(tenant), &tenant.to_string(), detail).await?;
    // The login's own limits follow: they hold also for someone who has the password.
    align_later(&mut *conn, tenant, now).await?;
    changes::notify(conn, Change::Tenant(tenant)).await?;
    Ok(to)
}
