//! Reading: reports, explanations, lists. For every operator.

use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::billing::finance::explain::{ExplainFilter, Explained, FactsFilter, explain, facts};
use crate::billing::finance::inbox::{InboxEvent, InboxFilter, inbox_list};
use crate::billing::finance::lists::{InvoiceRow, ListFilter, batch_list, invoice_list};
use crate::billing::finance::preview::{Preview, preview};
use crate::billing::finance::quarantine::{QuarantineFilter, quarantine_list};
use crate::billing::finance::report::{ReportFilter, ReportRow, report};
use crate::billing::finance::standing::{Standing, standing};
use crate::billing::finance::tenant::{TenantUse, usage};
use crate::billing::incidents::{self, Incident};
use crate::billing::ledger::{self, Batch, Correction, FactLine, Quarantined};
use crate::control_plane::tenants::tenant_find;
use crate::http::operator::Inside;
use crate::http::operator::caller::{Operator, Which};
use crate::http::vocabulary::{Json, Path, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

/// Rows of lists that come whole.
const WHOLE: i64 = 500;

/// Whether what is done with is listed too.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DoneToo {
    /// Also what is settled or decided already.
    #[serde(default)]
    pub done_too: Option<bool>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub cursor: Option<String>,
}

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new()
        .routes(routes!(show_standing))
        .routes(routes!(show_report))
        .routes(routes!(list_invoices))
        .routes(routes!(explain_invoice))
        .routes(routes!(list_batches))
        .routes(routes!(list_facts))
        .routes(routes!(list_quarantine))
        .routes(routes!(list_quarantined_facts))
        .routes(routes!(list_inbox))
        .routes(routes!(list_incidents))
        .routes(routes!(list_corrections))
        .routes(routes!(show_usage))
        .routes(routes!(show_preview))
}

/// How money stands: what waits, what differs
#[utoipa::path(get, path = "/operator/v1/billing/standing", operation_id = "operator_billing_standing", tag = "Operator: billing",
    responses((status = 200, body = Standing)))]
async fn show_standing(operator: Operator) -> Result<Json<Standing>> {
    let livemode = operator.livemode();
    standing(&mut *operator.cp.db.acquire().await?, livemode).await.map(Json)
}

/// What was used, told, counted, invoiced and paid: a row for each tenant, meter and period
///
/// Money is in minor units. What Stripe counted is as of the last reconciliation. A page holds the rows of up to `limit`
/// tenants.
#[utoipa::path(get, path = "/operator/v1/billing/report", operation_id = "operator_billing_report", tag = "Operator: billing",
    params(ReportFilter), responses((status = 200, body = Page<ReportRow>)))]
async fn show_report(
    operator: Operator,
    Query(filter): Query<ReportFilter>,
) -> Result<Json<Page<ReportRow>>> {
    let (livemode, now) = (operator.livemode(), operator.cp.clock.now());
    report(&mut *operator.cp.db.acquire().await?, livemode, &filter, now).await.map(Json)
}

/// Invoices that were made in a time, oldest first
#[utoipa::path(get, path = "/operator/v1/billing/invoices", operation_id = "operator_billing_invoice_list",
    tag = "Operator: billing", params(ListFilter), responses((status = 200, body = Page<InvoiceRow>)))]
async fn list_invoices(
    operator: Operator,
    Query(filter): Query<ListFilter>,
) -> Result<Json<Page<InvoiceRow>>> {
    let now = operator.cp.clock.now();
    invoice_list(&mut *operator.cp.db.acquire().await?, &filter, now).await.map(Json)
}

/// An invoice walked down: lines, batches, single facts
#[utoipa::path(get, path = "/operator/v1/billing/invoices/{id}/explain", operation_id = "operator_billing_explain",
    tag = "Operator: billing", params(("id" = String, Path, description = "As in `in_…`"), ExplainFilter),
    responses((status = 200, body = Explained)))]
async fn explain_invoice(
    operator: Operator,
    Path(id): Path<String>,
    Query(filter): Query<ExplainFilter>,
) -> Result<Json<Explained>> {
    explain(&mut *operator.cp.db.acquire().await?, &id, &filter).await.map(Json)
}

/// Batches by the moment that Stripe is told, oldest first
#[utoipa::path(get, path = "/operator/v1/billing/batches", operation_id = "operator_billing_batch_list",
    tag = "Operator: billing", params(ListFilter), responses((status = 200, body = Page<Batch>)))]
async fn list_batches(operator: Operator, Query(filter): Query<ListFilter>) -> Result<Json<Page<Batch>>> {
    let now = operator.cp.clock.now();
    batch_list(&mut *operator.cp.db.acquire().await?, &filter, now).await.map(Json)
}

/// The facts of a batch, in the order in which they happened
#[utoipa::path(get, path = "/operator/v1/billing/batches/{batch}/facts", operation_id = "operator_billing_fact_list",
    tag = "Operator: billing", params(("batch" = String, Path, description = "Its id, or its identifier at Stripe"), FactsFilter),
    responses((status = 200, body = Page<FactLine>)))]
async fn list_facts(
    operator: Operator,
    Path(batch): Path<String>,
    Query(filter): Query<FactsFilter>,
) -> Result<Json<Page<FactLine>>> {
    facts(&mut *operator.cp.db.acquire().await?, &batch, &filter).await.map(Json)
}

/// Batches that Stripe refused, or that were set aside, oldest first
#[utoipa::path(get, path = "/operator/v1/billing/quarantine", operation_id = "operator_billing_quarantine_list",
    tag = "Operator: billing", params(QuarantineFilter), responses((status = 200, body = Page<Batch>)))]
async fn list_quarantine(
    operator: Operator,
    Query(filter): Query<QuarantineFilter>,
) -> Result<Json<Page<Batch>>> {
    quarantine_list(&mut *operator.cp.db.acquire().await?, &filter).await.map(Json)
}

/// Facts that were too old or from the future, newest first. They count by a correction that names them
#[utoipa::path(get, path = "/operator/v1/billing/quarantine/facts", operation_id = "operator_billing_quarantined_fact_list",
    tag = "Operator: billing", responses((status = 200, body = Page<Quarantined>)))]
async fn list_quarantined_facts(operator: Operator) -> Result<Json<Page<Quarantined>>> {
    let mut conn = operator.cp.db.acquire().await?;
    ledger::quarantine_list(&mut conn, None, WHOLE).await.map(Page::whole).map(Json)
}

/// Webhooks as they came, newest first
#[utoipa::path(get, path = "/operator/v1/billing/inbox", operation_id = "operator_billing_inbox_list",
    tag = "Operator: billing", params(InboxFilter), responses((status = 200, body = Page<InboxEvent>)))]
async fn list_inbox(operator: Operator, Query(filter): Query<InboxFilter>) -> Result<Json<Page<InboxEvent>>> {
    let livemode = operator.livemode();
    inbox_list(&mut *operator.cp.db.acquire().await?, livemode, &filter).await.map(Json)
}

/// What somebody has to look at, newest first
#[utoipa::path(get, path = "/operator/v1/billing/incidents", operation_id = "operator_billing_incident_list",
    tag = "Operator: billing", params(DoneToo), responses((status = 200, body = Page<Incident>)))]
async fn list_incidents(operator: Operator, Query(wish): Query<DoneToo>) -> Result<Json<Page<Incident>>> {
    let mut conn = operator.cp.db.acquire().await?;
    incidents::page(&mut conn, wish.done_too.unwrap_or(false), wish.limit, wish.cursor.as_deref())
        .await
        .map(Json)
}

/// Corrections, newest first: those that wait for a second person, or all
#[utoipa::path(get, path = "/operator/v1/billing/corrections", operation_id = "operator_billing_correction_list",
    tag = "Operator: billing", params(DoneToo), responses((status = 200, body = Page<Correction>)))]
async fn list_corrections(operator: Operator, Query(wish): Query<DoneToo>) -> Result<Json<Page<Correction>>> {
    let mut conn = operator.cp.db.acquire().await?;
    let done_too = wish.done_too.unwrap_or(false);
    ledger::correction_page(&mut conn, done_too, wish.limit, wish.cursor.as_deref()).await.map(Json)
}

/// What a tenant used: today, in the running period, and where it leads
#[utoipa::path(get, path = "/operator/v1/tenants/{tenant}/usage", operation_id = "operator_tenant_usage",
    tag = "Operator: billing", params(("tenant" = String, Path, description = "Its slug or id")),
    responses((status = 200, body = TenantUse)))]
async fn show_usage(operator: Operator, Which(tenant): Which) -> Result<Json<TenantUse>> {
    let mut conn = operator.cp.db.acquire().await?;
    let tenant = tenant_find(&mut conn, &tenant).await?;
    usage(&mut conn, tenant.id, operator.cp.clock.now()).await.map(Json)
}

/// The next invoice, as Stripe would make it now
#[utoipa::path(get, path = "/operator/v1/tenants/{tenant}/invoice-preview", operation_id = "operator_tenant_invoice_preview",
    tag = "Operator: billing", params(("tenant" = String, Path, description = "Its slug or id")),
    responses((status = 200, body = Preview)))]
async fn show_preview(operator: Operator, Which(tenant): Which) -> Result<Json<Preview>> {
    preview(operator.billing()?, &tenant.to_string()).await.map(Json)
}
