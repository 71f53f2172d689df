//! `/operator/v1/shards`.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use super::outcome::{Outcome, settle, underway};
use crate::control_plane::registry;
use crate::control_plane::shards::{self, NewShard, Shard, ShardState};
use crate::http::vocabulary::{Json, Path};
use crate::jobs::run::Run;
use crate::kernel::Result;
use crate::kernel::page::Page;

/// How many spare slots a shard is to keep.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fill {
    #[garde(range(min = 0, max = 1_000))]
    pub target: i32,
}

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(show, remove))
        .routes(routes!(drain))
        .routes(routes!(activate))
        .routes(routes!(fill))
}

/// Shards by name
#[utoipa::path(get, path = "/operator/v1/shards", operation_id = "operator_shard_list", tag = "Operator: shards",
    responses((status = 200, body = Page<Shard>)))]
async fn list(operator: Operator) -> Result<Json<Page<Shard>>> {
    let mut control = operator.cp.db.acquire().await?;
    shards::shard_list(&mut control).await.map(Page::whole).map(Json)
}

/// Add a shard: the worker prepares its database, then it takes tenants
#[utoipa::path(post, path = "/operator/v1/shards", operation_id = "operator_shard_add", tag = "Operator: shards",
    request_body = NewShard,
    responses((status = 201, body = Shard), (status = 202, body = Run, description = "Still being prepared")))]
async fn add(operator: Operator, Json(new): Json<NewShard>) -> Result<Response> {
    let (id, run) = shards::shard_add(&operator.cp, &operator.caller, &new).await?;
    let view = async |_: &Run| shards::shard_by_id(&mut *operator.cp.db.acquire().await?, id).await;
    Ok(match settle(&operator, run, view).await? {
        Outcome::Done(shard) => (StatusCode::CREATED, Json(shard)).into_response(),
        Outcome::Underway(run) => underway(run),
    })
}

/// One shard
#[utoipa::path(get, path = "/operator/v1/shards/{shard}", operation_id = "operator_shard_show", tag = "Operator: shards",
    params(("shard" = String, Path, description = "Its name or id")), responses((status = 200, body = Shard)))]
async fn show(operator: Operator, Path(shard): Path<String>) -> Result<Json<Shard>> {
    let mut control = operator.cp.db.acquire().await?;
    shards::shard_find(&mut control, &shard).await.map(Json)
}

/// Take a shard out of the registry, once it is drained and has neither tenants nor slots. Its database is left as it is
#[utoipa::path(delete, path = "/operator/v1/shards/{shard}", operation_id = "operator_shard_remove", tag = "Operator: shards",
    params(("shard" = String, Path, description = "Its name or id")), responses((status = 200, body = Shard)))]
async fn remove(operator: Operator, Path(shard): Path<String>) -> Result<Json<Shard>> {
    registry::shard_remove(&operator.cp, &operator.caller, &shard).await.map(Json)
}

/// Stop a shard from taking new tenants; those it has are served on
#[utoipa::path(post, path = "/operator/v1/shards/{shard}/drain", operation_id = "operator_shard_drain", tag = "Operator: shards",
    params(("shard" = String, Path, description = "Its name or id")), responses((status = 200, body = Shard)))]
async fn drain(operator: Operator, Path(shard): Path<String>) -> Result<Json<Shard>> {
    shards::shard_set_state(&operator.cp, &operator.caller, &shard, ShardState::Draining).await.map(Json)
}

/// Let a shard take new tenants
#[utoipa::path(post, path = "/operator/v1/shards/{shard}/activate", operation_id = "operator_shard_activate", tag = "Operator: shards",
    params(("shard" = String, Path, description = "Its name or id")), responses((status = 200, body = Shard)))]
async fn activate(operator: Operator, Path(shard): Path<String>) -> Result<Json<Shard>> {
    shards::shard_set_state(&operator.cp, &operator.caller, &shard, ShardState::Active).await.map(Json)
}

/// Set how many spare slots a shard keeps; the worker makes them
#[utoipa::path(post, path = "/operator/v1/shards/{shard}/fill", operation_id = "operator_shard_fill", tag = "Operator: shards",
    params(("shard" = String, Path, description = "Its name or id")), request_body = Fill,
    responses((status = 202, body = Shard)))]
async fn fill(
    operator: Operator,
    Path(shard): Path<String>,
    Json(fill): Json<Fill>,
) -> Result<impl IntoResponse> {
    let shard = shards::shard_set_slots(&operator.cp, &operator.caller, &shard, fill.target).await?;
    Ok((StatusCode::ACCEPTED, Json(shard)))
}
