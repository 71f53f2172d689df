//! `/operator/v1/approvals`.

use axum::response::IntoResponse;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use crate::control_plane::approvals::{Approval, ApprovalFilter, NewApproval, approval_give, approval_list};
use crate::http::vocabulary::{Json, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list, give))
}

/// What operators agreed to for one another, newest first
#[utoipa::path(get, path = "/operator/v1/approvals", operation_id = "operator_approval_list", tag = "Operator: tenants",
    params(ApprovalFilter), responses((status = 200, body = Page<Approval>)))]
async fn list(operator: Operator, Query(filter): Query<ApprovalFilter>) -> Result<Json<Page<Approval>>> {
    let mut control = operator.cp.db.acquire().await?;
    approval_list(&mut control, &filter).await.map(Json)
}

/// Agree that another operator does what takes two
///
/// Deleting more than ten tenants within an hour, or removing that many for good before their days of grace are over, or
/// removing at once what one deleted oneself. It holds for an hour, for so many tenants. It takes a key that belongs to
/// another operator than the one it is for.
#[utoipa::path(post, path = "/operator/v1/approvals", operation_id = "operator_approval_give", tag = "Operator: tenants",
    request_body = NewApproval, responses((status = 201, body = Approval)))]
async fn give(operator: Operator, Json(new): Json<NewApproval>) -> Result<impl IntoResponse> {
    let approval = approval_give(&operator.cp, &operator.caller, &new).await?;
    Ok((StatusCode::CREATED, Json(approval)))
}
