//! A task, and what clients send about one.

use chrono::{DateTime, Utc};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::activity::model::{Changes, change, set, set_prose};
use super::super::fields::{self, DESCRIPTION_MAX, calendar, line, prose};
use super::super::words::{Priority, ProjectId, TaskId, TaskStatus};
use crate::kernel::rfc3339;

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
pub struct Task {
    pub id: TaskId,
    pub project_id: ProjectId,
    pub title: String,
    pub description: String,
    pub status: TaskStatus,
    pub priority: Priority,
    /// Who does it: an id or a name.
    #[schema(required)]
    pub assignee: Option<String>,
    #[schema(required)]
    #[serde(serialize_with = "rfc3339::optional")]
    pub due_at: Option<DateTime<Utc>>,
    /// Raised by every change; also the `ETag`.
    pub version: i64,
    /// The creator's id.
    pub created_by: String,
    #[serde(serialize_with = "rfc3339::required")]
    pub created_at: DateTime<Utc>,
    #[serde(serialize_with = "rfc3339::required")]
    pub updated_at: DateTime<Utc>,
}

/// A task to make.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    #[garde(skip)]
    pub project_id: ProjectId,
    /// 1 to 200 characters on one line.
    #[garde(custom(line(200)))]
    #[schema(min_length = 1, max_length = 200, example = "Write the release notes")]
    pub title: String,
    /// Up to 20,000 characters.
    #[serde(default)]
    #[garde(custom(prose(DESCRIPTION_MAX)))]
    #[schema(max_length = 20_000)]
    pub description: String,
    #[serde(default = "todo")]
    #[garde(skip)]
    pub status: TaskStatus,
    #[serde(default = "normal")]
    #[garde(skip)]
    pub priority: Priority,
    #[garde(inner(custom(line(120))))]
    #[schema(min_length = 1, max_length = 120)]
    pub assignee: Option<String>,
    #[garde(inner(custom(calendar)))]
    pub due_at: Option<DateTime<Utc>>,
}

const fn todo() -> TaskStatus {
    TaskStatus::Todo
}

const fn normal() -> Priority {
    Priority::Normal
}

impl NewTask {
    pub fn changes(&self) -> Changes {
        Changes::from([
            ("title".to_owned(), change((), &self.title)),
            ("status".to_owned(), change((), self.status)),
            ("priority".to_owned(), change((), self.priority)),
        ])
    }
}

/// Changes to a task: only the fields given change.
#[derive(Clone, Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskPatch {
    #[serde(default, deserialize_with = "fields::given")]
    #[garde(inner(custom(line(200))))]
    #[schema(nullable = false, min_length = 1, max_length = 200)]
    pub title: Option<String>,
    #[serde(default, deserialize_with = "fields::given")]
    #[garde(inner(custom(prose(DESCRIPTION_MAX))))]
    #[schema(nullable = false, max_length = 20_000)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "fields::given")]
    #[garde(skip)]
    #[schema(nullable = false)]
    pub status: Option<TaskStatus>,
    #[serde(default, deserialize_with = "fields::given")]
    #[garde(skip)]
    #[schema(nullable = false)]
    pub priority: Option<Priority>,
    /// `null` leaves it to nobody.
    #[serde(default, deserialize_with = "fields::given_or_null")]
    #[garde(inner(inner(custom(line(120)))))]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 120)]
    pub assignee: Option<Option<String>>,
    /// `null` takes the date away.
    #[serde(default, deserialize_with = "fields::given_or_null")]
    #[garde(inner(inner(custom(calendar))))]
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub due_at: Option<Option<DateTime<Utc>>>,
    /// The version you changed; the same as `If-Match`.
    #[serde(default, deserialize_with = "fields::given")]
    #[garde(skip)]
    #[schema(nullable = false)]
    pub version: Option<i64>,
}

impl TaskPatch {
    /// Whether it changes nothing by its form. A version alone is no change.
    pub fn is_empty(&self) -> bool {
        self.title.is_none()
            && self.description.is_none()
            && self.status.is_none()
            && self.priority.is_none()
            && self.assignee.is_none()
            && self.due_at.is_none()
    }

    /// Changes the task and says what changed.
    pub fn apply(self, task: &mut Task) -> Changes {
        let mut changes = Changes::new();
        set(&mut changes, "title", &mut task.title, self.title);
        set_prose(&mut changes, "description", &mut task.description, self.description);
        set(&mut changes, "status", &mut task.status, self.status);
        set(&mut changes, "priority", &mut task.priority, self.priority);
        set(&mut changes, "assignee", &mut task.assignee, self.assignee);
        let due_at = self.due_at.map(|due_at| due_at.map(fields::stored));
        set(&mut changes, "due_at", &mut task.due_at, due_at);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        let at = DateTime::UNIX_EPOCH;
        Task {
            id: TaskId::new(),
            project_id: ProjectId::new(),
            title: "a".into(),
            description: String::new(),
            status: TaskStatus::Todo,
            priority: Priority::Normal,
            assignee: Some("Ada".into()),
            due_at: Some(at),
            version: 1,
            created_by: "key_1".into(),
            created_at: at,
            updated_at: at,
        }
    }

    fn patch(text: &str) -> TaskPatch {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let mut changed = task();
        let before = changed.clone();
        let changes = patch(r#"{"status":"done","assignee":null,"title":"a"}"#).apply(&mut changed);
        assert_eq!(changes.keys().collect::<Vec<_>>(), ["assignee", "status"]);
        assert_eq!(changed, Task { status: TaskStatus::Done, assignee: None, ..before });
    }

    #[test]
    fn a_version_alone_is_no_change() {
        assert!(patch("{}").is_empty());
        assert!(patch(r#"{"version":3}"#).is_empty());
        assert!(!patch(r#"{"due_at":null}"#).is_empty());
    }

    #[test]
    fn fields_that_cannot_be_null_refuse_it() {
        for field in ["title", "description", "status", "priority", "version"] {
            assert!(serde_json::from_str::<TaskPatch>(&format!(r#"{{"{field}":null}}"#)).is_err(), "{field}");
        }
    }

    #[test]
    fn bad_fields_are_all_named() {
        let bad =
            patch(r#"{"title":" ","description":"a\u0000","assignee":"","due_at":"+12025-01-01T00:00:00Z"}"#);
        let report = bad.validate().unwrap_err().to_string();
        for field in ["title", "description", "assignee", "due_at"] {
            assert!(report.contains(field), "{field} in {report}");
        }
    }
}
