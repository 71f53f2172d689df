//! A comment, and what clients send about one.

use chrono::{DateTime, Utc};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::fields::some_prose;
use super::super::list::{Kind, Order};
use super::super::words::{CommentId, TaskId};
use crate::kernel::rfc3339;

/// What someone said about a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
pub struct Comment {
    pub id: CommentId,
    pub task_id: TaskId,
    pub body: String,
    /// The author's id.
    pub author_id: String,
    /// The name the author had then.
    pub author_name: String,
    /// Raised by every edit; also the `ETag`.
    pub version: i64,
    #[serde(serialize_with = "rfc3339::required")]
    pub created_at: DateTime<Utc>,
    /// `null` as long as nobody edited it.
    #[schema(required)]
    #[serde(serialize_with = "rfc3339::optional")]
    pub edited_at: Option<DateTime<Utc>>,
}

/// What a comment says.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommentText {
    /// 1 to 10,000 characters.
    #[garde(custom(some_prose(10_000)))]
    #[schema(min_length = 1, max_length = 10_000)]
    pub body: String,
}

/// Which page of a task's comments.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CommentQuery {
    #[serde(default)]
    #[param(inline)]
    pub sort: CommentSort,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Rows in a page, 1 to 100; 20 when not given.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
}

/// Orders of a task's comments; `-` is the other way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum CommentSort {
    #[default]
    #[serde(rename = "created_at")]
    Created,
    #[serde(rename = "-created_at")]
    CreatedDesc,
}

impl CommentSort {
    pub const fn order(self) -> Order {
        match self {
            Self::Created => Order::asc("created_at", Kind::Time),
            Self::CreatedDesc => Order::desc("created_at", Kind::Time),
        }
    }
}
