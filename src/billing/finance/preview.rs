//! The next invoice: as Stripe would make it now, and what our books say of the meters on it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::billing::Billing;
use crate::billing::customers;
use crate::billing::reconcile::{require_stripe, trouble};
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// The next invoice.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Preview {
    pub tenant: TenantId,
    pub subscription: String,
    pub currency: String,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
    pub total_minor: i64,
    pub tax_minor: i64,
    pub lines: Vec<PreviewLine>,
    /// What was used so far in the running period, by our books.
    pub used: Vec<super::tenant::MeterUse>,
}

/// A line of it.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PreviewLine {
    pub description: String,
    pub quantity: i64,
    pub amount_minor: i64,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
}

/// Asks Stripe for the next invoice of a tenant.
///
/// # Errors
/// `state_conflict` without Stripe, and for a tenant without a subscription; `payments_unavailable`.
pub async fn preview(billing: &Billing, tenant: &str) -> Result<Preview> {
    require_stripe(billing)?;
    let tenant: TenantRef = tenant.parse().unwrap_or_else(|never| match never {});
    let mut conn = billing.cp.db.acquire().await?;
    let tenant = tenant_find(&mut conn, &tenant).await?;
    let subscription = customers::current(&mut conn, tenant.id).await?.ok_or_else(|| {
        Error::new(&codes::STATE_CONFLICT).detail(format!("tenant {} has no subscription", tenant.slug))
    })?;
    drop(conn);
    let next = billing.stripe.invoice_preview(&subscription.id).await.map_err(trouble)?;
    let now = billing.cp.clock.now();
    let mut conn = billing.cp.db.acquire().await?;
    let used = super::tenant::usage(&mut conn, tenant.id, now).await?.meters;
    let line = |line: crate::billing::stripe::InvoiceLine| PreviewLine {
        description: line.description,
        quantity: line.quantity,
        amount_minor: line.amount_minor,
        period_start: line.period_start,
        period_end: line.period_end,
    };
    Ok(Preview {
        tenant: tenant.id,
        subscription: subscription.id,
        currency: next.currency,
        period_start: next.period_start,
        period_end: next.period_end,
        total_minor: next.total_minor,
        tax_minor: next.tax_minor,
        lines: next.lines.into_iter().map(line).collect(),
        used,
    })
}
