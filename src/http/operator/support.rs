//! `/operator/v1/support-sessions`.

use axum::response::IntoResponse;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::{Operator, Which};
use crate::http::vocabulary::{Json, Path, Query};
use crate::identity::support::{
    NewSupport, StartedSupport, SupportFilter, SupportSession, support_end, support_list, support_start,
};
use crate::kernel::Result;
use crate::kernel::ids::SupportId;
use crate::kernel::page::Page;

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(start)).routes(routes!(list)).routes(routes!(end))
}

/// Look into a tenant: for a reason that it reads, for at most four hours. The answer is the only place that shows the link
#[utoipa::path(post, path = "/operator/v1/tenants/{tenant}/support-sessions", operation_id = "operator_support_start",
    tag = "Operator: support", params(("tenant" = String, Path, description = "Its slug or id")),
    request_body = NewSupport, responses((status = 201, body = StartedSupport)))]
async fn start(
    operator: Operator,
    Which(tenant): Which,
    Json(new): Json<NewSupport>,
) -> Result<impl IntoResponse> {
    let started = support_start(&operator.cp, &operator.caller, &operator.name, &tenant, &new).await?;
    Ok((StatusCode::CREATED, Json(started)))
}

/// Looks into tenants, newest first
#[utoipa::path(get, path = "/operator/v1/support-sessions", operation_id = "operator_support_list",
    tag = "Operator: support", params(SupportFilter), responses((status = 200, body = Page<SupportSession>)))]
async fn list(operator: Operator, Query(filter): Query<SupportFilter>) -> Result<Json<Page<SupportSession>>> {
    let mut control = operator.cp.db.acquire().await?;
    support_list(&mut control, &filter, operator.cp.clock.now()).await.map(Json)
}

/// End a look into a tenant: every server refuses it within a second
#[utoipa::path(post, path = "/operator/v1/support-sessions/{id}/end", operation_id = "operator_support_end",
    tag = "Operator: support", params(("id" = SupportId, Path)), responses((status = 200, body = SupportSession)))]
async fn end(operator: Operator, Path(id): Path<SupportId>) -> Result<Json<SupportSession>> {
    support_end(&operator.cp, &operator.caller, None, id).await.map(Json)
}
