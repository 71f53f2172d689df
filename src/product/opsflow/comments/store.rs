//! Comments in SQL. A comment whose task is deleted does not exist for anyone.

use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::super::activity::model::Entry;
use super::super::activity::store::recorded;
use super::super::list::{self, After};
use super::super::words::{CommentId, TaskId};
use super::model::{Comment, CommentQuery};
use crate::kernel::Result;

macro_rules! columns {
    () => {
        "id, task_id, body, author_id, author_name, version, created_at, edited_at"
    };
}

macro_rules! live {
    () => {
        " FROM comments WHERE id = $1 AND deleted_at IS NULL \
         AND EXISTS (SELECT 1 FROM tasks WHERE tasks.id = comments.task_id AND tasks.deleted_at IS NULL)"
    };
}

/// The project of a changed comment, for its activity.
macro_rules! project {
    () => {
        "(SELECT tasks.project_id FROM tasks WHERE tasks.id = changed.task_id)"
    };
}

/// A new comment, if its task is live.
pub async fn comment_insert(
    conn: &mut PgConnection,
    entry: &Entry,
    id: CommentId,
    task: TaskId,
    body: &str,
) -> sqlx::Result<Option<Comment>> {
    const SQL: &str = recorded!(
        concat!(
            "INSERT INTO comments (id, task_id, body, author_id, author_name, created_at) \
             SELECT $7, tasks.id, $9, $3, $4, $2 FROM tasks WHERE tasks.id = $8 AND tasks.deleted_at IS NULL RETURNING ",
            columns!()
        ),
        project = project!(),
        task = "task_id",
        comment = "id",
        returning columns!()
    );
    entry.bind(sqlx::query_as(SQL)).bind(id).bind(task).bind(body).fetch_optional(conn).await
}

/// A live comment.
pub async fn comment_by_id(conn: &mut PgConnection, id: CommentId) -> sqlx::Result<Option<Comment>> {
    const SQL: &str = concat!("SELECT ", columns!(), live!());
    sqlx::query_as(SQL).bind(id).fetch_optional(conn).await
}

/// A live comment, locked until the transaction ends.
pub async fn comment_locked(conn: &mut PgConnection, id: CommentId) -> sqlx::Result<Option<Comment>> {
    const SQL: &str = concat!("SELECT ", columns!(), live!(), " FOR NO KEY UPDATE OF comments");
    sqlx::query_as(SQL).bind(id).fetch_optional(conn).await
}

/// Writes a locked comment's new text.
pub async fn comment_update(
    conn: &mut PgConnection,
    entry: &Entry,
    id: CommentId,
    body: &str,
) -> sqlx::Result<Comment> {
    const SQL: &str = recorded!(
        concat!("UPDATE comments SET body = $8, version = version + 1, edited_at = $2 WHERE id = $7 RETURNING ", columns!()),
        project = project!(),
        task = "task_id",
        comment = "id",
        returning columns!()
    );
    entry.bind(sqlx::query_as(SQL)).bind(id).bind(body).fetch_one(conn).await
}

/// Marks a locked comment as deleted.
pub async fn comment_delete(conn: &mut PgConnection, entry: &Entry, id: CommentId) -> sqlx::Result<()> {
    const SQL: &str = recorded!(
        "UPDATE comments SET deleted_at = $2 WHERE id = $7 RETURNING id, task_id",
        project = project!(),
        task = "task_id",
        comment = "id",
        returning "id"
    );
    entry.bind(sqlx::query_as::<_, (CommentId,)>(SQL)).bind(id).fetch_one(conn).await?;
    Ok(())
}

/// The list's statement, appended to `select` (empty, or an `EXPLAIN`).
pub fn push_comments_page(
    select: &mut QueryBuilder<Postgres>,
    task: TaskId,
    query: &CommentQuery,
    after: After<CommentId>,
    limit: u32,
) -> Result<()> {
    select.push(concat!("SELECT ", columns!(), " FROM comments WHERE deleted_at IS NULL AND task_id = "));
    select.push_bind(task);
    list::push_page(select, query.sort.order(), after.map(|(key, id)| (key, id.0)), limit)
}
