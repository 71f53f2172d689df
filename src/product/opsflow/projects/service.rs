//! What may be done with projects, each in one transaction.

use sqlx::QueryBuilder;

use super::super::activity::model::{Changes, Entry};
use super::super::answer::{expect_version, missing, nothing_to_change};
use super::super::list;
use super::super::words::ProjectId;
use super::model::{NewProject, Project, ProjectPatch, ProjectQuery};
use super::store;
use crate::data_plane::TenantContext;
use crate::data_plane::idempotency::Answer;
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, QuotaState, Result, codes};

/// # Errors
/// `payment_required` when the plan's projects are all in use.
pub async fn create(ctx: &TenantContext, new: NewProject) -> Result<Answer> {
    let entry = Entry::new(ctx, "project.created", new.changes());
    let limit = ctx.limits.projects;
    ctx.write_once(async move |conn| {
        let project = store::project_insert(conn, &entry, ProjectId::new(), &new, limit).await?;
        let Some(project) = project else {
            return Err(limit_reached(limit, store::projects_in_use(conn).await?));
        };
        Answer::created(format!("/api/v1/projects/{}", project.id), project.version, &project)
    })
    .await
}

/// The answer when a plan's projects are all in use.
pub fn limit_reached(limit: u32, used: i64) -> Error {
    Error::new(&codes::PAYMENT_REQUIRED)
        .detail(format!("the plan allows {limit} projects, and all are in use"))
        .hint("delete a project, or an owner can move to a larger plan, on the page /usage")
        .quota(QuotaState {
            name: "projects".to_owned(),
            limit: limit.into(),
            used: u64::try_from(used).unwrap_or(0),
            resets_at: None,
        })
}

pub async fn list(ctx: &TenantContext, query: ProjectQuery) -> Result<Page<Project>> {
    let (sort, limit) = (query.sort, page::limit(query.limit)?);
    let after = list::after(query.cursor.as_deref(), sort)?;
    let rows = ctx
        .read(async move |conn| {
            let mut select = QueryBuilder::new("");
            store::push_projects_page(&mut select, &query, after, limit)?;
            Ok(select.build_query_as().fetch_all(&mut *conn).await?)
        })
        .await?;
    Ok(Page::build(rows, limit, |row: &Project| (sort, sort.key(row), row.id)))
}

/// # Errors
/// `not_found`.
pub async fn get(ctx: &TenantContext, id: ProjectId) -> Result<Project> {
    ctx.read(async move |conn| store::project_by_id(conn, id).await?.ok_or_else(missing)).await
}

/// # Errors
/// `not_found`; `version_conflict`; `invalid_fields` for a patch without fields.
pub async fn update(
    ctx: &TenantContext,
    id: ProjectId,
    seen: Option<i64>,
    patch: ProjectPatch,
) -> Result<Project> {
    if patch.is_empty() {
        return Err(nothing_to_change());
    }
    let mut entry = Entry::new(ctx, "project.updated", Changes::new());
    ctx.write(async move |conn| {
        let mut project = store::project_locked(conn, id).await?.ok_or_else(missing)?;
        expect_version(project.version, [seen, patch.version])?;
        entry.changes = patch.apply(&mut project);
        if entry.changes.is_empty() {
            return Ok(project);
        }
        Ok(store::project_update(conn, &entry, &project).await?)
    })
    .await
}

/// # Errors
/// `not_found`; `version_conflict`.
pub async fn delete(ctx: &TenantContext, id: ProjectId, seen: Option<i64>) -> Result<()> {
    let entry = Entry::new(ctx, "project.deleted", Changes::new());
    ctx.write(async move |conn| {
        let project = store::project_locked(conn, id).await?.ok_or_else(missing)?;
        expect_version(project.version, [seen, None])?;
        store::project_delete(conn, &entry, id).await?;
        store::tasks_delete_of_project(conn, &entry, id).await?;
        Ok(())
    })
    .await
}
