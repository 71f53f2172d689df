//! What may be done with tasks, each in one transaction.

use sqlx::{PgConnection, QueryBuilder};

use super::super::activity::model::{Changes, Entry};
use super::super::answer::{expect_version, missing, nothing_to_change};
use super::super::list;
use super::super::projects::store::project_by_id;
use super::super::words::{ProjectId, TaskId};
use super::model::{NewTask, Task, TaskPatch};
use super::query::{TaskQuery, push_tasks_page};
use super::store;
use crate::data_plane::idempotency::Answer;
use crate::data_plane::{Aggregation, Meter, TenantContext};
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result, Role, codes};

/// Every task that is made counts, also when it is deleted again.
pub const CREATED: Meter =
    Meter { id: "tasks_created", name: "Tasks created", unit: "task", aggregation: Aggregation::Sum };

/// # Errors
/// `not_found` when there is no such project; `state_conflict` when it is archived.
pub async fn create(ctx: &TenantContext, new: NewTask) -> Result<Answer> {
    let (id, entry) = (TaskId::new(), Entry::new(ctx, "task.created", new.changes()));
    let used = ctx.usage().fact(&CREATED, 1, &id.to_string())?;
    ctx.write_once(async move |conn| match store::task_insert(conn, &entry, id, &new, Some(&used)).await? {
        Some(task) => Answer::created(format!("/api/v1/tasks/{}", task.id), task.version, &task),
        None => Err(why_no_task(conn, new.project_id).await?),
    })
    .await
}

async fn why_no_task(conn: &mut PgConnection, project: ProjectId) -> Result<Error> {
    Ok(match project_by_id(conn, project).await? {
        Some(_) => Error::new(&codes::STATE_CONFLICT).detail("an archived project takes no new tasks"),
        None => missing(),
    })
}

pub async fn list(ctx: &TenantContext, query: TaskQuery) -> Result<Page<Task>> {
    let (sort, limit) = (query.sort, page::limit(query.limit)?);
    let after = list::after(query.cursor.as_deref(), sort)?;
    let rows = ctx
        .read(async move |conn| {
            let mut select = QueryBuilder::new("");
            push_tasks_page(&mut select, &query, after, limit)?;
            Ok(select.build_query_as().fetch_all(&mut *conn).await?)
        })
        .await?;
    Ok(Page::build(rows, limit, |row: &Task| (sort, sort.key(row), row.id)))
}

/// # Errors
/// `not_found`.
pub async fn get(ctx: &TenantContext, id: TaskId) -> Result<Task> {
    ctx.read(async move |conn| store::task_by_id(conn, id).await?.ok_or_else(missing)).await
}

/// # Errors
/// `not_found`; `version_conflict`; `invalid_fields` for a patch without fields.
pub async fn update(ctx: &TenantContext, id: TaskId, seen: Option<i64>, patch: TaskPatch) -> Result<Task> {
    if patch.is_empty() {
        return Err(nothing_to_change());
    }
    let mut entry = Entry::new(ctx, "task.updated", Changes::new());
    ctx.write(async move |conn| {
        let mut task = store::task_locked(conn, id).await?.ok_or_else(missing)?;
        expect_version(task.version, [seen, patch.version])?;
        entry.changes = patch.apply(&mut task);
        if entry.changes.is_empty() {
            return Ok(task);
        }
        Ok(store::task_update(conn, &entry, &task).await?)
    })
    .await
}

/// # Errors
/// `not_found`; `version_conflict`; `forbidden` when a member deletes what someone else created.
pub async fn delete(ctx: &TenantContext, id: TaskId, seen: Option<i64>) -> Result<()> {
    let entry = Entry::new(ctx, "task.deleted", Changes::new());
    let any = ctx.actor.role >= Role::Manager;
    ctx.write(async move |conn| {
        let task = store::task_locked(conn, id).await?.ok_or_else(missing)?;
        if !any && task.created_by != entry.actor_id {
            return Err(Error::new(&codes::FORBIDDEN)
                .detail("members delete the tasks they created; this needs the role admin or higher"));
        }
        expect_version(task.version, [seen, None])?;
        Ok(store::task_delete(conn, &entry, id).await?)
    })
    .await
}
