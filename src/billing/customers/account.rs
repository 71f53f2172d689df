//! The customer at Stripe that stands for a tenant.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::keys::asked;
use super::{is_missing, owners, refresh_subscription, require_mode, require_stripe, subscriptions};
use crate::billing::incidents::{self, kind};
use crate::billing::stripe::{Customer, NewCustomer};
use crate::billing::{Billing, access};
use crate::control_plane::tenants::{TenantRef, TenantState, tenant_find};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// What the step of a provisioning run asks for: an errand of a tenant.
pub const ENSURE: &str = crate::control_plane::provisioning::BILLING;
/// What its undo asks for.
pub const FORGET: &str = crate::control_plane::provisioning::BILLING_UNDO;

/// Tenants that one round makes customers for. A fleet that is given Stripe later gets them in minutes, at a pace that
/// leaves Stripe's limits to others.
const A_ROUND: i64 = 50;

/// A tenant's account with us.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Account {
    pub tenant: TenantId,
    pub livemode: bool,
    pub customer: String,
    pub email: Option<String>,
    pub access: access::Access,
    pub access_since: DateTime<Utc>,
    pub unpaid_since: Option<DateTime<Utc>>,
    pub override_access: Option<access::Access>,
    pub override_reason: Option<String>,
    pub override_until: Option<DateTime<Utc>>,
}

/// A tenant's account; none before it has a customer.
pub async fn account_of(conn: &mut PgConnection, tenant: TenantId) -> Result<Option<Account>> {
    Ok(sqlx::query_as(
        "SELECT tenant, livemode, customer, email, access, access_since, unpaid_since, override_access,
                override_reason, override_until
           FROM billing_account WHERE tenant = $1",
    )
    .bind(tenant)
    .fetch_optional(conn)
    .await?)
}

/// Whose customer this is.
pub async fn tenant_of(conn: &mut PgConnection, livemode: bool, customer: &str) -> Result<Option<TenantId>> {
    Ok(sqlx::query_scalar("SELECT tenant FROM billing_account WHERE customer = $1 AND livemode = $2")
        .bind(customer)
        .bind(livemode)
        .fetch_optional(conn)
        .await?)
}

/// The tenant's customer, made if there is none yet. Asked by many at once, it makes one.
///
/// # Errors
/// `state_conflict` without Stripe, and for a tenant that is billed in the other mode; `payments_unavailable`.
pub async fn customer_ensure(billing: &Billing, tenant: TenantId) -> Result<String> {
    require_stripe(billing)?;
    let mut conn = billing.cp.db.acquire().await?;
    if let Some(account) = account_of(&mut conn, tenant).await? {
        return of_our_mode(billing, account);
    }
    let row = tenant_find(&mut conn, &TenantRef::Id(tenant)).await?;
    let email = owners(&mut conn, tenant).await?.into_iter().next();
    drop(conn);
    let new = NewCustomer { tenant: tenant.to_string(), name: row.name, email };
    let object = tenant.to_string();
    let made = asked(billing, &object, "customer", |key| billing.stripe.customer_create(&new, key)).await?;
    keep(billing, tenant, &made).await
}

fn of_our_mode(billing: &Billing, account: Account) -> Result<String> {
    if account.livemode == billing.settings.livemode() {
        return Ok(account.customer);
    }
    let mode = if account.livemode { "live" } else { "test" };
    Err(Error::new(&codes::STATE_CONFLICT).detail(format!(
        "this workspace is billed in Stripe's {mode} mode, and this installation is not in it"
    )))
}

/// Keeps a customer as the tenant's; the one that was kept first stays.
async fn keep(billing: &Billing, tenant: TenantId, customer: &Customer) -> Result<String> {
    require_mode(billing, customer.livemode, &customer.id).await?;
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    sqlx::query(
        "INSERT INTO billing_account (tenant, livemode, customer, email, access_since, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5, $5) ON CONFLICT (tenant) DO NOTHING",
    )
    .bind(tenant)
    .bind(customer.livemode)
    .bind(&customer.id)
    .bind(&customer.email)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let kept = account_of(&mut tx, tenant).await?.ok_or_else(|| Error::internal("an account just kept"))?;
    tx.commit().await?;
    of_our_mode(billing, kept)
}

/// The billing step of a tenant: its customer and, where nobody can be led through Checkout, its subscription.
///
/// # Errors
/// As [`customer_ensure`].
pub async fn open(billing: &Billing, tenant: TenantId) -> Result<()> {
    customer_ensure(billing, tenant).await?;
    subscriptions::begin_alone(billing, tenant).await
}

/// Takes back what [`open`] did, for a tenant that did not come to be.
///
/// # Errors
/// As [`customer_ensure`].
pub async fn customer_forget(billing: &Billing, tenant: TenantId) -> Result<()> {
    require_stripe(billing)?;
    let mut conn = billing.cp.db.acquire().await?;
    let row = tenant_find(&mut conn, &TenantRef::Id(tenant)).await?;
    if row.state != TenantState::Deleted {
        return Err(Error::internal(format!("tenant {tenant} is {}: its customer stays", row.state)));
    }
    let Some(account) = account_of(&mut conn, tenant).await? else { return Ok(()) };
    drop(conn);
    let customer = of_our_mode(billing, account)?;
    // With it go its subscriptions. Deleted by an earlier attempt, it is gone all the same.
    match billing.stripe.customer_delete(&customer).await {
        Err(trouble) if !is_missing(&trouble) => return Err(trouble.into()),
        _ => {}
    }
    let mut tx = billing.cp.db.begin().await?;
    for statement in [
        "DELETE FROM invoice WHERE tenant = $1",
        "DELETE FROM subscription WHERE tenant = $1",
        "DELETE FROM billing_account WHERE tenant = $1",
    ] {
        sqlx::query(statement).bind(tenant).execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

/// Makes what is missing: a repair, for tenants that were ready at once, and for those whose step found Stripe away.
///
/// # Errors
/// When the control database does not answer, or Stripe: then the next round goes on.
pub async fn ensure_missing(billing: &Billing) -> Result<usize> {
    let missing: Vec<TenantId> = sqlx::query_scalar(
        "SELECT id FROM (
         SELECT t.id FROM tenant t
          WHERE t.state IN ('active', 'suspended') AND NOT EXISTS (SELECT FROM billing_account a WHERE a.tenant = t.id)
          UNION ALL
         -- Those that have one and nobody in them, and are to be given their subscription.
         SELECT t.id FROM tenant t JOIN plan p ON p.id = t.plan JOIN billing_account a ON a.tenant = t.id
          WHERE t.state = 'active' AND p.price IS NOT NULL AND a.livemode = $2
            AND NOT EXISTS (SELECT FROM subscription s WHERE s.tenant = t.id)
            AND NOT EXISTS (SELECT FROM membership m WHERE m.tenant = t.id)
            AND NOT EXISTS (SELECT FROM billing_incident i WHERE i.tenant = t.id AND i.kind = $3)) missing
          -- Fifty that cannot be helped must not keep all others waiting.
          ORDER BY random() LIMIT $1",
    )
    .bind(A_ROUND)
    .bind(billing.settings.livemode())
    .bind(kind::UNBILLED)
    .fetch_all(&billing.cp.db)
    .await?;
    let mut made = 0;
    for tenant in missing {
        match open(billing, tenant).await {
            Ok(()) => made += 1,
            // Nobody's customer can be made: no use in asking for the others'.
            Err(error) if error.is(&codes::PAYMENTS_UNAVAILABLE) => return Err(error),
            Err(error) => tracing::warn!(%tenant, ?error, "no customer could be made"),
        }
    }
    Ok(made)
}

/// Looks at a customer again.
///
/// # Errors
/// What Stripe says; `internal` for one of the other mode.
pub async fn refresh_customer(billing: &Billing, id: &str) -> Result<Option<TenantId>> {
    let customer = billing.stripe.customer(id).await?;
    require_mode(billing, customer.livemode, id).await?;
    let Some(tenant) = whose(billing, &customer).await? else { return Ok(None) };
    if customer.deleted {
        another(billing, tenant, id).await?;
    } else {
        sqlx::query("UPDATE billing_account SET email = $2, updated_at = $3 WHERE tenant = $1")
            .bind(tenant)
            .bind(&customer.email)
            .bind(billing.cp.clock.now())
            .execute(&billing.cp.db)
            .await?;
    }
    Ok(Some(tenant))
}

/// Somebody deleted the customer at Stripe, and with it its subscription. A tenant that lives gets another one, so that
/// what it uses can still be told; and somebody is told why nothing is paid any more.
async fn another(billing: &Billing, tenant: TenantId, gone: &str) -> Result<()> {
    // While the account names the one that is gone: what ended with it is known to be this tenant's.
    let living: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM subscription WHERE tenant = $1 AND customer = $2 AND status NOT IN ('canceled', 'incomplete_expired')",
    )
    .bind(tenant)
    .bind(gone)
    .fetch_all(&billing.cp.db)
    .await?;
    for subscription in living {
        refresh_subscription(billing, &subscription).await?;
    }
    let mut conn = billing.cp.db.acquire().await?;
    let row = tenant_find(&mut conn, &TenantRef::Id(tenant)).await?;
    if row.state == TenantState::Deleted {
        return Ok(());
    }
    let email = owners(&mut conn, tenant).await?.into_iter().next();
    drop(conn);
    let new = NewCustomer { tenant: tenant.to_string(), name: row.name, email };
    let made = asked(billing, gone, "another", |key| billing.stripe.customer_create(&new, key)).await?;
    require_mode(billing, made.livemode, &made.id).await?;
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    sqlx::query(
        "UPDATE billing_account SET customer = $3, email = $4, updated_at = $5 WHERE tenant = $1 AND customer = $2",
    )
    .bind(tenant)
    .bind(gone)
    .bind(&made.id)
    .bind(&made.email)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let detail = json!({ "slug": row.slug, "now": made.id, "next": "its subscription went with it: ask them to subscribe" });
    incidents::open(&mut tx, kind::CUSTOMER_DELETED, gone, Some(tenant), detail, now).await?;
    Ok(tx.commit().await?)
}

/// Whose customer it is: the account's; or, for one that was made and not yet kept, the tenant in its metadata.
pub(super) async fn whose(billing: &Billing, customer: &Customer) -> Result<Option<TenantId>> {
    let mut conn = billing.cp.db.acquire().await?;
    if let Some(tenant) = tenant_of(&mut conn, customer.livemode, &customer.id).await? {
        return Ok(Some(tenant));
    }
    let Some(tenant) = customer.tenant.as_deref().and_then(|text| text.parse::<TenantId>().ok()) else {
        return Ok(None);
    };
    let living: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM tenant WHERE id = $1 AND state <> 'deleted')")
            .bind(tenant)
            .fetch_one(&mut *conn)
            .await?;
    drop(conn);
    // Another installation may use the same account at Stripe: its customers are nothing to us.
    if !living || customer.deleted {
        return Ok(None);
    }
    let kept = keep(billing, tenant, customer).await?;
    Ok((kept == customer.id).then_some(tenant))
}

/// Whose customer has this id, or had it: what it left behind is still the tenant's. One that we do not know is asked for.
pub(super) async fn whose_id(billing: &Billing, customer: &str) -> Result<Option<TenantId>> {
    let known: Option<TenantId> = sqlx::query_scalar(
        "SELECT tenant FROM billing_account WHERE customer = $1 AND livemode = $2
         UNION SELECT s.tenant FROM subscription s JOIN billing_account a ON a.tenant = s.tenant
                WHERE s.customer = $1 AND a.livemode = $2 LIMIT 1",
    )
    .bind(customer)
    .bind(billing.settings.livemode())
    .fetch_optional(&billing.cp.db)
    .await?;
    match known {
        Some(tenant) => Ok(Some(tenant)),
        None => whose(billing, &billing.stripe.customer(customer).await?).await,
    }
}
