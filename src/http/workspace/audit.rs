//! What happened in this workspace: its own lines of the audit log, and no others.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, header};
use utoipa_axum::router::OpenApiRouter;

use super::caller;
use crate::control_plane::audit::AuditLine;
use crate::control_plane::audit::export::audit_export;
use crate::control_plane::audit::list::{OwnAuditFilter, own_audit_list};
use crate::data_plane::As;
use crate::data_plane::context::Admin;
use crate::http::vocabulary::{Json, Query};
use crate::identity::Identity;
use crate::kernel::Result;
use crate::kernel::page::Page;
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), list, export)
}

/// List the audit log
#[utoipa::path(get, path = "/api/v1/audit", operation_id = "list_audit", tag = "audit", params(OwnAuditFilter),
    responses((status = 200, description = "Lines, newest first.", body = Page<AuditLine>)))]
async fn list(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Query(filter): Query<OwnAuditFilter>,
) -> Result<Json<Page<AuditLine>>> {
    let mut conn = identity.cp.db.acquire().await?;
    Ok(Json(own_audit_list(&mut conn, ctx.tenant_id, &filter).await?))
}

/// Export the audit log
///
/// As CSV, or with `format=jsonl` as one JSON value a line; newest first, all lines of the filter (`limit` and `cursor`
/// say nothing here), at most a million. The export is itself a line of the log.
#[utoipa::path(get, path = "/api/v1/audit/export", operation_id = "export_audit", tag = "audit",
    params(OwnAuditFilter),
    responses((status = 200, description = "All lines.", body = String, content_type = "text/csv")))]
async fn export(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Query(filter): Query<OwnAuditFilter>,
) -> Result<Response> {
    let (what, format) = (filter.what()?, filter.format.unwrap_or_default());
    let lines = audit_export(&identity.cp, &caller(&ctx), Some(ctx.tenant_id), what, format).await?;
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(format.disposition()));
    Ok(response)
}
