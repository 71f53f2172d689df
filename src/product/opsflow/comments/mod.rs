//! Comments: what people say about a task.

use http::StatusCode;

use super::answer::{Versioned, versioned};
use super::words::{CommentId, TaskId};
use crate::data_plane::As;
use crate::data_plane::context::{Member, Viewer};
use crate::data_plane::idempotency::Answer;
use crate::http::vocabulary::{IfMatch, Json, Path, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

pub mod model;
pub mod service;
pub mod store;

pub use model::{Comment, CommentQuery, CommentText};

/// Comment on a task
#[utoipa::path(
    post,
    path = "/api/v1/tasks/{id}/comments",
    operation_id = "create_comment",
    tag = "comments",
    params(("id" = TaskId, Path, description = "The task.")),
    request_body = CommentText,
    responses((status = 201, description = "The comment.", body = Comment, headers(("ETag" = String, description = "Its version, for `If-Match`."), ("Location" = String, description = "Its address."))))
)]
pub async fn create(
    ctx: As<Member>,
    Path(task): Path<TaskId>,
    Json(text): Json<CommentText>,
) -> Result<Answer> {
    service::create(&ctx, task, text).await
}

/// List a task's comments, oldest first
#[utoipa::path(
    get,
    path = "/api/v1/tasks/{id}/comments",
    operation_id = "list_comments",
    tag = "comments",
    params(("id" = TaskId, Path, description = "The task."), CommentQuery),
    responses((status = 200, description = "A page of comments.", body = Page<Comment>))
)]
pub async fn list(
    ctx: As<Viewer>,
    Path(task): Path<TaskId>,
    Query(query): Query<CommentQuery>,
) -> Result<Json<Page<Comment>>> {
    let page = service::list(&ctx, task, query).await?;
    Ok(Json(page))
}

/// Read a comment
#[utoipa::path(
    get,
    path = "/api/v1/comments/{id}",
    operation_id = "get_comment",
    tag = "comments",
    params(("id" = CommentId, Path, description = "The comment.")),
    responses((status = 200, description = "The comment.", body = Comment,
        headers(("ETag" = String, description = "Its version, for `If-Match`."))))
)]
pub async fn get(ctx: As<Viewer>, Path(id): Path<CommentId>) -> Result<Versioned<Comment>> {
    let comment = service::get(&ctx, id).await?;
    Ok(versioned(comment.version, comment))
}

/// Edit one's own comment
///
/// With `If-Match`, only if it was not edited meanwhile.
#[utoipa::path(
    patch,
    path = "/api/v1/comments/{id}",
    operation_id = "update_comment",
    tag = "comments",
    params(
        ("id" = CommentId, Path, description = "The comment."),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version you changed."),
    ),
    request_body = CommentText,
    responses((status = 200, description = "The comment as it is now.", body = Comment,
        headers(("ETag" = String, description = "Its version, for `If-Match`."))))
)]
pub async fn update(
    ctx: As<Member>,
    Path(id): Path<CommentId>,
    IfMatch(seen): IfMatch,
    Json(text): Json<CommentText>,
) -> Result<Versioned<Comment>> {
    let comment = service::update(&ctx, id, seen, text).await?;
    Ok(versioned(comment.version, comment))
}

/// Delete a comment
///
/// Members delete their own, admins any.
#[utoipa::path(
    delete,
    path = "/api/v1/comments/{id}",
    operation_id = "delete_comment",
    tag = "comments",
    params(
        ("id" = CommentId, Path, description = "The comment."),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version you saw."),
    ),
    responses((status = 204, description = "It is gone."))
)]
pub async fn delete(
    ctx: As<Member>,
    Path(id): Path<CommentId>,
    IfMatch(seen): IfMatch,
) -> Result<StatusCode> {
    service::delete(&ctx, id, seen).await?;
    Ok(StatusCode::NO_CONTENT)
}
