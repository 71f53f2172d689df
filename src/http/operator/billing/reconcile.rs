//! Comparisons: asked for, followed, read.

use std::time::Duration;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::billing::reconcile::{
    Ask, Difference, DifferenceFilter, ReconcileId, Run, RunDetail, RunsFilter, difference_list,
    reconcile_begin, reconcile_go_on, run_list, run_show,
};
use crate::http::operator::Inside;
use crate::http::operator::caller::{Accountant, Operator};
use crate::http::vocabulary::{Json, Path, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

/// How long a request works at a comparison before it answers. A worker goes on.
const PATIENCE: Duration = Duration::from_secs(8);

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list, begin)).routes(routes!(show)).routes(routes!(differences))
}

/// Comparisons, newest first
#[utoipa::path(get, path = "/operator/v1/billing/reconcile", operation_id = "operator_billing_reconcile_list",
    tag = "Operator: billing", params(RunsFilter), responses((status = 200, body = Page<Run>)))]
async fn list(operator: Operator, Query(filter): Query<RunsFilter>) -> Result<Json<Page<Run>>> {
    run_list(&mut *operator.cp.db.acquire().await?, &filter).await.map(Json)
}

/// Compare ledger, deliveries, Stripe's counts, invoices and payments
///
/// Answers after some seconds: with the end of it, or with `running` when there is more to do. A worker goes on then; ask
/// for it by its id.
#[utoipa::path(post, path = "/operator/v1/billing/reconcile", operation_id = "operator_billing_reconcile",
    tag = "Operator: billing", request_body = Ask, responses((status = 200, body = RunDetail)))]
async fn begin(Accountant(operator): Accountant, Json(wish): Json<Ask>) -> Result<Json<RunDetail>> {
    let billing = operator.billing()?;
    let id = reconcile_begin(billing, &operator.caller, &wish).await?;
    reconcile_go_on(billing, id, PATIENCE).await?;
    run_show(&mut *operator.cp.db.acquire().await?, id).await.map(Json)
}

/// One comparison with what it found
#[utoipa::path(get, path = "/operator/v1/billing/reconcile/{id}", operation_id = "operator_billing_reconcile_show",
    tag = "Operator: billing", params(("id" = ReconcileId, Path)), responses((status = 200, body = RunDetail)))]
async fn show(operator: Operator, Path(id): Path<ReconcileId>) -> Result<Json<RunDetail>> {
    run_show(&mut *operator.cp.db.acquire().await?, id).await.map(Json)
}

/// What a comparison found, by level; of the last one of all tenants when none is named
#[utoipa::path(get, path = "/operator/v1/billing/differences", operation_id = "operator_billing_difference_list",
    tag = "Operator: billing", params(DifferenceFilter), responses((status = 200, body = Page<Difference>)))]
async fn differences(
    operator: Operator,
    Query(filter): Query<DifferenceFilter>,
) -> Result<Json<Page<Difference>>> {
    let livemode = operator.livemode();
    difference_list(&mut *operator.cp.db.acquire().await?, livemode, &filter).await.map(Json)
}
