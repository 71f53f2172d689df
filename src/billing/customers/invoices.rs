//! Invoices as they were last fetched, with their lines.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::account::whose_id;
use super::{before_asking, is_missing, refresh_subscription, require_mode};
use crate::billing::incidents::kind::DRAFT_HELD;
use crate::billing::stripe::{Invoice, InvoiceLine};
use crate::billing::{Billing, access, incidents};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Invoices of a customer that are looked at together.
const NEWEST: u32 = 12;

/// An invoice, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Kept {
    pub id: String,
    pub subscription: Option<String>,
    pub number: Option<String>,
    pub status: String,
    pub currency: String,
    pub total_minor: i64,
    pub tax_minor: i64,
    pub paid_minor: i64,
    pub credited_minor: i64,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
    pub held: bool,
    pub hosted_url: Option<String>,
    pub created_at: DateTime<Utc>,
    pub due_at: Option<DateTime<Utc>>,
    pub paid_at: Option<DateTime<Utc>>,
}

/// A tenant's invoices, newest first.
pub async fn invoices_of(conn: &mut PgConnection, tenant: TenantId, limit: i64) -> Result<Vec<Kept>> {
    Ok(sqlx::query_as(
        "SELECT id, subscription, number, status, currency, total_minor, tax_minor, paid_minor, credited_minor,
                period_start, period_end, held, hosted_url, created_at, due_at, paid_at
           FROM invoice WHERE tenant = $1 ORDER BY created_at DESC, id DESC LIMIT $2",
    )
    .bind(tenant)
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

/// Fetches an invoice, and its subscription, and applies what they say now. None for one of nobody here.
///
/// # Errors
/// What Stripe says; `internal` for one of the other mode.
pub async fn refresh_invoice(billing: &Billing, id: &str) -> Result<Option<TenantId>> {
    let asked_at = before_asking(billing).await?;
    let invoice = match billing.stripe.invoice(id).await {
        Ok(invoice) => invoice,
        // A draft that was deleted.
        Err(trouble) if is_missing(&trouble) => return forget_draft(billing, id).await,
        Err(trouble) => return Err(trouble.into()),
    };
    let Some(tenant) = whose_id(billing, &invoice.customer).await? else { return Ok(None) };
    keep(billing, tenant, &invoice, asked_at).await?;
    match &invoice.subscription {
        // Whether it is paid is in both.
        Some(subscription) => refresh_subscription(billing, subscription).await,
        None => access::settle_fresh(billing, tenant).await.map(|_| Some(tenant)),
    }
}

async fn forget_draft(billing: &Billing, id: &str) -> Result<Option<TenantId>> {
    let mut tx = billing.cp.db.begin().await?;
    let tenant =
        sqlx::query_scalar("DELETE FROM invoice WHERE id = $1 AND status = 'draft' RETURNING tenant")
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
    incidents::settle(&mut tx, DRAFT_HELD, id, "it was deleted at Stripe", billing.cp.clock.now()).await?;
    tx.commit().await?;
    Ok(tenant)
}

/// Fetches the newest invoices of a customer.
///
/// # Errors
/// As [`refresh_invoice`].
pub async fn refresh_invoices_of(billing: &Billing, customer: &str) -> Result<Option<TenantId>> {
    let Some(tenant) = whose_id(billing, customer).await? else { return Ok(None) };
    refresh_newest(billing, tenant, customer).await?;
    access::settle_fresh(billing, tenant).await?;
    Ok(Some(tenant))
}

pub(super) async fn refresh_newest(billing: &Billing, tenant: TenantId, customer: &str) -> Result<()> {
    let asked_at = before_asking(billing).await?;
    for invoice in billing.stripe.invoices_of(customer, NEWEST).await? {
        keep(billing, tenant, &invoice, asked_at).await?;
    }
    Ok(())
}

/// Keeps an answer, unless a later one is kept already. Whether a draft is held is ours, and stays; what is no draft any more
/// waits for nobody, and Stripe is told so where it still holds it.
async fn keep(billing: &Billing, tenant: TenantId, invoice: &Invoice, asked_at: DateTime<Utc>) -> Result<()> {
    require_mode(billing, invoice.livemode, &invoice.id).await?;
    let mut tx = billing.cp.db.begin().await?;
    let lines = lines(&mut tx, invoice).await?;
    sqlx::query(
        "INSERT INTO invoice (id, tenant, subscription, number, status, currency, total_minor, tax_minor, paid_minor,
                              credited_minor, period_start, period_end, lines, hosted_url, created_at, due_at, paid_at,
                              fetched_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         ON CONFLICT (id) DO UPDATE SET subscription = EXCLUDED.subscription, number = EXCLUDED.number,
                status = EXCLUDED.status, currency = EXCLUDED.currency, total_minor = EXCLUDED.total_minor,
                tax_minor = EXCLUDED.tax_minor, paid_minor = EXCLUDED.paid_minor,
                credited_minor = EXCLUDED.credited_minor, period_start = EXCLUDED.period_start,
                period_end = EXCLUDED.period_end, lines = EXCLUDED.lines, hosted_url = EXCLUDED.hosted_url,
                due_at = EXCLUDED.due_at, paid_at = EXCLUDED.paid_at, fetched_at = EXCLUDED.fetched_at,
                held = invoice.held AND EXCLUDED.status = 'draft'
          WHERE invoice.fetched_at <= EXCLUDED.fetched_at AND invoice.tenant = EXCLUDED.tenant",
    )
    .bind(&invoice.id)
    .bind(tenant)
    .bind(&invoice.subscription)
    .bind(&invoice.number)
    .bind(&invoice.status)
    .bind(&invoice.currency)
    .bind(invoice.total_minor)
    .bind(invoice.tax_minor)
    .bind(invoice.paid_minor)
    .bind(invoice.credited_minor)
    .bind(invoice.period_start)
    .bind(invoice.period_end)
    .bind(lines)
    .bind(&invoice.hosted_url)
    .bind(invoice.created_at)
    .bind(invoice.due_at)
    .bind(invoice.paid_at)
    .bind(asked_at)
    .execute(&mut *tx)
    .await?;
    if invoice.status != "draft" {
        incidents::settle(&mut tx, DRAFT_HELD, &invoice.id, "it is final", billing.cp.clock.now()).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The lines as they are kept: each with our meter, by its price.
async fn lines(conn: &mut PgConnection, invoice: &Invoice) -> Result<Value> {
    let prices: Vec<&str> = invoice.lines.iter().filter_map(|line| line.price.as_deref()).collect();
    let names: Vec<(String, String)> = sqlx::query_as(
        "SELECT stripe_id, name FROM stripe_object WHERE livemode = $1 AND kind = 'price' AND stripe_id = ANY($2)",
    )
    .bind(invoice.livemode)
    .bind(prices)
    .fetch_all(conn)
    .await?;
    let names: HashMap<String, String> = names.into_iter().collect();
    Ok(invoice.lines.iter().map(|line| kept_line(line, &names)).collect())
}

fn kept_line(line: &InvoiceLine, names: &HashMap<String, String>) -> Value {
    let name = line.price.as_ref().and_then(|price| names.get(price));
    let (meter, unit_minor) = name.map_or((None, None), |name| of_price(name));
    json!({
        "id": line.id,
        "meter": meter,
        "description": line.description,
        "quantity": line.quantity,
        "unit_minor": unit_minor,
        "amount_minor": line.amount_minor,
        "period_start": line.period_start,
        "period_end": line.period_end,
    })
}

/// The meter and the price of a unit, as the catalogue names its prices: `plan:team:tasks_created:1000:2:eur` and
/// `plan:team:monthly:4900:eur`.
fn of_price(name: &str) -> (Option<&str>, Option<i64>) {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        ["plan", _, meter, _, unit, _] => (Some(meter), unit.parse().ok()),
        ["plan", _, "monthly", unit, _] => (None, unit.parse().ok()),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_s_name_says_its_meter() {
        assert_eq!(of_price("plan:team:tasks_created:1000:2:eur"), (Some("tasks_created"), Some(2)));
        assert_eq!(of_price("plan:team:monthly:4900:eur"), (None, Some(4900)));
        assert_eq!(of_price("plan:team"), (None, None));
    }
}
