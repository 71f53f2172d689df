//! `/operator/v1/tenants`.

use axum::response::{AppendHeaders, IntoResponse, Response};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::{Operator, Which};
use super::idempotency_key::{IdempotencyKey, REPLAYED};
use super::outcome::{Outcome, PATIENCE, settle, underway};
use crate::control_plane::access;
use crate::control_plane::provisioning::NewTenant;
use crate::control_plane::signup::{self, Signup};
use crate::control_plane::tenants::{self, Rename, Tenant, TenantDetail, TenantFilter, tenant_of_run};
use crate::http::vocabulary::{Json, Query};
use crate::jobs::run::Run;
use crate::kernel::Result;
use crate::kernel::page::Page;

/// Why, for the audit log.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    #[garde(length(chars, min = 1, max = 500))]
    #[schema(example = "invoice 4711 is unpaid")]
    pub reason: String,
}

/// When to remove a deleted tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Purge {
    /// Do not wait for the 30 days to pass.
    #[garde(skip)]
    #[serde(default)]
    pub now: bool,
}

/// Why, as a query string: a DELETE has no body.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteReason {
    pub reason: Option<String>,
}

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, rename, delete))
        .routes(routes!(suspend))
        .routes(routes!(resume))
        .routes(routes!(undelete))
        .routes(routes!(purge))
}

/// Tenants by age, oldest first
#[utoipa::path(get, path = "/operator/v1/tenants", operation_id = "operator_tenant_list", tag = "Operator: tenants",
    params(TenantFilter), responses((status = 200, body = Page<Tenant>)))]
async fn list(operator: Operator, Query(filter): Query<TenantFilter>) -> Result<Json<Page<Tenant>>> {
    tenants::tenant_list(&operator.cp, &filter).await.map(Json)
}

/// Make a tenant
///
/// With a spare slot the tenant is ready when this answers. With an `Idempotency-Key`, a repeat of the same request gets
/// the same answer, marked `Idempotency-Replayed: true`.
#[utoipa::path(post, path = "/operator/v1/tenants", operation_id = "operator_tenant_create", tag = "Operator: tenants",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeat with the same key and body gets the first answer.")),
    request_body = NewTenant,
    responses((status = 201, body = Tenant), (status = 202, body = Run, description = "Still being made")))]
async fn create(
    operator: Operator,
    IdempotencyKey(key): IdempotencyKey,
    Json(new): Json<NewTenant>,
) -> Result<Response> {
    let scope = operator.caller.actor.as_str();
    let claimed = key.as_deref().map(|key| signup::Key { scope, key });
    signup::sign_up(&operator.cp, &operator.feed, &operator.caller, &new, claimed, PATIENCE).await.map(answer)
}

fn answer(signup: Signup) -> Response {
    match signup {
        Signup::Underway(run) => underway(run),
        Signup::Answered(answer) => {
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
            let json = [(header::CONTENT_TYPE, "application/json")];
            let replayed = answer.replayed.then_some([(REPLAYED, "true")]);
            (status, json, AppendHeaders(replayed.into_iter().flatten()), answer.body).into_response()
        }
    }
}

/// One tenant with what only operators need
#[utoipa::path(get, path = "/operator/v1/tenants/{tenant}", operation_id = "operator_tenant_show", tag = "Operator: tenants",
    params(("tenant" = String, Path, description = "Its slug or id")), responses((status = 200, body = TenantDetail)))]
async fn show(operator: Operator, Which(tenant): Which) -> Result<Json<TenantDetail>> {
    tenants::tenant_show(&operator.cp, &tenant).await.map(Json)
}

/// Give a tenant another slug, name or both
#[utoipa::path(patch, path = "/operator/v1/tenants/{tenant}", operation_id = "operator_tenant_rename", tag = "Operator: tenants",
    params(("tenant" = String, Path, description = "Its slug or id")), request_body = Rename,
    responses((status = 200, body = TenantDetail)))]
async fn rename(
    operator: Operator,
    Which(tenant): Which,
    Json(to): Json<Rename>,
) -> Result<Json<TenantDetail>> {
    tenants::tenant_rename(&operator.cp, &operator.caller, &tenant, &to).await.map(Json)
}

/// Delete a tenant softly: shut at once, removed for good after 30 days
#[utoipa::path(delete, path = "/operator/v1/tenants/{tenant}", operation_id = "operator_tenant_delete", tag = "Operator: tenants",
    params(("tenant" = String, Path, description = "Its slug or id"), DeleteReason),
    responses((status = 200, body = Tenant), (status = 202, body = Run)))]
async fn delete(
    operator: Operator,
    Which(tenant): Which,
    Query(why): Query<DeleteReason>,
) -> Result<Outcome<Tenant>> {
    let reason = why.reason.as_deref().unwrap_or("deleted by an operator");
    let run = access::tenant_delete(&operator.cp, &operator.caller, &tenant, reason).await?;
    settle(&operator, run, async |run| tenant_of_run(&operator.cp, run).await).await
}

/// Shut a tenant: the next request is refused, and its database login too
#[utoipa::path(post, path = "/operator/v1/tenants/{tenant}/suspend", operation_id = "operator_tenant_suspend", tag = "Operator: tenants",
    params(("tenant" = String, Path, description = "Its slug or id")), request_body = Reason,
    responses((status = 200, body = Tenant), (status = 202, body = Run)))]
async fn suspend(
    operator: Operator,
    Which(tenant): Which,
    Json(why): Json<Reason>,
) -> Result<Outcome<Tenant>> {
    let run = access::tenant_suspend(&operator.cp, &operator.caller, &tenant, &why.reason).await?;
    settle(&operator, run, async |run| tenant_of_run(&operator.cp, run).await).await
}

/// Let a suspended tenant work again
#[utoipa::path(post, path = "/operator/v1/tenants/{tenant}/resume", operation_id = "operator_tenant_resume", tag = "Operator: tenants",
    params(("tenant" = String, Path, description = "Its slug or id")),
    responses((status = 200, body = Tenant), (status = 202, body = Run)))]
async fn resume(operator: Operator, Which(tenant): Which) -> Result<Outcome<Tenant>> {
    let run = access::tenant_resume(&operator.cp, &operator.caller, &tenant).await?;
    settle(&operator, run, async |run| tenant_of_run(&operator.cp, run).await).await
}

/// Bring a softly deleted tenant back
#[utoipa::path(post, path = "/operator/v1/tenants/{tenant}/undelete", operation_id = "operator_tenant_undelete", tag = "Operator: tenants",
    params(("tenant" = String, Path, description = "Its slug or id")),
    responses((status = 200, body = Tenant), (status = 202, body = Run)))]
async fn undelete(operator: Operator, Which(tenant): Which) -> Result<Outcome<Tenant>> {
    let run = access::tenant_undelete(&operator.cp, &operator.caller, &tenant).await?;
    settle(&operator, run, async |run| tenant_of_run(&operator.cp, run).await).await
}

/// Remove a softly deleted tenant for good
#[utoipa::path(post, path = "/operator/v1/tenants/{tenant}/purge", operation_id = "operator_tenant_purge", tag = "Operator: tenants",
    params(("tenant" = String, Path, description = "Its slug or id")), request_body = Purge,
    responses((status = 200, body = Tenant), (status = 202, body = Run)))]
async fn purge(operator: Operator, Which(tenant): Which, Json(when): Json<Purge>) -> Result<Outcome<Tenant>> {
    let run = access::tenant_purge(&operator.cp, &operator.caller, &tenant, when.now).await?;
    settle(&operator, run, async |run| tenant_of_run(&operator.cp, run).await).await
}
