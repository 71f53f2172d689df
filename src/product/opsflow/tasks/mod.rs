//! Tasks: what is to be done, by whom and by when.

use http::StatusCode;

use super::answer::{Versioned, versioned};
use super::words::TaskId;
use crate::data_plane::As;
use crate::data_plane::context::{Member, Viewer};
use crate::data_plane::idempotency::Answer;
use crate::http::vocabulary::{IfMatch, Json, Path, Problem, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

pub mod model;
pub mod query;
pub mod service;
pub mod store;

pub use model::{NewTask, Task, TaskPatch};
pub use query::{TaskQuery, TaskSort};

/// Create a task
#[utoipa::path(
    post,
    path = "/api/v1/tasks",
    operation_id = "create_task",
    tag = "tasks",
    request_body = NewTask,
    responses(
        (status = 201, description = "The task.", body = Task, headers(("ETag" = String, description = "Its version, for `If-Match`."), ("Location" = String, description = "Its address."))),
        (status = 404, description = "There is no such project.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub async fn create(ctx: As<Member>, Json(new): Json<NewTask>) -> Result<Answer> {
    service::create(&ctx, new).await
}

/// List tasks
///
/// All filters given must hold.
#[utoipa::path(
    get,
    path = "/api/v1/tasks",
    operation_id = "list_tasks",
    tag = "tasks",
    params(TaskQuery),
    responses((status = 200, description = "A page of tasks.", body = Page<Task>))
)]
pub async fn list(ctx: As<Viewer>, Query(query): Query<TaskQuery>) -> Result<Json<Page<Task>>> {
    let page = service::list(&ctx, query).await?;
    Ok(Json(page))
}

/// Read a task
#[utoipa::path(
    get,
    path = "/api/v1/tasks/{id}",
    operation_id = "get_task",
    tag = "tasks",
    params(("id" = TaskId, Path, description = "The task.")),
    responses((status = 200, description = "The task.", body = Task, headers(("ETag" = String, description = "Its version, for `If-Match`."))))
)]
pub async fn get(ctx: As<Viewer>, Path(id): Path<TaskId>) -> Result<Versioned<Task>> {
    let task = service::get(&ctx, id).await?;
    Ok(versioned(task.version, task))
}

/// Change a task
///
/// Only the fields given change; `null` clears `assignee` and `due_at`. With `If-Match` or `version`, only if nobody
/// changed it meanwhile.
#[utoipa::path(
    patch,
    path = "/api/v1/tasks/{id}",
    operation_id = "update_task",
    tag = "tasks",
    params(
        ("id" = TaskId, Path, description = "The task."),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version you changed."),
    ),
    request_body = TaskPatch,
    responses((status = 200, description = "The task as it is now.", body = Task, headers(("ETag" = String, description = "Its version, for `If-Match`."))))
)]
pub async fn update(
    ctx: As<Member>,
    Path(id): Path<TaskId>,
    IfMatch(seen): IfMatch,
    Json(patch): Json<TaskPatch>,
) -> Result<Versioned<Task>> {
    let task = service::update(&ctx, id, seen, patch).await?;
    Ok(versioned(task.version, task))
}

/// Delete a task and its comments
///
/// Members delete the tasks they created, admins any.
#[utoipa::path(
    delete,
    path = "/api/v1/tasks/{id}",
    operation_id = "delete_task",
    tag = "tasks",
    params(
        ("id" = TaskId, Path, description = "The task."),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version you saw."),
    ),
    responses((status = 204, description = "It is gone."))
)]
pub async fn delete(ctx: As<Member>, Path(id): Path<TaskId>, IfMatch(seen): IfMatch) -> Result<StatusCode> {
    service::delete(&ctx, id, seen).await?;
    Ok(StatusCode::NO_CONTENT)
}
