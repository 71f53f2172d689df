//! Tenants that leave, and those that are brought back. A subscription that we ended because its tenant was deleted is known by a
//! mark: it goes on when the tenant comes back, unless the owner has had a word of their own on it meanwhile.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::subscriptions::Kept;
use super::{change, current, refresh_subscription};
use crate::billing::Billing;
use crate::billing::incidents::{self, kind};
use crate::control_plane::audit::Caller;
use crate::control_plane::tenants::TenantState;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// The object of the marks in `billing_effect`; each one's transition is a subscription.
const LEAVE: &str = "leave";
/// Tenants that one round looks after.
const A_ROUND: i64 = 50;

/// Tenants that leave: the subscription of one that is being deleted ends with its period, of a purged one at once.
///
/// # Errors
/// When the control database does not answer.
pub async fn leave_round(billing: &Billing) -> Result<usize> {
    let leaving: Vec<(TenantId, TenantState)> = sqlx::query_as(
        "SELECT t.id, t.state FROM tenant t JOIN billing_account a ON a.tenant = t.id
          WHERE t.state IN ('deleting', 'deleted') AND a.livemode = $1
            AND EXISTS (SELECT FROM subscription s WHERE s.tenant = t.id
                           AND s.status NOT IN ('canceled', 'incomplete_expired')
                           AND (t.state = 'deleted' OR s.cancel_at IS NULL))
          ORDER BY t.updated_at LIMIT $2",
    )
    .bind(billing.settings.livemode())
    .bind(A_ROUND)
    .fetch_all(&billing.cp.db)
    .await?;
    let mut ended = 0;
    for (tenant, state) in leaving {
        let subscription = current(&mut *billing.cp.db.acquire().await?, tenant).await?;
        let Some(subscription) = subscription.filter(Kept::is_living) else { continue };
        match leave(billing, &subscription, state == TenantState::Deleted).await {
            Ok(()) => ended += 1,
            Err(error) => tracing::warn!(%tenant, ?error, "the subscription of a tenant that leaves goes on"),
        }
    }
    Ok(ended)
}

/// The mark comes first: whatever happens after it, what we ended is known to be ours to take back.
async fn leave(billing: &Billing, subscription: &Kept, at_once: bool) -> Result<()> {
    if !at_once && subscription.cancel_at.is_none() {
        sqlx::query(
            "INSERT INTO billing_effect (object, transition, at) VALUES ($1, $2, $3)
             ON CONFLICT (object, transition) DO UPDATE SET at = EXCLUDED.at",
        )
        .bind(LEAVE)
        .bind(&subscription.id)
        .bind(billing.cp.clock.now())
        .execute(&billing.cp.db)
        .await?;
    }
    change::cancel_now(billing, subscription, at_once).await?;
    if at_once { forget(billing, &subscription.id).await } else { Ok(()) }
}

/// What was ended stays ended: the owner has said so, or nobody comes back.
pub(super) async fn forget(billing: &Billing, subscription: &str) -> Result<()> {
    sqlx::query("DELETE FROM billing_effect WHERE object = $1 AND transition = $2")
        .bind(LEAVE)
        .bind(subscription)
        .execute(&billing.cp.db)
        .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Back {
    tenant: TenantId,
    subscription: String,
    /// When its end was asked for.
    at: DateTime<Utc>,
}

/// Tenants that were brought back: what we ended goes on; what has ended by now somebody has to look at. Gives the number of
/// those looked after.
///
/// # Errors
/// When the control database does not answer.
pub async fn return_round(billing: &Billing) -> Result<usize> {
    let back: Vec<Back> = sqlx::query_as(
        "SELECT t.id AS tenant, s.id AS subscription, e.at
           FROM billing_effect e JOIN subscription s ON s.id = e.transition JOIN tenant t ON t.id = s.tenant
           JOIN billing_account a ON a.tenant = t.id
          WHERE e.object = $1 AND t.state IN ('active', 'suspended') AND a.livemode = $2
          -- Some that cannot be helped must not keep all others waiting.
          ORDER BY random() LIMIT $3",
    )
    .bind(LEAVE)
    .bind(billing.settings.livemode())
    .bind(A_ROUND)
    .fetch_all(&billing.cp.db)
    .await?;
    let mut done = 0;
    for one in back {
        match go_on(billing, &one).await {
            Ok(()) => done += 1,
            Err(error) => {
                tracing::warn!(tenant = %one.tenant, ?error, "a tenant that was brought back may lose its subscription");
            }
        }
    }
    Ok(done)
}

async fn go_on(billing: &Billing, back: &Back) -> Result<()> {
    // What is kept may be old: it may have ended meanwhile.
    refresh_subscription(billing, &back.subscription).await?;
    let current = current(&mut *billing.cp.db.acquire().await?, back.tenant).await?;
    let living = current.filter(Kept::is_living);
    if let Some(ours) = living.as_ref().filter(|one| one.id == back.subscription && one.cancel_at.is_some()) {
        change::keep_now(billing, ours).await?;
        let detail = json!({ "why": "the tenant was brought back" });
        change::note(billing, &Caller::worker(), back.tenant, "billing.keep", &ours.id, detail).await?;
    }
    let mut tx = billing.cp.db.begin().await?;
    if living.is_none() {
        let detail = json!({ "subscription": back.subscription, "next": "ask them to subscribe again" });
        let (kind, now) = (kind::RETURNED, billing.cp.clock.now());
        incidents::open(&mut tx, kind, &back.tenant.to_string(), Some(back.tenant), detail, now).await?;
    }
    // Not one that was written anew meanwhile.
    sqlx::query("DELETE FROM billing_effect WHERE object = $1 AND transition = $2 AND at = $3")
        .bind(LEAVE)
        .bind(&back.subscription)
        .bind(back.at)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}
