//! Stripe's own pages. A browser is sent there and comes back; what it brings is a name, and what counts is what Stripe
//! says of it.

use serde_json::json;

use super::account::{account_of, whose_id};
use super::change::note;
use super::subscriptions::prices;
use super::{current, customer_ensure, refresh_subscription, require_mode, require_stripe};
use crate::billing::Billing;
use crate::billing::stripe::NewCheckout;
use crate::control_plane::audit::Caller;
use crate::control_plane::plans::plan_on_sale;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// Two sendings of the form within this many seconds lead to one Checkout.
const ONE_CHECKOUT: i64 = 600;
/// Longest coupon that is passed on.
const LONGEST_COUPON: usize = 64;

/// Where a tenant's own pages about its plan are, at the sign-in host.
pub fn page_of(tenant: TenantId) -> String {
    format!("/billing/{tenant}")
}

/// Begins to pay for a plan: gives the address of Stripe's Checkout. A trial is for a workspace that never had one.
///
/// # Errors
/// `invalid_fields` for a plan that is not on sale or costs nothing, and for a coupon that is none; `state_conflict` for a
/// workspace that has a subscription; `payments_unavailable`.
pub async fn checkout_begin(
    billing: &Billing,
    caller: &Caller,
    tenant: TenantId,
    plan: &str,
    coupon: Option<&str>,
) -> Result<String> {
    require_stripe(billing)?;
    let coupon = coupon.map(str::trim).filter(|coupon| !coupon.is_empty());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if coupon.is_some_and(|coupon| coupon.len() > LONGEST_COUPON || !coupon.chars().all(plain)) {
        return Err(Error::field("coupon", "is not one"));
    }
    let mut conn = billing.cp.db.acquire().await?;
    let plan = plan_on_sale(&mut conn, plan).await?;
    let Some(price) = plan.price.clone() else {
        return Err(Error::field("plan", "costs nothing"));
    };
    let before = current(&mut conn, tenant).await?;
    drop(conn);
    let customer = customer_ensure(billing, tenant).await?;
    // The word of it may still be on its way: Stripe is asked.
    for there in billing.stripe.subscriptions_of(&customer).await? {
        if !matches!(there.status.as_str(), "canceled" | "incomplete_expired" | "incomplete") {
            refresh_subscription(billing, &there.id).await?;
            return Err(Error::new(&codes::STATE_CONFLICT)
                .detail("this workspace has a subscription")
                .hint("change its plan instead"));
        }
    }
    let page = format!("{}{}", billing.cp.addresses.base_url(), page_of(tenant));
    let new = NewCheckout {
        customer,
        prices: prices(billing, &plan).await?,
        trial_days: if before.is_none() { price.trial_days } else { 0 },
        coupon: coupon.map(str::to_owned),
        // Stripe puts the id in.
        success_url: format!("{page}/done?session={{CHECKOUT_SESSION_ID}}"),
        cancel_url: page,
        plan: plan.id.clone(),
    };
    let window = billing.cp.clock.now().timestamp() / ONE_CHECKOUT;
    let trial = new.trial_days;
    let key = format!("checkout:{tenant}:{}:{trial}:{}:{window}", plan.id, coupon.unwrap_or_default());
    let checkout = match billing.stripe.checkout(&new, key).await {
        Ok(checkout) => checkout,
        // All else in it is ours.
        Err(crate::billing::stripe::Trouble::Refused { .. }) if coupon.is_some() => {
            return Err(Error::field("coupon", "is not one, or holds no more"));
        }
        Err(trouble) => return Err(trouble.into()),
    };
    let detail = json!({ "plan": plan.id, "trial_days": trial, "coupon": coupon });
    note(billing, caller, tenant, "billing.checkout", &checkout.id, detail).await?;
    checkout.url.ok_or_else(|| {
        Error::new(&codes::STATE_CONFLICT)
            .detail("this has just been paid or given up")
            .hint("look at the workspace's plan again in a moment")
    })
}

/// Fetches a Checkout, and the subscription that came of it. None for one of nobody here, and for one without any.
///
/// # Errors
/// What Stripe says; `internal` for one of the other mode.
pub async fn refresh_checkout(billing: &Billing, id: &str) -> Result<Option<TenantId>> {
    let checkout = billing.stripe.checkout_by_id(id).await?;
    match checkout.subscription {
        Some(subscription) => refresh_subscription(billing, &subscription).await,
        None => Ok(None),
    }
}

/// The address of the tenant's Billing Portal at Stripe, good for minutes: cards, invoices, addresses.
///
/// # Errors
/// `state_conflict` for a tenant without a customer; `payments_unavailable`.
pub async fn portal_open(billing: &Billing, tenant: TenantId) -> Result<String> {
    require_stripe(billing)?;
    let account = account_of(&mut *billing.cp.db.acquire().await?, tenant).await?;
    let Some(account) = account else {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail("this workspace has no account at the payment provider"));
    };
    require_mode(billing, account.livemode, &account.customer).await?;
    let back = format!("{}{}", billing.cp.addresses.base_url(), page_of(tenant));
    Ok(billing.stripe.portal(&account.customer, &back).await?)
}

/// Whether this Checkout is of this tenant: the name of one comes with a browser, which may bring any.
///
/// # Errors
/// What Stripe says.
pub async fn is_of(billing: &Billing, tenant: TenantId, checkout: &str) -> Result<bool> {
    let Some(subscription) = billing.stripe.checkout_by_id(checkout).await?.subscription else {
        return Ok(false);
    };
    let customer = billing.stripe.subscription(&subscription).await?.customer;
    Ok(whose_id(billing, &customer).await? == Some(tenant))
}
