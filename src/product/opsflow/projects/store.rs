//! Projects in SQL.

use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::super::activity::model::Entry;
use super::super::activity::store::recorded;
use super::super::list::{self, After};
use super::super::words::ProjectId;
use super::model::{NewProject, Project, ProjectQuery};
use crate::kernel::Result;

macro_rules! columns {
    () => {
        "id, name, description, status, version, created_by, created_at, updated_at"
    };
}

/// A new project, unless `limit` live ones exist: the counter's row is locked from here to the commit, so two callers
/// cannot both take the last place.
pub async fn project_insert(
    conn: &mut PgConnection,
    entry: &Entry,
    id: ProjectId,
    new: &NewProject,
    limit: u32,
) -> sqlx::Result<Option<Project>> {
    const SQL: &str = concat!(
        "WITH room AS (UPDATE counters SET value = value + 1 WHERE name = 'projects' AND value < $10 RETURNING value), \
         changed AS (INSERT INTO projects (id, name, description, status, created_by, created_at, updated_at) \
         SELECT $7, $8, $9, 'active', $3, $2, $2 FROM room RETURNING ",
        columns!(),
        "), recorded AS (INSERT INTO activity (id, at, actor_id, actor_name, action, changes, project_id) \
         SELECT $1, $2, $3, $4, $5, $6, id FROM changed) SELECT ",
        columns!(),
        " FROM changed"
    );
    entry
        .bind(sqlx::query_as(SQL))
        .bind(id)
        .bind(&new.name)
        .bind(&new.description)
        .bind(i64::from(limit))
        .fetch_optional(conn)
        .await
}

/// Live projects, as the limit counts them.
pub async fn projects_in_use(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT value FROM counters WHERE name = 'projects'").fetch_one(conn).await
}

/// A live project.
pub async fn project_by_id(conn: &mut PgConnection, id: ProjectId) -> sqlx::Result<Option<Project>> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM projects WHERE id = $1 AND deleted_at IS NULL");
    sqlx::query_as(SQL).bind(id).fetch_optional(conn).await
}

/// A live project, locked until the transaction ends.
pub async fn project_locked(conn: &mut PgConnection, id: ProjectId) -> sqlx::Result<Option<Project>> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM projects WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE"
    );
    sqlx::query_as(SQL).bind(id).fetch_optional(conn).await
}

/// Writes a locked project's new state as its next version.
pub async fn project_update(
    conn: &mut PgConnection,
    entry: &Entry,
    project: &Project,
) -> sqlx::Result<Project> {
    const SQL: &str = recorded!(
        concat!(
            "UPDATE projects SET name = $8, description = $9, status = $10, version = version + 1, updated_at = $2 \
             WHERE id = $7 RETURNING ",
            columns!()
        ),
        project = "id",
        task = "NULL::uuid",
        comment = "NULL::uuid",
        returning columns!()
    );
    entry
        .bind(sqlx::query_as(SQL))
        .bind(project.id)
        .bind(&project.name)
        .bind(&project.description)
        .bind(project.status.as_str())
        .fetch_one(conn)
        .await
}

/// Marks a locked project as deleted and gives its place back; its tasks follow with [`tasks_delete_of_project`].
pub async fn project_delete(conn: &mut PgConnection, entry: &Entry, id: ProjectId) -> sqlx::Result<()> {
    const SQL: &str = recorded!(
        "UPDATE projects SET deleted_at = $2 WHERE id = $7 RETURNING id",
        project = "id",
        task = "NULL::uuid",
        comment = "NULL::uuid",
        returning "id"
    );
    entry.bind(sqlx::query_as::<_, (ProjectId,)>(SQL)).bind(id).fetch_one(&mut *conn).await?;
    sqlx::query("UPDATE counters SET value = value - 1 WHERE name = 'projects'").execute(conn).await?;
    Ok(())
}

/// Marks the tasks of a deleted project as deleted. A statement of its own, after the project's lock was taken: its
/// snapshot holds every task that was added before the lock, and the lock keeps out any after.
pub async fn tasks_delete_of_project(
    conn: &mut PgConnection,
    entry: &Entry,
    id: ProjectId,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE tasks SET deleted_at = $2 WHERE project_id = $1 AND deleted_at IS NULL")
        .bind(id)
        .bind(entry.at)
        .execute(conn)
        .await?;
    Ok(())
}

/// The list's statement, appended to `select` (empty, or an `EXPLAIN`).
pub fn push_projects_page(
    select: &mut QueryBuilder<Postgres>,
    query: &ProjectQuery,
    after: After<ProjectId>,
    limit: u32,
) -> Result<()> {
    select.push(concat!("SELECT ", columns!(), " FROM projects WHERE deleted_at IS NULL"));
    if let Some(status) = query.status {
        select.push(" AND status = ").push_bind(status.as_str());
    }
    list::push_page(select, query.sort.order(), after.map(|(key, id)| (key, id.0)), limit)
}
