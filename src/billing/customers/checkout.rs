//! Stripe's own pages. A browser is sent there and comes back; what it brings is a name, and what counts is what Stripe
//! says of it.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde_json::json;

use super::account::{account_of, whose_id};
use super::change::note;
use super::keys::asked;
use super::subscriptions::{is_paid_for, prices};
use super::{current, customer_ensure, refresh_subscription, require_mode, require_stripe};
use crate::billing::Billing;
use crate::billing::reconcile::midnight;
use crate::billing::stripe::{Checkout, NewCheckout, Trouble};
use crate::control_plane::audit::Caller;
use crate::control_plane::plan_change::within_reach;
use crate::control_plane::plans::plan_on_sale;
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// Two sendings of the form within this many seconds lead to one Checkout.
const ONE_CHECKOUT: i64 = 600;
/// The next day begins at least so far ahead: a page ends with it at the latest, and Stripe's end after half an hour at the earliest.
const AHEAD: TimeDelta = TimeDelta::minutes(35);
/// Pages that are asked for, until one is no saved answer of a page that has ended.
const TRIES: usize = 3;
/// Stripe's word for a page that can still be paid on.
const OPEN: &str = "open";
/// Longest code that is passed on.
const LONGEST_CODE: usize = 64;

/// Where a tenant's own pages about its plan are, at the sign-in host.
pub fn page_of(tenant: TenantId) -> String {
    format!("/billing/{tenant}")
}

/// When the first whole period begins where there is no trial: at 00:00 UTC, as all periods do.
fn anchor(now: DateTime<Utc>) -> DateTime<Utc> {
    midnight((now + AHEAD).date_naive()) + TimeDelta::days(1)
}

/// When a page with an anchor ends: with that, so that nobody pays after it has passed; and within a day, as Stripe wants it. The
/// same for all that are asked for within one window, since they are one request.
fn expiry(first: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
    let into = TimeDelta::seconds(now.timestamp().rem_euclid(ONE_CHECKOUT));
    first.min((now - into).trunc_subsecs(0) + TimeDelta::minutes(24 * 60 - 1))
}

/// Whatever is wrong with a code is said alike: what there is at Stripe is not told to whoever tries names.
fn no_such_code() -> Error {
    Error::field("coupon", "is not one, or holds no more")
}

/// Begins to pay for a plan: gives the address of Stripe's Checkout. A trial is for a workspace that never had one. `coupon`
/// is a promotion code, as people type it: a coupon's own id is the provider's business. The workspace's other pages end, so
/// that nobody pays on two.
///
/// # Errors
/// `invalid_fields` for a plan that is not on sale or costs nothing, and for a coupon that is none; `state_conflict` for a
/// workspace that has a subscription, and for one that cannot have the plan where it is; `tier_change_unavailable`;
/// `payments_unavailable`.
pub async fn checkout_begin(
    billing: &Billing,
    caller: &Caller,
    tenant: TenantId,
    plan: &str,
    coupon: Option<&str>,
) -> Result<String> {
    require_stripe(billing)?;
    let code = coupon.map(str::trim).filter(|code| !code.is_empty());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if code.is_some_and(|code| code.len() > LONGEST_CODE || !code.chars().all(plain)) {
        return Err(no_such_code());
    }
    let mut conn = billing.cp.db.acquire().await?;
    let plan = plan_on_sale(&mut conn, plan).await?;
    let Some(price) = plan.price.clone() else {
        return Err(Error::field("plan", "costs nothing"));
    };
    let has = tenant_find(&mut conn, &TenantRef::Id(tenant)).await?.plan;
    within_reach(&mut conn, &has, &plan).await?;
    let before = current(&mut conn, tenant).await?;
    drop(conn);
    let customer = customer_ensure(billing, tenant).await?;
    let promotion_code = match code {
        Some(code) => Some(billing.stripe.promotion_code(code, &customer).await?.ok_or_else(no_such_code)?),
        None => None,
    };
    let (now, trial_days) = (billing.cp.clock.now(), if before.is_none() { price.trial_days } else { 0 });
    let first = (trial_days == 0).then(|| anchor(now));
    let page = format!("{}{}", billing.cp.addresses.base_url(), page_of(tenant));
    let new = NewCheckout {
        reference: reference(&plan.id, trial_days, first, promotion_code.as_deref()),
        customer,
        prices: prices(billing, &plan).await?,
        trial_days,
        anchor: first,
        expires_at: first.map(|first| expiry(first, now)),
        promotion_code,
        // Stripe puts the id in.
        success_url: format!("{page}/done?session={{CHECKOUT_SESSION_ID}}"),
        cancel_url: page,
        plan: plan.id.clone(),
    };
    let checkout = only_one(billing, tenant, &new, now).await?;
    let detail = json!({ "plan": plan.id, "trial_days": trial_days, "promotion_code": new.promotion_code });
    note(billing, caller, tenant, "billing.checkout", &checkout.id, detail).await?;
    checkout.url.ok_or_else(|| {
        Error::new(&codes::STATE_CONFLICT)
            .detail("this has just been paid or given up")
            .hint("look at the workspace's plan again in a moment")
    })
}

/// What makes two sendings of the form the same.
fn reference(plan: &str, trial_days: u32, first: Option<DateTime<Utc>>, code: Option<&str>) -> String {
    let day = first.map(|at| at.date_naive().to_string()).unwrap_or_default();
    format!("{plan}:{trial_days}:{day}:{}", code.unwrap_or_default())
}

/// The page for this, which is then the customer's only one that can be paid on.
async fn only_one(
    billing: &Billing,
    tenant: TenantId,
    new: &NewCheckout,
    now: DateTime<Utc>,
) -> Result<Checkout> {
    let open = billing.stripe.checkouts_open(&new.customer).await?;
    let same = |one: &&Checkout| {
        one.reference.as_deref() == Some(new.reference.as_str())
            && one.url.is_some()
            && one.created_at + TimeDelta::seconds(ONE_CHECKOUT) > now
    };
    let there = open.iter().find(same).cloned();
    for other in open.iter().filter(|one| there.as_ref().is_none_or(|there| there.id != one.id)) {
        if !billing.stripe.checkout_expire(&other.id).await?
            && billing.stripe.checkout_by_id(&other.id).await?.status == OPEN
        {
            // Stripe ends no page on which a payment is being made: the bank is asked at this moment.
            return Err(being_paid());
        }
    }
    // Now nothing more is paid on those. What was may not have been heard of yet: Stripe is asked.
    unpaid(billing, &new.customer).await?;
    if let Some(there) = there {
        return Ok(there);
    }
    // The page before this one is part of the key: there and back again is another page, since the first has ended.
    let (mut last, window) = (open.first().map(|one| one.id.clone()), now.timestamp() / ONE_CHECKOUT);
    for _ in 0..TRIES {
        let before = last.as_deref().unwrap_or("none");
        let object = format!("{tenant}:{}:{before}:{window}", new.reference);
        let made = asked(billing, &object, "checkout", |key| billing.stripe.checkout(new, key)).await;
        let made = made.map_err(|error| match error.cause::<Trouble>() {
            // All else in it is ours.
            Some(Trouble::Refused { .. }) if new.promotion_code.is_some() => no_such_code(),
            _ => error,
        })?;
        let open = billing.stripe.checkouts_open(&new.customer).await?;
        if open.iter().any(|one| one.id == made.id) {
            // Of those that are begun at once, the last one stays, and all sides know which. Stripe's times are whole seconds: a
            // page that was there before ours may come after it, and whoever made it may have looked before ours was there.
            let ours = (made.created_at, &made.id);
            for other in open.iter().filter(|one| (one.created_at, &one.id) < ours) {
                billing.stripe.checkout_expire(&other.id).await?;
            }
            if open.iter().any(|one| (one.created_at, &one.id) > ours) {
                billing.stripe.checkout_expire(&made.id).await?;
                return Err(being_paid());
            }
            // Somebody may have paid on another page while this one was made.
            if let Err(error) = unpaid(billing, &new.customer).await {
                billing.stripe.checkout_expire(&made.id).await?;
                return Err(error);
            }
            return Ok(made);
        }
        // An answer that was saved, of a page that has ended since.
        last = Some(made.id);
    }
    Err(being_paid())
}

fn being_paid() -> Error {
    Error::new(&codes::STATE_CONFLICT)
        .detail("somebody else pays for this workspace at this moment")
        .hint("look at the workspace's plan again in a moment")
}

/// Refuses whoever has a subscription that is paid for, by what Stripe says now.
async fn unpaid(billing: &Billing, customer: &str) -> Result<()> {
    for one in billing.stripe.subscriptions_of(customer).await? {
        if is_paid_for(&one.status) {
            refresh_subscription(billing, &one.id).await?;
            return Err(Error::new(&codes::STATE_CONFLICT)
                .detail("this workspace has a subscription")
                .hint("change its plan instead"));
        }
    }
    Ok(())
}

/// Ends all of a customer's pages that can still be paid on: it has its subscription.
///
/// # Errors
/// What Stripe says.
pub(super) async fn close_open(billing: &Billing, customer: &str) -> Result<()> {
    for one in billing.stripe.checkouts_open(customer).await? {
        billing.stripe.checkout_expire(&one.id).await?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Shown to fail: without `AHEAD`.
    #[test]
    fn a_first_period_begins_at_a_midnight_that_is_to_come() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        for (now, want) in [
            ("2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"),
            ("2026-11-22T12:34:56Z", "2026-11-23T00:00:00Z"),
            ("2026-11-22T23:24:59Z", "2026-11-23T00:00:00Z"),
            ("2026-11-22T23:25:00Z", "2026-11-24T00:00:00Z"),
            ("2026-12-31T23:59:59Z", "2027-01-02T00:00:00Z"),
        ] {
            assert_eq!(anchor(at(now)), at(want), "{now}");
            // Stripe takes half an hour to a day.
            let end = expiry(at(want), at(now));
            assert!(end <= at(want) && end >= at(now) + TimeDelta::minutes(30), "{now} {end}");
            assert!(end < at(now) + TimeDelta::days(1), "{now} {end}");
        }
    }
}
