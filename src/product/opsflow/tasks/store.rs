//! Tasks in SQL.

use sqlx::PgConnection;

use super::super::activity::model::Entry;
use super::super::activity::store::recorded;
use super::super::words::TaskId;
use super::model::{NewTask, Task};
use crate::data_plane::usage::Fact;

macro_rules! columns {
    () => {
        "id, project_id, title, description, status, priority, assignee, due_at, version, created_by, created_at, \
         updated_at"
    };
}
pub(super) use columns;

macro_rules! insert {
    () => {
        concat!(
            "INSERT INTO tasks (id, project_id, title, description, status, priority, assignee, due_at, \
             created_by, created_at, updated_at) \
             SELECT $7, project.id, $9, $10, $11, $12, $13, $14, $3, $2, $2 FROM (SELECT id FROM projects \
             WHERE id = $8 AND status = 'active' AND deleted_at IS NULL FOR SHARE) AS project RETURNING ",
            columns!()
        )
    };
}

/// A new task, if its project is live and active. The project's row is share-locked, so that a deletion of the project
/// either sees this task or comes first. `used` is written with it.
pub async fn task_insert(
    conn: &mut PgConnection,
    entry: &Entry,
    id: TaskId,
    new: &NewTask,
    used: Option<&Fact>,
) -> sqlx::Result<Option<Task>> {
    const INSERT: &str = recorded!(
        insert!(),
        project = "project_id",
        task = "id",
        comment = "NULL::uuid",
        returning columns!()
    );
    const METERED: &str = recorded!(
        insert!(),
        project = "project_id",
        task = "id",
        comment = "NULL::uuid",
        used "$15" "$16",
        returning columns!()
    );
    let insert = entry
        .bind(sqlx::query_as(if used.is_some() { METERED } else { INSERT }))
        .bind(id)
        .bind(new.project_id)
        .bind(&new.title)
        .bind(&new.description)
        .bind(new.status.as_str())
        .bind(new.priority.as_str())
        .bind(new.assignee.as_deref())
        .bind(new.due_at);
    match used {
        Some(fact) => insert.bind(&fact.key).bind(&fact.payload).fetch_optional(conn).await,
        None => insert.fetch_optional(conn).await,
    }
}

/// A live task.
pub async fn task_by_id(conn: &mut PgConnection, id: TaskId) -> sqlx::Result<Option<Task>> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM tasks WHERE id = $1 AND deleted_at IS NULL");
    sqlx::query_as(SQL).bind(id).fetch_optional(conn).await
}

/// A live task, locked until the transaction ends.
pub async fn task_locked(conn: &mut PgConnection, id: TaskId) -> sqlx::Result<Option<Task>> {
    const SQL: &str =
        concat!("SELECT ", columns!(), " FROM tasks WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE");
    sqlx::query_as(SQL).bind(id).fetch_optional(conn).await
}

/// Writes a locked task's new state as its next version.
pub async fn task_update(conn: &mut PgConnection, entry: &Entry, task: &Task) -> sqlx::Result<Task> {
    const SQL: &str = recorded!(
        concat!(
            "UPDATE tasks SET title = $8, description = $9, status = $10, priority = $11, assignee = $12, \
             due_at = $13, version = version + 1, updated_at = $2 WHERE id = $7 RETURNING ",
            columns!()
        ),
        project = "project_id",
        task = "id",
        comment = "NULL::uuid",
        returning columns!()
    );
    entry
        .bind(sqlx::query_as(SQL))
        .bind(task.id)
        .bind(&task.title)
        .bind(&task.description)
        .bind(task.status.as_str())
        .bind(task.priority.as_str())
        .bind(task.assignee.as_deref())
        .bind(task.due_at)
        .fetch_one(conn)
        .await
}

/// Marks a locked task as deleted; its comments are seen only through it.
pub async fn task_delete(conn: &mut PgConnection, entry: &Entry, id: TaskId) -> sqlx::Result<()> {
    const SQL: &str = recorded!(
        "UPDATE tasks SET deleted_at = $2 WHERE id = $7 RETURNING id, project_id",
        project = "project_id",
        task = "id",
        comment = "NULL::uuid",
        returning "id"
    );
    entry.bind(sqlx::query_as::<_, (TaskId,)>(SQL)).bind(id).fetch_one(conn).await?;
    Ok(())
}
