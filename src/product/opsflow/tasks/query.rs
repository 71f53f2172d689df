//! What may be asked of the task list, and the statement that answers it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, QueryBuilder};
use utoipa::{IntoParams, ToSchema};

use super::super::fields;
use super::super::list::{self, After, Key, Kind, Order};
use super::super::words::{Priority, ProjectId, TaskId, TaskStatus};
use super::model::Task;
use super::store::columns;
use crate::kernel::Result;

/// Filters and order of the task list. All filters given must hold.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskQuery {
    pub project: Option<ProjectId>,
    /// Any of these, separated by commas.
    #[serde(default, deserialize_with = "fields::any_of")]
    #[param(value_type = Option<Vec<TaskStatus>>, style = Form, explode = false)]
    pub status: Option<Vec<TaskStatus>>,
    /// Any of these, separated by commas.
    #[serde(default, deserialize_with = "fields::any_of")]
    #[param(value_type = Option<Vec<Priority>>, style = Form, explode = false)]
    pub priority: Option<Vec<Priority>>,
    /// Exactly this assignee; empty for tasks without one.
    #[serde(default, deserialize_with = "fields::term")]
    #[param(value_type = Option<String>, max_length = 200)]
    pub assignee: Option<String>,
    /// Due before this moment.
    #[serde(default, deserialize_with = "fields::moment")]
    #[param(value_type = Option<DateTime<Utc>>)]
    pub due_before: Option<DateTime<Utc>>,
    /// Due after this moment.
    #[serde(default, deserialize_with = "fields::moment")]
    #[param(value_type = Option<DateTime<Utc>>)]
    pub due_after: Option<DateTime<Utc>>,
    /// Created after this moment.
    #[serde(default, deserialize_with = "fields::moment")]
    #[param(value_type = Option<DateTime<Utc>>)]
    pub created_after: Option<DateTime<Utc>>,
    /// Words in title or description, as in a web search: `deploy -draft "release notes"`.
    #[serde(default, deserialize_with = "fields::term")]
    #[param(value_type = Option<String>, max_length = 200)]
    pub q: Option<String>,
    #[serde(default)]
    #[param(inline)]
    pub sort: TaskSort,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Rows in a page, 1 to 100; 20 when not given.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
}

/// Orders of the task list; `-` is the other way round. A task without a due date counts as due after all others; the
/// lowest priority is `low`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum TaskSort {
    #[serde(rename = "created_at")]
    Created,
    #[default]
    #[serde(rename = "-created_at")]
    CreatedDesc,
    #[serde(rename = "updated_at")]
    Updated,
    #[serde(rename = "-updated_at")]
    UpdatedDesc,
    #[serde(rename = "due_at")]
    Due,
    #[serde(rename = "-due_at")]
    DueDesc,
    #[serde(rename = "priority")]
    Priority,
    #[serde(rename = "-priority")]
    PriorityDesc,
}

/// A due date that can be compared, spelled as in the index `tasks_due`.
const DUE: &str = "coalesce(due_at, 'infinity'::timestamptz)";

impl TaskSort {
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::CreatedDesc,
        Self::Updated,
        Self::UpdatedDesc,
        Self::Due,
        Self::DueDesc,
        Self::Priority,
        Self::PriorityDesc,
    ];

    pub const fn order(self) -> Order {
        match self {
            Self::Created => Order::asc("created_at", Kind::Time),
            Self::CreatedDesc => Order::desc("created_at", Kind::Time),
            Self::Updated => Order::asc("updated_at", Kind::Time),
            Self::UpdatedDesc => Order::desc("updated_at", Kind::Time),
            Self::Due => Order::asc(DUE, Kind::Time),
            Self::DueDesc => Order::desc(DUE, Kind::Time),
            Self::Priority => Order::asc("priority_rank", Kind::Rank),
            Self::PriorityDesc => Order::desc("priority_rank", Kind::Rank),
        }
    }

    /// The row's value of the ordering expression.
    pub fn key(self, task: &Task) -> Key {
        match self {
            Self::Created | Self::CreatedDesc => task.created_at.into(),
            Self::Updated | Self::UpdatedDesc => task.updated_at.into(),
            Self::Due | Self::DueDesc => task.due_at.into(),
            Self::Priority | Self::PriorityDesc => Key::Number(task.priority.rank().into()),
        }
    }
}

/// The list's statement, appended to `select` (empty, or an `EXPLAIN`).
///
/// # Errors
/// `bad_cursor` when the key is not one of this order.
pub fn push_tasks_page(
    select: &mut QueryBuilder<Postgres>,
    query: &TaskQuery,
    after: After<TaskId>,
    limit: u32,
) -> Result<()> {
    select.push(concat!("SELECT ", columns!(), " FROM tasks WHERE deleted_at IS NULL"));
    if let Some(project) = query.project {
        select.push(" AND project_id = ").push_bind(project);
    }
    if let Some(any) = &query.status {
        let words: Vec<&str> = any.iter().map(|status| status.as_str()).collect();
        select.push(" AND status = ANY(").push_bind(words).push(")");
    }
    if let Some(any) = &query.priority {
        let ranks: Vec<i16> = any.iter().map(|priority| priority.rank()).collect();
        select.push(" AND priority_rank = ANY(").push_bind(ranks).push(")");
    }
    match query.assignee.as_deref() {
        None => {}
        Some("") => drop(select.push(" AND assignee IS NULL")),
        Some(assignee) => drop(select.push(" AND assignee = ").push_bind(assignee)),
    }
    if let Some(moment) = query.due_before {
        select.push(format_args!(" AND {DUE} < ")).push_bind(moment);
    }
    if let Some(moment) = query.due_after {
        select.push(format_args!(" AND {DUE} < 'infinity' AND {DUE} > ")).push_bind(moment);
    }
    if let Some(moment) = query.created_after {
        select.push(" AND created_at > ").push_bind(moment);
    }
    if let Some(words) = &query.q {
        select.push(" AND search @@ websearch_to_tsquery('english', ").push_bind(searchable(words)).push(")");
    }
    list::push_page(select, query.sort.order(), after.map(|(key, id)| (key, id.0)), limit)
}

/// Words as PostgreSQL's web search can take them. It stacks up every minus that has nothing to exclude, and fails at 32
/// of them; without those minuses the search means the same.
fn searchable(words: &str) -> String {
    let mut next = words.chars().skip(1);
    words
        .chars()
        .map(|c| {
            let excludes = next.next().is_some_and(|next| next == '"' || next.is_alphanumeric());
            if c == '-' && !excludes { ' ' } else { c }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_minus_that_excludes_something_is_searched_with() {
        for (words, want) in [
            ("deploy -draft -\"release notes\"", "deploy -draft -\"release notes\""),
            ("by-law -é", "by-law -é"),
            ("--- a - b -(c", "    a   b  (c"),
            ("-", " "),
            ("", ""),
        ] {
            assert_eq!(searchable(words), want);
        }
    }
}
