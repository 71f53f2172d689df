//! Batches and invoices, for export.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::report::days;
use crate::billing::access::Access;
use crate::billing::ledger::{Batch, BatchId};
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::kernel::ids::TenantId;
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result, codes};

/// Which of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListFilter {
    /// Only of this tenant, by slug or id.
    pub tenant: Option<String>,
    /// The first day, in UTC; that of this month when left out.
    pub from: Option<NaiveDate>,
    /// The last day; that of the same month when left out.
    pub to: Option<NaiveDate>,
    /// Only in this state.
    pub state: Option<String>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

async fn tenant_of(conn: &mut PgConnection, filter: &ListFilter) -> Result<Option<TenantId>> {
    let Some(name) = filter.tenant.as_deref() else { return Ok(None) };
    let tenant: TenantRef = name.parse().unwrap_or_else(|never| match never {});
    Ok(Some(tenant_find(conn, &tenant).await?.id))
}

/// Batches by the moment that Stripe is told, oldest first.
///
/// # Errors
/// `invalid_fields`; `tenant_not_found`; `bad_cursor`.
pub async fn batch_list(
    conn: &mut PgConnection,
    filter: &ListFilter,
    now: DateTime<Utc>,
) -> Result<Page<Batch>> {
    let limit = page::limit(filter.limit)?;
    let (from, to) = days(filter.from, filter.to, now)?;
    let tenant = tenant_of(&mut *conn, filter).await?;
    let after: Option<(DateTime<Utc>, BatchId)> = filter.cursor.as_deref().map(page::decode).transpose()?;
    let rows = sqlx::query_as(
        "SELECT id, tenant, meter, window_start, seq, quantity, facts, identifier, event_at, state, delivered_via, livemode,
                customer, attempts, carried_forward, error, sealed_at, settled_at FROM usage_batch
          WHERE event_at >= $1 AND event_at < $2 AND ($3::uuid IS NULL OR tenant = $3) AND ($4::text IS NULL OR state = $4)
            AND ($5::timestamptz IS NULL OR (event_at, id) > ($5, $6))
          ORDER BY event_at, id LIMIT $7",
    )
    .bind(from)
    .bind(to)
    .bind(tenant)
    .bind(&filter.state)
    .bind(after.map(|(at, _)| at))
    .bind(after.map(|(_, id)| id))
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await?;
    Ok(Page::build(rows, limit, |batch: &Batch| (batch.event_at, batch.id)))
}

/// An invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct InvoiceRow {
    pub id: String,
    pub number: Option<String>,
    pub tenant: TenantId,
    pub slug: String,
    pub subscription: Option<String>,
    /// `draft`, `open`, `paid`, `uncollectible` or `void`.
    pub status: String,
    /// The draft waits for finance.
    pub held: bool,
    pub currency: String,
    pub total_minor: i64,
    pub tax_minor: i64,
    pub paid_minor: i64,
    pub credited_minor: i64,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub due_at: Option<DateTime<Utc>>,
    pub paid_at: Option<DateTime<Utc>>,
}

macro_rules! select_invoice {
    ($rest:literal) => {
        concat!(
            "SELECT i.id, i.number, i.tenant, t.slug, i.subscription, i.status, i.held, i.currency, i.total_minor, \
             i.tax_minor, i.paid_minor, i.credited_minor, i.period_start, i.period_end, i.created_at, i.due_at, i.paid_at \
             FROM invoice i JOIN tenant t ON t.id = i.tenant ",
            $rest
        )
    };
}

/// Invoices that were made in a time, oldest first.
///
/// # Errors
/// `invalid_fields`; `tenant_not_found`; `bad_cursor`.
pub async fn invoice_list(
    conn: &mut PgConnection,
    filter: &ListFilter,
    now: DateTime<Utc>,
) -> Result<Page<InvoiceRow>> {
    let limit = page::limit(filter.limit)?;
    let (from, to) = days(filter.from, filter.to, now)?;
    let tenant = tenant_of(&mut *conn, filter).await?;
    let after: Option<(DateTime<Utc>, String)> = filter.cursor.as_deref().map(page::decode).transpose()?;
    let rows = sqlx::query_as(select_invoice!(
        "WHERE i.created_at >= $1 AND i.created_at < $2 AND ($3::uuid IS NULL OR i.tenant = $3)
           AND ($4::text IS NULL OR i.status = $4)
           AND ($5::timestamptz IS NULL OR (i.created_at, i.id) > ($5, $6))
         ORDER BY i.created_at, i.id LIMIT $7"
    ))
    .bind(from)
    .bind(to)
    .bind(tenant)
    .bind(&filter.state)
    .bind(after.as_ref().map(|(at, _)| *at))
    .bind(after.as_ref().map(|(_, id)| id.as_str()))
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await?;
    Ok(Page::build(rows, limit, |invoice: &InvoiceRow| (invoice.created_at, invoice.id.clone())))
}

/// One invoice.
///
/// # Errors
/// `not_found`.
pub async fn invoice_row(conn: &mut PgConnection, id: &str) -> Result<InvoiceRow> {
    let found: Option<InvoiceRow> =
        sqlx::query_as(select_invoice!("WHERE i.id = $1")).bind(id).fetch_optional(conn).await?;
    found.ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no invoice {id}")))
}

/// Drafts that wait for finance, the one that waits longest first. At most `limit`.
pub async fn held_drafts(conn: &mut PgConnection, limit: i64) -> Result<Vec<InvoiceRow>> {
    Ok(sqlx::query_as(select_invoice!("WHERE i.held AND i.status = 'draft' ORDER BY i.created_at LIMIT $1"))
        .bind(limit)
        .fetch_all(conn)
        .await?)
}

/// How a tenant's access stands with money.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct TenantAccess {
    pub tenant: TenantId,
    pub customer: String,
    pub access: Access,
    pub access_since: DateTime<Utc>,
    pub unpaid_since: Option<DateTime<Utc>>,
    pub override_access: Option<Access>,
    pub override_reason: Option<String>,
    pub override_by: Option<String>,
    pub override_until: Option<DateTime<Utc>>,
}

/// How a tenant's access stands.
///
/// # Errors
/// `not_found` for a tenant that has no account at Stripe.
pub async fn tenant_access(conn: &mut PgConnection, tenant: TenantId) -> Result<TenantAccess> {
    sqlx::query_as(
        "SELECT tenant, customer, access, access_since, unpaid_since, override_access, override_reason, override_by,
                override_until FROM billing_account WHERE tenant = $1",
    )
    .bind(tenant)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail("this tenant has no account at Stripe"))
}
