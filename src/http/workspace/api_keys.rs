//! API keys of this workspace.

use axum::extract::State;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;

use super::{by, caller};
use crate::data_plane::As;
use crate::data_plane::context::Admin;
use crate::http::vocabulary::{Json, Path, Query};
use crate::identity::Identity;
use crate::identity::keys::{
    ApiKey, KeyFilter, NewOwnKey, WithSecret, own_key_create, own_key_list, own_key_revoke,
};
use crate::kernel::Result;
use crate::kernel::ids::ApiKeyId;
use crate::kernel::page::Page;
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), create, list, revoke)
}

/// Make an API key
///
/// Its role is at most one's own. The answer is the only place that shows the key.
#[utoipa::path(post, path = "/api/v1/api-keys", operation_id = "create_api_key", tag = "api-keys",
    request_body = NewOwnKey,
    responses((status = 201, description = "The key. It cannot be shown again.", body = WithSecret<ApiKey>)))]
async fn create(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Json(new): Json<NewOwnKey>,
) -> Result<(StatusCode, Json<WithSecret<ApiKey>>)> {
    ctx.may_grant(new.scopes.as_deref())?;
    let made = own_key_create(&identity.cp, &caller(&ctx), by(&ctx), ctx.tenant_id, &new).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// List API keys
#[utoipa::path(get, path = "/api/v1/api-keys", operation_id = "list_api_keys", tag = "api-keys",
    params(KeyFilter),
    responses((status = 200, description = "Keys, newest first, revoked ones included.", body = Page<ApiKey>)))]
async fn list(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Query(filter): Query<KeyFilter>,
) -> Result<Json<Page<ApiKey>>> {
    let mut conn = identity.cp.db.acquire().await?;
    Ok(Json(own_key_list(&mut conn, ctx.tenant_id, &filter).await?))
}

/// Revoke an API key
///
/// Every server refuses it within a second.
#[utoipa::path(delete, path = "/api/v1/api-keys/{id}", operation_id = "revoke_api_key", tag = "api-keys",
    params(("id" = ApiKeyId, Path)), responses((status = 204, description = "The key opens nothing any more.")))]
async fn revoke(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Path(id): Path<ApiKeyId>,
) -> Result<StatusCode> {
    own_key_revoke(&identity.cp, &caller(&ctx), by(&ctx), ctx.tenant_id, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
