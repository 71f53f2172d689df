//! A tenant's subscription as it was last fetched, and the tenant's plan that follows it.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::account::whose_id;
use super::keys::asked;
use super::{account_of, before_asking, checkout, invoices, is_missing, require_mode};
use crate::billing::incidents::{self, kind};
use crate::billing::stripe::{NewSubscription, PriceItem, Subscription};
use crate::billing::{Billing, access, catalogue};
use crate::control_plane::audit::Caller;
use crate::control_plane::plan_change::tenant_plan_set;
use crate::control_plane::plans::{Plan, plan_by_id};
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// A subscription, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Kept {
    pub id: String,
    pub tenant: TenantId,
    pub customer: String,
    pub plan: String,
    pub status: String,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
    pub trial_end: Option<DateTime<Utc>>,
    pub cancel_at: Option<DateTime<Utc>>,
    pub canceled_at: Option<DateTime<Utc>>,
    pub fetched_at: DateTime<Utc>,
}

impl Kept {
    /// Whether it still stands, paid or not.
    pub fn is_living(&self) -> bool {
        is_living(&self.status)
    }
}

/// Stripe's words for a subscription that has ended are these two; every other one stands.
fn is_living(status: &str) -> bool {
    !matches!(status, "canceled" | "incomplete_expired")
}

/// Whether it stands, and its first payment is not what is missing.
pub(super) fn is_paid_for(status: &str) -> bool {
    is_living(status) && status != "incomplete"
}

/// Whether it was known before that it is paid for. Stripe speaks of most of them first while the bank is still asked.
async fn is_known(billing: &Billing, subscription: &str) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM subscription
                         WHERE id = $1 AND status NOT IN ('incomplete', 'incomplete_expired', 'canceled'))",
    )
    .bind(subscription)
    .fetch_one(&billing.cp.db)
    .await?)
}

const KEPT: &str =
    "SELECT id, tenant, customer, plan, status, period_start, period_end, trial_end, cancel_at, canceled_at,
        fetched_at FROM subscription";

/// The tenant's subscription: the living one; if there is none, the last that ended.
pub async fn current(conn: &mut PgConnection, tenant: TenantId) -> Result<Option<Kept>> {
    let mut query = sqlx::QueryBuilder::new(KEPT);
    query.push(" WHERE tenant = ").push_bind(tenant);
    query.push(
        " ORDER BY status NOT IN ('canceled', 'incomplete_expired') DESC, status <> 'incomplete' DESC,
                   status <> 'incomplete_expired' DESC, period_start DESC, id DESC LIMIT 1",
    );
    Ok(query.build_query_as().fetch_optional(conn).await?)
}

/// Whose it is, and when its trial ends.
pub async fn trial_of(
    conn: &mut PgConnection,
    subscription: &str,
) -> Result<Option<(TenantId, Option<DateTime<Utc>>)>> {
    Ok(sqlx::query_as("SELECT tenant, trial_end FROM subscription WHERE id = $1")
        .bind(subscription)
        .fetch_optional(conn)
        .await?)
}

/// Whether the tenant's plan costs something and nobody pays for it yet.
pub async fn is_to_be_paid(conn: &mut PgConnection, tenant: TenantId) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM tenant t JOIN plan p ON p.id = t.plan
                         WHERE t.id = $1 AND p.price IS NOT NULL AND NOT EXISTS (
                               SELECT FROM subscription s WHERE s.tenant = t.id
                                  AND s.status NOT IN ('canceled', 'incomplete', 'incomplete_expired')))",
    )
    .bind(tenant)
    .fetch_one(conn)
    .await?)
}

/// Fetches a subscription and applies what it says now. None for one of nobody here.
///
/// # Errors
/// What Stripe says; `internal` for one of the other mode.
pub async fn refresh_subscription(billing: &Billing, id: &str) -> Result<Option<TenantId>> {
    let asked_at = before_asking(billing).await?;
    let subscription = match billing.stripe.subscription(id).await {
        Ok(subscription) => subscription,
        Err(trouble) if is_missing(&trouble) => {
            tracing::warn!(subscription = id, "Stripe knows no such subscription");
            return Ok(None);
        }
        Err(trouble) => return Err(trouble.into()),
    };
    let Some(tenant) = whose_id(billing, &subscription.customer).await? else { return Ok(None) };
    keep(billing, tenant, &subscription, asked_at).await?;
    access::settle_fresh(billing, tenant).await?;
    Ok(Some(tenant))
}

/// Fetches all that Stripe has of a tenant: its subscriptions and its newest invoices. What access is decided by is then
/// as fresh as can be.
///
/// # Errors
/// As [`refresh_subscription`].
pub async fn refresh_tenant(billing: &Billing, tenant: TenantId) -> Result<()> {
    let Some(account) = account_of(&mut *billing.cp.db.acquire().await?, tenant).await? else {
        return Ok(());
    };
    require_mode(billing, account.livemode, &account.customer).await?;
    let asked_at = before_asking(billing).await?;
    for subscription in billing.stripe.subscriptions_of(&account.customer).await? {
        keep(billing, tenant, &subscription, asked_at).await?;
    }
    invoices::refresh_newest(billing, tenant, &account.customer).await?;
    access::settle_fresh(billing, tenant).await.map(drop)
}

/// Keeps an answer that was asked for at `asked_at`, unless one that was asked for later is kept already; the tenant's plan
/// follows.
///
/// # Errors
/// `internal` for one of the other mode; when the control database does not answer.
pub async fn keep(
    billing: &Billing,
    tenant: TenantId,
    subscription: &Subscription,
    asked_at: DateTime<Utc>,
) -> Result<()> {
    require_mode(billing, subscription.livemode, &subscription.id).await?;
    let now = billing.cp.clock.now();
    // Whoever has a subscription buys no second one on a page that is still open in another window. Before it is kept: what
    // fails here is tried again while it is not known to be paid for.
    if is_paid_for(&subscription.status) && !is_known(billing, &subscription.id).await? {
        checkout::close_open(billing, &subscription.customer).await?;
    }
    let mut tx = billing.cp.db.begin().await?;
    // Two answers about one tenant are kept one after the other.
    sqlx::query("SELECT FROM billing_account WHERE tenant = $1 FOR UPDATE")
        .bind(tenant)
        .execute(&mut *tx)
        .await?;
    let plan = plan_of(&mut tx, tenant, subscription, now).await?;
    sqlx::query(
        "INSERT INTO subscription (id, tenant, customer, plan, status, period_start, period_end, trial_end, cancel_at,
                                   canceled_at, latest_invoice, fetched_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (id) DO UPDATE SET customer = EXCLUDED.customer, plan = EXCLUDED.plan, status = EXCLUDED.status,
                period_start = EXCLUDED.period_start, period_end = EXCLUDED.period_end,
                trial_end = EXCLUDED.trial_end, cancel_at = EXCLUDED.cancel_at, canceled_at = EXCLUDED.canceled_at,
                latest_invoice = EXCLUDED.latest_invoice, fetched_at = EXCLUDED.fetched_at
          WHERE subscription.fetched_at <= EXCLUDED.fetched_at AND subscription.tenant = EXCLUDED.tenant",
    )
    .bind(&subscription.id)
    .bind(tenant)
    .bind(&subscription.customer)
    .bind(&plan)
    .bind(&subscription.status)
    .bind(subscription.period_start)
    .bind(subscription.period_end)
    .bind(subscription.trial_end)
    .bind(subscription.cancel_at)
    .bind(subscription.canceled_at)
    .bind(&subscription.latest_invoice)
    .bind(asked_at)
    .execute(&mut *tx)
    .await?;
    let living: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM subscription WHERE tenant = $1 AND status NOT IN ('canceled', 'incomplete_expired', 'incomplete')
          ORDER BY id",
    )
    .bind(tenant)
    .fetch_all(&mut *tx)
    .await?;
    let subject = tenant.to_string();
    if living.len() > 1 {
        let detail = json!({ "subscriptions": living });
        incidents::open(&mut tx, kind::TWO_SUBSCRIPTIONS, &subject, Some(tenant), detail, now).await?;
    } else {
        incidents::settle(&mut tx, kind::TWO_SUBSCRIPTIONS, &subject, "worker", now).await?;
    }
    // The plan is what is paid for, or was and may be again; what never began gives none.
    if let Some(kept) = current(&mut tx, tenant).await?
        && !matches!(kept.status.as_str(), "incomplete" | "incomplete_expired" | "canceled")
    {
        follow(&mut tx, tenant, &kept, now).await?;
    }
    Ok(tx.commit().await?)
}

/// The tenant's plan becomes the subscription's. Where that cannot be, somebody has sold what cannot be given: they are
/// told, and the subscription is kept all the same.
async fn follow(conn: &mut PgConnection, tenant: TenantId, kept: &Kept, now: DateTime<Utc>) -> Result<()> {
    let leaves: bool =
        sqlx::query_scalar("SELECT state IN ('deleting', 'deleted') FROM tenant WHERE id = $1")
            .bind(tenant)
            .fetch_one(&mut *conn)
            .await?;
    if leaves {
        // It is given nothing more, and that is as it should be.
        return incidents::settle(conn, kind::PLAN_NOT_GIVEN, &kept.id, "worker", now).await.map(drop);
    }
    match tenant_plan_set(&mut *conn, &Caller::worker(), tenant, &kept.plan, now).await {
        Ok(_) => incidents::settle(conn, kind::PLAN_NOT_GIVEN, &kept.id, "worker", now).await.map(drop),
        Err(error) if error.code().status < 500 => {
            let detail = json!({ "plan": kept.plan, "why": error.to_string() });
            incidents::open(conn, kind::PLAN_NOT_GIVEN, &kept.id, Some(tenant), detail, now).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

/// Our plan that a subscription is for: its metadata say; if they do not, its prices; if those do not either, what was
/// known of it before, or the tenant's plan, and somebody is told.
async fn plan_of(
    conn: &mut PgConnection,
    tenant: TenantId,
    subscription: &Subscription,
    now: DateTime<Utc>,
) -> Result<String> {
    // Prices are what is paid: whoever changed the plan in Stripe's dashboard changed them and not the metadata.
    let by_price: Option<String> = sqlx::query_scalar(
        "SELECT p.id FROM stripe_object o JOIN plan p ON starts_with(o.name, 'plan:' || p.id || ':monthly:')
          WHERE o.livemode = $1 AND o.kind = 'price' AND o.stripe_id = ANY($2) LIMIT 1",
    )
    .bind(subscription.livemode)
    .bind(&subscription.prices)
    .fetch_optional(&mut *conn)
    .await?;
    let said = by_price.or_else(|| subscription.plan.clone());
    let known: Option<String> = sqlx::query_scalar("SELECT id FROM plan WHERE id = $1")
        .bind(&said)
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(plan) = known {
        incidents::settle(&mut *conn, kind::NO_PLAN, &subscription.id, "worker", now).await?;
        return Ok(plan);
    }
    let detail = json!({ "said": said, "prices": subscription.prices });
    incidents::open(&mut *conn, kind::NO_PLAN, &subscription.id, Some(tenant), detail, now).await?;
    Ok(sqlx::query_scalar(
        "SELECT coalesce((SELECT plan FROM subscription WHERE id = $1), (SELECT plan FROM tenant WHERE id = $2))",
    )
    .bind(&subscription.id)
    .bind(tenant)
    .fetch_one(conn)
    .await?)
}

/// The plan's prices at Stripe.
///
/// # Errors
/// `state_conflict` when the plan was not brought to Stripe.
pub(super) async fn prices(billing: &Billing, plan: &Plan) -> Result<Vec<PriceItem>> {
    let mut conn = billing.cp.db.acquire().await?;
    catalogue::prices_of(&mut conn, billing.settings.livemode(), &plan.id).await
}

/// Gives a tenant on a paid plan with a trial its subscription, when nobody has a seat who could be led through Checkout.
pub(super) async fn begin_alone(billing: &Billing, tenant: TenantId) -> Result<()> {
    let mut conn = billing.cp.db.acquire().await?;
    let row = tenant_find(&mut conn, &TenantRef::Id(tenant)).await?;
    let peopled: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM membership WHERE tenant = $1)")
        .bind(tenant)
        .fetch_one(&mut *conn)
        .await?;
    if peopled || current(&mut conn, tenant).await?.is_some() {
        return Ok(());
    }
    let Some(plan) = plan_by_id(&mut conn, &row.plan).await? else { return Ok(()) };
    drop(conn);
    let Some(price) = &plan.price else { return Ok(()) };
    if price.trial_days == 0 {
        // Stripe begins none without a way to pay, and there is nobody to give one.
        let (subject, detail) = (tenant.to_string(), json!({ "slug": row.slug, "plan": plan.id }));
        let (mut conn, now) = (billing.cp.db.acquire().await?, billing.cp.clock.now());
        return incidents::open(&mut conn, kind::UNBILLED, &subject, Some(tenant), detail, now)
            .await
            .map(drop);
    }
    let customer = super::customer_ensure(billing, tenant).await?;
    let new = NewSubscription {
        customer: customer.clone(),
        plan: plan.id.clone(),
        prices: prices(billing, &plan).await?,
        trial_days: price.trial_days,
        coupon: None,
    };
    let asked_at = before_asking(billing).await?;
    // An earlier attempt may have made it, and not have heard of it.
    let there = billing.stripe.subscriptions_of(&customer).await?;
    let made = match there.into_iter().find(|one| is_living(&one.status)) {
        Some(made) => made,
        None => {
            let object = tenant.to_string();
            asked(billing, &object, "subscription", |key| billing.stripe.subscription_create(&new, key))
                .await?
        }
    };
    keep(billing, tenant, &made, asked_at).await?;
    access::settle_fresh(billing, tenant).await.map(drop)
}
