//! What may be done with comments, each in one transaction.

use sqlx::QueryBuilder;

use super::super::activity::model::{Changes, Entry, change};
use super::super::answer::{expect_version, missing};
use super::super::list::{self, Key};
use super::super::tasks::store::task_by_id;
use super::super::words::{CommentId, TaskId};
use super::model::{Comment, CommentQuery, CommentText};
use super::store;
use crate::data_plane::TenantContext;
use crate::data_plane::idempotency::Answer;
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result, Role, codes};

/// # Errors
/// `not_found` when there is no such task.
pub async fn create(ctx: &TenantContext, task: TaskId, text: CommentText) -> Result<Answer> {
    let entry = Entry::new(ctx, "comment.created", Changes::new());
    ctx.write_once(async move |conn| {
        let comment = store::comment_insert(conn, &entry, CommentId::new(), task, &text.body).await?;
        let comment = comment.ok_or_else(missing)?;
        Answer::created(format!("/api/v1/comments/{}", comment.id), comment.version, &comment)
    })
    .await
}

/// # Errors
/// `not_found` when there is no such task.
pub async fn list(ctx: &TenantContext, task: TaskId, query: CommentQuery) -> Result<Page<Comment>> {
    let (sort, limit) = (query.sort, page::limit(query.limit)?);
    let after = list::after(query.cursor.as_deref(), sort)?;
    let rows = ctx
        .read(async move |conn| {
            task_by_id(conn, task).await?.ok_or_else(missing)?;
            let mut select = QueryBuilder::new("");
            store::push_comments_page(&mut select, task, &query, after, limit)?;
            Ok(select.build_query_as().fetch_all(&mut *conn).await?)
        })
        .await?;
    Ok(Page::build(rows, limit, |row: &Comment| (sort, Key::from(row.created_at), row.id)))
}

/// # Errors
/// `not_found`.
pub async fn get(ctx: &TenantContext, id: CommentId) -> Result<Comment> {
    ctx.read(async move |conn| store::comment_by_id(conn, id).await?.ok_or_else(missing)).await
}

/// # Errors
/// `not_found`; `version_conflict`; `forbidden` for someone else's comment, whatever the role: nobody speaks in another's name.
pub async fn update(
    ctx: &TenantContext,
    id: CommentId,
    seen: Option<i64>,
    text: CommentText,
) -> Result<Comment> {
    let changes = Changes::from([("body".to_owned(), change((), ()))]);
    let entry = Entry::new(ctx, "comment.updated", changes);
    ctx.write(async move |conn| {
        let comment = store::comment_locked(conn, id).await?.ok_or_else(missing)?;
        if comment.author_id != entry.actor_id {
            return Err(Error::new(&codes::FORBIDDEN).detail("only the author edits a comment"));
        }
        expect_version(comment.version, [seen, None])?;
        if comment.body == text.body {
            return Ok(comment);
        }
        Ok(store::comment_update(conn, &entry, id, &text.body).await?)
    })
    .await
}

/// # Errors
/// `not_found`; `version_conflict`; `forbidden` when a member deletes someone else's.
pub async fn delete(ctx: &TenantContext, id: CommentId, seen: Option<i64>) -> Result<()> {
    let entry = Entry::new(ctx, "comment.deleted", Changes::new());
    let any = ctx.actor.role >= Role::Manager;
    ctx.write(async move |conn| {
        let comment = store::comment_locked(conn, id).await?.ok_or_else(missing)?;
        if !any && comment.author_id != entry.actor_id {
            return Err(Error::new(&codes::FORBIDDEN)
                .detail("members delete their own comments; this needs the role admin or higher"));
        }
        expect_version(comment.version, [seen, None])?;
        Ok(store::comment_delete(conn, &entry, id).await?)
    })
    .await
}
