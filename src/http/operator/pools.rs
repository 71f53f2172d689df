//! `/operator/v1/pools`.

use axum::response::IntoResponse;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use crate::control_plane::shards::{self, NewPool, ShardPool};
use crate::http::vocabulary::Json;
use crate::kernel::Result;
use crate::kernel::page::Page;

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list, add))
}

/// Shard pools
#[utoipa::path(get, path = "/operator/v1/pools", operation_id = "operator_pool_list", tag = "Operator: shards",
    responses((status = 200, body = Page<ShardPool>)))]
async fn list(operator: Operator) -> Result<Json<Page<ShardPool>>> {
    let mut control = operator.cp.db.acquire().await?;
    shards::pool_list(&mut control).await.map(Page::whole).map(Json)
}

/// Add a shard pool
#[utoipa::path(post, path = "/operator/v1/pools", operation_id = "operator_pool_add", tag = "Operator: shards",
    request_body = NewPool, responses((status = 201, body = ShardPool)))]
async fn add(operator: Operator, Json(new): Json<NewPool>) -> Result<impl IntoResponse> {
    let pool = shards::pool_add(&operator.cp, &operator.caller, &new).await?;
    Ok((StatusCode::CREATED, Json(pool)))
}
