//! Projects: what tasks belong to.

use http::StatusCode;

use super::answer::{Versioned, versioned};
use super::words::ProjectId;
use crate::data_plane::As;
use crate::data_plane::context::{Manager, Viewer};
use crate::data_plane::idempotency::Answer;
use crate::http::vocabulary::{IfMatch, Json, Path, Problem, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

pub mod model;
pub mod service;
pub mod store;

pub use model::{NewProject, Project, ProjectPatch, ProjectQuery, ProjectSort};

/// Create a project
#[utoipa::path(
    post,
    path = "/api/v1/projects",
    operation_id = "create_project",
    tag = "projects",
    request_body = NewProject,
    responses(
        (status = 201, description = "The project.", body = Project, headers(("ETag" = String, description = "Its version, for `If-Match`."), ("Location" = String, description = "Its address."))),
        (status = 402, description = "The plan's limit of projects is reached.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub async fn create(ctx: As<Manager>, Json(new): Json<NewProject>) -> Result<Answer> {
    service::create(&ctx, new).await
}

/// List projects
#[utoipa::path(
    get,
    path = "/api/v1/projects",
    operation_id = "list_projects",
    tag = "projects",
    params(ProjectQuery),
    responses((status = 200, description = "A page of projects.", body = Page<Project>))
)]
pub async fn list(ctx: As<Viewer>, Query(query): Query<ProjectQuery>) -> Result<Json<Page<Project>>> {
    let page = service::list(&ctx, query).await?;
    Ok(Json(page))
}

/// Read a project
#[utoipa::path(
    get,
    path = "/api/v1/projects/{id}",
    operation_id = "get_project",
    tag = "projects",
    params(("id" = ProjectId, Path, description = "The project.")),
    responses((status = 200, description = "The project.", body = Project, headers(("ETag" = String, description = "Its version, for `If-Match`."))))
)]
pub async fn get(ctx: As<Viewer>, Path(id): Path<ProjectId>) -> Result<Versioned<Project>> {
    let project = service::get(&ctx, id).await?;
    Ok(versioned(project.version, project))
}

/// Change a project
///
/// Only the fields given change. With `If-Match` or `version`, only if nobody changed it meanwhile.
#[utoipa::path(
    patch,
    path = "/api/v1/projects/{id}",
    operation_id = "update_project",
    tag = "projects",
    params(
        ("id" = ProjectId, Path, description = "The project."),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version you changed."),
    ),
    request_body = ProjectPatch,
    responses((status = 200, description = "The project as it is now.", body = Project, headers(("ETag" = String, description = "Its version, for `If-Match`."))))
)]
pub async fn update(
    ctx: As<Manager>,
    Path(id): Path<ProjectId>,
    IfMatch(seen): IfMatch,
    Json(patch): Json<ProjectPatch>,
) -> Result<Versioned<Project>> {
    let project = service::update(&ctx, id, seen, patch).await?;
    Ok(versioned(project.version, project))
}

/// Delete a project and its tasks
#[utoipa::path(
    delete,
    path = "/api/v1/projects/{id}",
    operation_id = "delete_project",
    tag = "projects",
    params(
        ("id" = ProjectId, Path, description = "The project."),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version you saw."),
    ),
    responses((status = 204, description = "It is gone."))
)]
pub async fn delete(
    ctx: As<Manager>,
    Path(id): Path<ProjectId>,
    IfMatch(seen): IfMatch,
) -> Result<StatusCode> {
    service::delete(&ctx, id, seen).await?;
    Ok(StatusCode::NO_CONTENT)
}
