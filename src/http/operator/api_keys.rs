//! `/operator/v1/tenants/{tenant}/api-keys`.

use axum::response::IntoResponse;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::{Operator, Which};
use crate::http::vocabulary::{Json, Path, Query};
use crate::identity::keys::{self, ApiKey, KeyFilter, NewApiKey, WithSecret};
use crate::kernel::Result;
use crate::kernel::ids::ApiKeyId;
use crate::kernel::page::Page;

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

/// A tenant's API keys, newest first, revoked ones included
#[utoipa::path(get, path = "/operator/v1/tenants/{tenant}/api-keys", operation_id = "operator_api_key_list", tag = "Operator: keys",
    params(("tenant" = String, Path, description = "Its slug or id"), KeyFilter), responses((status = 200, body = Page<ApiKey>)))]
async fn list(
    operator: Operator,
    Which(tenant): Which,
    Query(filter): Query<KeyFilter>,
) -> Result<Json<Page<ApiKey>>> {
    let mut control = operator.cp.db.acquire().await?;
    keys::api_key_list(&mut control, &tenant, &filter).await.map(Json)
}

/// Make an API key for a tenant. The answer is the only place that shows the key
#[utoipa::path(post, path = "/operator/v1/tenants/{tenant}/api-keys", operation_id = "operator_api_key_create", tag = "Operator: keys",
    params(("tenant" = String, Path, description = "Its slug or id")), request_body = NewApiKey,
    responses((status = 201, body = WithSecret<ApiKey>)))]
async fn create(
    operator: Operator,
    Which(tenant): Which,
    Json(new): Json<NewApiKey>,
) -> Result<impl IntoResponse> {
    let key = keys::api_key_create(&operator.cp, &operator.caller, &tenant, &new).await?;
    Ok((StatusCode::CREATED, Json(key)))
}

/// Revoke an API key: every server refuses it within a second
#[utoipa::path(delete, path = "/operator/v1/api-keys/{id}", operation_id = "operator_api_key_revoke", tag = "Operator: keys",
    params(("id" = ApiKeyId, Path)), responses((status = 200, body = ApiKey)))]
async fn revoke(operator: Operator, Path(id): Path<ApiKeyId>) -> Result<Json<ApiKey>> {
    keys::api_key_revoke(&operator.cp, &operator.caller, id).await.map(Json)
}
