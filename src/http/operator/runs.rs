//! `/operator/v1/runs`.

use axum::response::IntoResponse;
use axum::response::sse::{KeepAlive, Sse};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::Operator;
use super::{Inside, feed};
use crate::control_plane::work;
use crate::http::vocabulary::{Json, Path, Query};
use crate::jobs::run::{self, Run, RunFilter};
use crate::kernel::Result;
use crate::kernel::ids::RunId;
use crate::kernel::page::Page;

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(events))
        .routes(routes!(resume))
        .routes(routes!(undo))
}

/// Runs, newest first, without their steps
#[utoipa::path(get, path = "/operator/v1/runs", operation_id = "operator_run_list", tag = "Operator: work",
    params(RunFilter), responses((status = 200, body = Page<Run>)))]
async fn list(operator: Operator, Query(filter): Query<RunFilter>) -> Result<Json<Page<Run>>> {
    let mut control = operator.cp.db.acquire().await?;
    run::run_list(&mut control, &filter).await.map(Json)
}

/// One run with its steps
#[utoipa::path(get, path = "/operator/v1/runs/{id}", operation_id = "operator_run_show", tag = "Operator: work",
    params(("id" = RunId, Path)), responses((status = 200, body = Run)))]
async fn show(operator: Operator, Path(id): Path<RunId>) -> Result<Json<Run>> {
    let mut control = operator.cp.db.acquire().await?;
    run::run_by_id(&mut control, id).await.map(Json)
}

/// Follow a run: one server-sent event, `run`, with the run as JSON at first and at each change, until it is finished
#[utoipa::path(get, path = "/operator/v1/runs/{id}/events", operation_id = "operator_run_events", tag = "Operator: work",
    params(("id" = RunId, Path)), responses((status = 200, body = Run, content_type = "text/event-stream")))]
async fn events(operator: Operator, Path(id): Path<RunId>) -> Result<impl IntoResponse> {
    let first = run::run_by_id(&mut *operator.cp.db.acquire().await?, id).await?;
    let stream = feed::follow(operator.cp.db.clone(), operator.feed.subscribe(), first);
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// Put a stuck run back to work
#[utoipa::path(post, path = "/operator/v1/runs/{id}/resume", operation_id = "operator_run_resume", tag = "Operator: work",
    params(("id" = RunId, Path)), responses((status = 202, body = Run)))]
async fn resume(operator: Operator, Path(id): Path<RunId>) -> Result<impl IntoResponse> {
    let run = work::run_resume(&operator.cp, &operator.caller, id).await?;
    Ok((http::StatusCode::ACCEPTED, Json(run)))
}

/// Take back what a run that waits or is stuck has done so far
#[utoipa::path(post, path = "/operator/v1/runs/{id}/undo", operation_id = "operator_run_undo", tag = "Operator: work",
    params(("id" = RunId, Path)), responses((status = 202, body = Run)))]
async fn undo(operator: Operator, Path(id): Path<RunId>) -> Result<impl IntoResponse> {
    let run = work::run_undo(&operator.cp, &operator.caller, id).await?;
    Ok((http::StatusCode::ACCEPTED, Json(run)))
}
