//! The activity in SQL: appended by the statement that makes the change, listed here.

use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{Postgres, QueryBuilder};

use super::super::list::{self, After};
use super::super::words::ActivityId;
use super::model::{Activity, ActivityQuery, Entry, Subject};
use crate::data_plane::TenantContext;
use crate::kernel::Result;
use crate::kernel::page::{self, Page};

/// Wraps a changing statement so that one round trip makes the change, records it and returns the row. Parameters 1 to
/// 6 are the entry's (see [`Entry::bind`]): `$2` is the time and `$3` the actor, for the statement to use too. The ids
/// are expressions over the columns that the statement returns. `used` names the parameters that hold a [`Fact`]'s key and
/// payload: the use is written with the change.
///
/// [`Fact`]: crate::data_plane::usage::Fact
macro_rules! recorded {
    ($statement:expr, project = $project:expr, task = $task:expr, comment = $comment:expr,
     $(used $key:literal $payload:literal,)? returning $columns:expr) => {
        concat!(
            "WITH changed AS (",
            $statement,
            "), recorded AS (INSERT INTO activity \
             (id, at, actor_id, actor_name, action, changes, project_id, task_id, comment_id) \
             SELECT $1, $2, $3, $4, $5, $6, ",
            $project,
            ", ",
            $task,
            ", ",
            $comment,
            " FROM changed)",
            $(
                ", used AS (INSERT INTO freehold.outbox (kind, key, payload) SELECT 'usage', ",
                $key,
                ", ",
                $payload,
                "::jsonb FROM changed)",
            )?
            " SELECT ",
            $columns,
            " FROM changed"
        )
    };
}
pub(crate) use recorded;

impl Entry {
    /// Binds parameters 1 to 6 of a `recorded!` statement.
    pub fn bind<'q, T>(
        &self,
        query: QueryAs<'q, Postgres, T, PgArguments>,
    ) -> QueryAs<'q, Postgres, T, PgArguments>
    where
        T: Send + Unpin,
    {
        query
            .bind(self.id)
            .bind(self.at)
            .bind(self.actor_id.clone())
            .bind(self.actor_name.clone())
            .bind(self.action)
            .bind(sqlx::types::Json(self.changes.clone()))
    }
}

/// A page of what happened.
pub async fn activity_page(ctx: &TenantContext, query: ActivityQuery) -> Result<Page<Activity>> {
    let (sort, limit) = (query.sort, page::limit(query.limit)?);
    let after = list::after(query.cursor.as_deref(), sort)?;
    let rows = ctx
        .read(async move |conn| {
            let mut select = QueryBuilder::new("");
            push_activity_page(&mut select, &query, after, limit)?;
            Ok(select.build_query_as().fetch_all(&mut *conn).await?)
        })
        .await?;
    Ok(Page::build(rows, limit, |row: &Activity| (sort, list::Key::from(row.at), row.id)))
}

/// The list's statement, appended to `select` (empty, or an `EXPLAIN`).
pub fn push_activity_page(
    select: &mut QueryBuilder<Postgres>,
    query: &ActivityQuery,
    after: After<ActivityId>,
    limit: u32,
) -> Result<()> {
    select.push(
        "SELECT id, at, actor_id, actor_name, action, project_id, task_id, comment_id, changes \
         FROM activity WHERE true",
    );
    match query.subject {
        Some(Subject::Project(id)) => drop(select.push(" AND project_id = ").push_bind(id)),
        Some(Subject::Task(id)) => drop(select.push(" AND task_id = ").push_bind(id)),
        Some(Subject::Comment(id)) => drop(select.push(" AND comment_id = ").push_bind(id)),
        None => {}
    }
    if let Some(id) = query.project {
        select.push(" AND project_id = ").push_bind(id);
    }
    if let Some(id) = query.task {
        select.push(" AND task_id = ").push_bind(id);
    }
    if let Some(actor) = &query.actor {
        select.push(" AND actor_id = ").push_bind(actor.clone());
    }
    if let Some(moment) = query.after {
        select.push(" AND at > ").push_bind(moment);
    }
    list::push_page(select, query.sort.order(), after.map(|(key, id)| (key, id.0)), limit)
}
