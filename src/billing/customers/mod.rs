//! A tenant's customer, subscription and invoices, as Stripe has them. What is kept here is always an answer of Stripe's, with
//! the moment at which it was asked for: an answer asked for earlier never overwrites a later one, so whoever asks, and
//! in whatever order the answers come, the last one stays.
//!
//! | file | holds |
//! |---|---|
//! | `account` | the customer: made for a tenant, looked at again, taken back |
//! | `subscriptions` | the subscription, and the tenant's plan that follows it |
//! | `invoices` | invoices with their lines |
//! | `checkout` | Stripe's own pages: Checkout and the Billing Portal |
//! | `change` | another plan, cancelling, going on for nothing |
//! | `leaving` | the subscription of a tenant that is deleted, and of one that is brought back |
//! | `keys` | idempotency keys that survive a saved 500 |
//!
//! **Who pays how.** A person who makes a workspace on a paid plan is led through Checkout. A tenant that an operator
//! makes has nobody to lead: it gets the subscription at once when its plan has a trial, and pays through the portal.
//!
//! **Proration.** A change of plan holds at once, up or down, and what is left of the period is settled on the next
//! invoice. A cancellation holds at the end of the period, which is paid.
//!
//! **Periods** begin at 00:00 UTC. Where there is no trial, the first whole one begins at the next midnight, and the hours
//! until then are charged by their part. **One page:** a customer has one Checkout that can be paid on, and none beside a
//! subscription.

mod account;
mod change;
mod checkout;
mod invoices;
mod keys;
mod leaving;
mod subscriptions;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::Billing;
use super::incidents::{self, kind};
use crate::kernel::{Error, Result, codes};

pub use account::{
    Account, ENSURE, FORGET, account_of, customer_ensure, customer_forget, ensure_missing, open,
    refresh_customer, tenant_of,
};
pub use change::{cancel, free, keep, plan_change};
pub use checkout::{checkout_begin, is_of, page_of, portal_open, refresh_checkout};
pub use invoices::{Kept as KeptInvoice, invoices_of, refresh_invoice, refresh_invoices_of};
pub use leaving::{leave_round, return_round};
pub use subscriptions::{
    Kept as KeptSubscription, current, is_to_be_paid, keep as subscription_keep, refresh_subscription,
    refresh_tenant, trial_of,
};

/// The moment before Stripe is asked, by the control database's clock: processes' clocks may disagree, and this is what
/// answers are ordered by.
async fn before_asking(billing: &Billing) -> Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&billing.cp.db).await?)
}

/// Nothing of one mode is ever kept in the other.
///
/// # Errors
/// `internal`, after it was written down.
async fn require_mode(billing: &Billing, livemode: bool, object: &str) -> Result<()> {
    if livemode == billing.settings.livemode() {
        return Ok(());
    }
    let mut conn = billing.cp.db.acquire().await?;
    let detail = json!({ "object": object, "livemode": livemode });
    incidents::open(&mut conn, kind::LIVEMODE, object, None, detail, billing.cp.clock.now()).await?;
    Err(Error::internal(format!("{object} is of the other mode of Stripe")))
}

/// Refuses what needs Stripe where there is none.
///
/// # Errors
/// `state_conflict`.
pub fn require_stripe(billing: &Billing) -> Result<()> {
    match billing.settings.enabled() {
        true => Ok(()),
        false => Err(Error::new(&codes::STATE_CONFLICT)
            .detail("this installation takes no payments")
            .hint("its operator gives it the settings that FREEHOLD_STRIPE names")),
    }
}

/// What Stripe does not know. Something that was deleted there answers so, too.
fn is_missing(trouble: &super::stripe::Trouble) -> bool {
    trouble.is_missing()
}

/// The e-mail addresses of a tenant's owners, the one who has been there longest first.
pub(in crate::billing) async fn owners(
    conn: &mut PgConnection,
    tenant: crate::kernel::ids::TenantId,
) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT a.email FROM membership m JOIN account a ON a.id = m.account
          WHERE m.tenant = $1 AND m.role = 'owner' AND a.email IS NOT NULL AND a.deleted_at IS NULL
          ORDER BY m.joined_at, m.account LIMIT 20",
    )
    .bind(tenant)
    .fetch_all(conn)
    .await?)
}
