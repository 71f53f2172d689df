//! `/operator/v1/audit`.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use crate::control_plane::audit::export::audit_export;
use crate::control_plane::audit::verify::{
    AuditHead, Broken, HeadFilter, Verified, Verify, audit_compare, audit_heads, audit_verify,
};
use crate::control_plane::audit::{self, AuditFilter, AuditLine};
use crate::http::vocabulary::{Json, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

/// Ends of chains that were kept elsewhere.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeptHeads {
    #[garde(length(max = 1000), dive)]
    pub heads: Vec<AuditHead>,
}

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(export))
        .routes(routes!(verify))
        .routes(routes!(heads))
        .routes(routes!(compare))
}

/// The audit log, newest first
#[utoipa::path(get, path = "/operator/v1/audit", operation_id = "operator_audit_list", tag = "Operator: audit",
    params(AuditFilter), responses((status = 200, body = Page<AuditLine>)))]
async fn list(operator: Operator, Query(filter): Query<AuditFilter>) -> Result<Json<Page<AuditLine>>> {
    let mut control = operator.cp.db.acquire().await?;
    audit::audit_list(&mut control, &filter).await.map(Json)
}

/// All lines of the filter as a file, newest first. The export is itself a line of the log
#[utoipa::path(get, path = "/operator/v1/audit/export", operation_id = "operator_audit_export", tag = "Operator: audit",
    params(AuditFilter), responses((status = 200, body = String, content_type = "text/csv")))]
async fn export(operator: Operator, Query(filter): Query<AuditFilter>) -> Result<Response> {
    let format = filter.format.unwrap_or_default();
    let lines = audit_export(&operator.cp, &operator.caller, filter.tenant, filter.what()?, format).await?;
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(format.disposition()));
    Ok(response)
}

/// Whether the chains of the audit log are whole
///
/// Goes through some tens of thousands of lines; `next_cursor` says where to go on.
#[utoipa::path(get, path = "/operator/v1/audit/verify", operation_id = "operator_audit_verify", tag = "Operator: audit",
    params(Verify), responses((status = 200, body = Verified)))]
async fn verify(operator: Operator, Query(wish): Query<Verify>) -> Result<Json<Verified>> {
    let mut control = operator.cp.db.acquire().await?;
    audit_verify(&mut control, &wish).await.map(Json)
}

/// The ends of all chains, to be kept elsewhere
#[utoipa::path(get, path = "/operator/v1/audit/heads", operation_id = "operator_audit_heads", tag = "Operator: audit",
    params(HeadFilter), responses((status = 200, body = Page<AuditHead>)))]
async fn heads(operator: Operator, Query(filter): Query<HeadFilter>) -> Result<Json<Page<AuditHead>>> {
    let mut control = operator.cp.db.acquire().await?;
    audit_heads(&mut control, &filter).await.map(Json)
}

/// Whether the chains still go through the ends that were kept
#[utoipa::path(post, path = "/operator/v1/audit/compare", operation_id = "operator_audit_compare", tag = "Operator: audit",
    request_body = KeptHeads, responses((status = 200, body = Page<Broken>)))]
async fn compare(operator: Operator, Json(kept): Json<KeptHeads>) -> Result<Json<Page<Broken>>> {
    let mut control = operator.cp.db.acquire().await?;
    audit_compare(&mut control, &kept.heads).await.map(Page::whole).map(Json)
}
