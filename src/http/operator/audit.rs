//! `/operator/v1/audit`.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use crate::control_plane::audit::{self, AuditFilter, AuditLine};
use crate::http::vocabulary::{Json, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The audit log, newest first
#[utoipa::path(get, path = "/operator/v1/audit", operation_id = "operator_audit_list", tag = "Operator: audit",
    params(AuditFilter), responses((status = 200, body = Page<AuditLine>)))]
async fn list(operator: Operator, Query(filter): Query<AuditFilter>) -> Result<Json<Page<AuditLine>>> {
    let mut control = operator.cp.db.acquire().await?;
    audit::audit_list(&mut control, &filter).await.map(Json)
}
