//! Another plan, cancelling, taking that back, going on for nothing.

use serde_json::json;
use sqlx::PgConnection;

use super::subscriptions::{Kept, keep as keep_answer, prices};
use super::{before_asking, current, leaving, require_stripe};
use crate::billing::{Billing, access};
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::plan_change::{tenant_plan_set, within_reach};
use crate::control_plane::plans::plan_on_sale;
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// The tenant's living subscription.
async fn living(conn: &mut PgConnection, tenant: TenantId) -> Result<Kept> {
    current(conn, tenant).await?.filter(Kept::is_living).ok_or_else(|| {
        Error::new(&codes::STATE_CONFLICT)
            .detail("this workspace has no subscription")
            .hint("choose a plan and pay for it first")
    })
}

/// What makes two sendings of one intention one: the subscription, and how it was when the intention was made.
fn key(what: &str, subscription: &Kept) -> String {
    format!("{what}:{}:{}", subscription.id, subscription.fetched_at.timestamp_micros())
}

/// Changes the plan of a subscription at once, up or down; the rest of the period is settled on the next invoice.
///
/// # Errors
/// `invalid_fields` for a plan that is not on sale or costs nothing; `state_conflict` without a subscription, and for the
/// plan that it has; `tier_change_unavailable`; `payments_unavailable`.
pub async fn plan_change(billing: &Billing, caller: &Caller, tenant: TenantId, plan: &str) -> Result<()> {
    require_stripe(billing)?;
    let mut conn = billing.cp.db.acquire().await?;
    let plan = plan_on_sale(&mut conn, plan).await?;
    let subscription = living(&mut conn, tenant).await?;
    let has = tenant_find(&mut conn, &TenantRef::Id(tenant)).await?.plan;
    within_reach(&mut conn, &has, &plan).await?;
    drop(conn);
    if !plan.is_paid() {
        return Err(Error::field("plan", "costs nothing: cancel the subscription instead"));
    }
    if subscription.plan == plan.id {
        return Err(Error::new(&codes::STATE_CONFLICT).detail("this is the plan that the workspace has"));
    }
    if subscription.cancel_at.is_some() {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail("the subscription is cancelled")
            .hint("take the cancellation back first"));
    }
    let items = prices(billing, &plan).await?;
    let asked_at = before_asking(billing).await?;
    let key = key(&format!("plan:{}", plan.id), &subscription);
    let answer = billing.stripe.subscription_change(&subscription.id, &items, &plan.id, true, key).await?;
    keep_answer(billing, tenant, &answer, asked_at).await?;
    let detail = json!({ "from": subscription.plan, "to": plan.id, "subscription": subscription.id });
    note(billing, caller, tenant, "billing.plan", &subscription.id, detail).await?;
    access::settle_fresh(billing, tenant).await.map(drop)
}

/// Ends the subscription with its period.
///
/// # Errors
/// `state_conflict` without a subscription; `payments_unavailable`.
pub async fn cancel(billing: &Billing, caller: &Caller, tenant: TenantId) -> Result<()> {
    require_stripe(billing)?;
    let subscription = living(&mut *billing.cp.db.acquire().await?, tenant).await?;
    cancel_now(billing, &subscription, false).await?;
    leaving::forget(billing, &subscription.id).await?;
    let detail = json!({ "at": subscription.period_end });
    note(billing, caller, tenant, "billing.cancel", &subscription.id, detail).await
}

/// The same, without a word in the log: for a tenant that leaves.
pub(super) async fn cancel_now(billing: &Billing, subscription: &Kept, at_once: bool) -> Result<()> {
    let asked_at = before_asking(billing).await?;
    let what = if at_once { "end" } else { "cancel" };
    let answer =
        billing.stripe.subscription_cancel(&subscription.id, at_once, key(what, subscription)).await?;
    keep_answer(billing, subscription.tenant, &answer, asked_at).await?;
    access::settle_fresh(billing, subscription.tenant).await.map(drop)
}

/// Takes a cancellation back, while the period lasts.
///
/// # Errors
/// As [`cancel`].
pub async fn keep(billing: &Billing, caller: &Caller, tenant: TenantId) -> Result<()> {
    require_stripe(billing)?;
    let subscription = living(&mut *billing.cp.db.acquire().await?, tenant).await?;
    keep_now(billing, &subscription).await?;
    leaving::forget(billing, &subscription.id).await?;
    note(billing, caller, tenant, "billing.keep", &subscription.id, json!({})).await
}

/// The same, without a word in the log: for a tenant that is brought back.
pub(super) async fn keep_now(billing: &Billing, subscription: &Kept) -> Result<()> {
    let asked_at = before_asking(billing).await?;
    let answer = billing.stripe.subscription_keep(&subscription.id, key("keep", subscription)).await?;
    keep_answer(billing, subscription.tenant, &answer, asked_at).await?;
    access::settle_fresh(billing, subscription.tenant).await.map(drop)
}

/// Goes on with a plan that costs nothing, once the subscription has ended or where there never was one.
///
/// # Errors
/// `state_conflict` while a subscription stands; `invalid_fields` for a plan that costs something.
pub async fn free(billing: &Billing, caller: &Caller, tenant: TenantId, plan: &str) -> Result<()> {
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    sqlx::query("SELECT FROM billing_account WHERE tenant = $1 FOR UPDATE")
        .bind(tenant)
        .execute(&mut *tx)
        .await?;
    let plan = plan_on_sale(&mut tx, plan).await?;
    if plan.is_paid() {
        return Err(Error::field("plan", "costs something: pay for it first"));
    }
    if current(&mut tx, tenant).await?.is_some_and(|one| one.is_living() && one.status != "incomplete") {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail("the subscription still stands")
            .hint("cancel it; when it has ended, the workspace can go on for nothing"));
    }
    tenant_plan_set(&mut tx, caller, tenant, &plan.id, now).await?;
    tx.commit().await?;
    access::settle(billing, tenant).await.map(drop)
}

pub(super) async fn note(
    billing: &Billing,
    caller: &Caller,
    tenant: TenantId,
    action: &str,
    subject: &str,
    detail: serde_json::Value,
) -> Result<()> {
    let mut tx = billing.cp.db.begin().await?;
    audit_add(&mut tx, caller, billing.cp.clock.now(), action, Some(tenant), subject, detail).await?;
    Ok(tx.commit().await?)
}
