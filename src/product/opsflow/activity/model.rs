//! One line of the activity, and what may be asked of the list.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use utoipa::{IntoParams, ToSchema};

use super::super::fields;
use super::super::list::{Kind, Order};
use super::super::words::{ActivityId, CommentId, ProjectId, TaskId};
use crate::data_plane::TenantContext;
use crate::kernel::rfc3339;

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
pub struct Activity {
    pub id: ActivityId,
    #[serde(serialize_with = "rfc3339::required")]
    pub at: DateTime<Utc>,
    #[sqlx(flatten)]
    pub actor: Person,
    /// Noun and verb: `task.created`, `project.updated`, `comment.deleted`.
    pub action: String,
    pub project_id: ProjectId,
    #[schema(required)]
    pub task_id: Option<TaskId>,
    #[schema(required)]
    pub comment_id: Option<CommentId>,
    /// By field. Long texts are named without their values.
    #[schema(value_type = BTreeMap<String, Change>)]
    pub changes: Json<Changes>,
}

/// Who did it, by the name they had then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
pub struct Person {
    #[sqlx(rename = "actor_id")]
    pub id: String,
    #[sqlx(rename = "actor_name")]
    pub name: String,
}

/// What a change did to each field it touched.
pub type Changes = BTreeMap<String, Change>;

/// A field before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    #[schema(value_type = Value)]
    pub from: Value,
    #[schema(value_type = Value)]
    pub to: Value,
}

/// The change from `from` to `to`.
pub fn change(from: impl Serialize, to: impl Serialize) -> Change {
    // Words, texts, ids and times always serialise.
    Change {
        from: serde_json::to_value(from).unwrap_or_default(),
        to: serde_json::to_value(to).unwrap_or_default(),
    }
}

/// Sets a field to what a patch gives, and notes it if that is something new.
pub fn set<T: PartialEq + Serialize>(changes: &mut Changes, field: &str, slot: &mut T, given: Option<T>) {
    if let Some(new) = given
        && *slot != new
    {
        changes.insert(field.to_owned(), change(&*slot, &new));
        *slot = new;
    }
}

/// [`set`] for a long text: that it changed is noted, the text is not.
pub fn set_prose(changes: &mut Changes, field: &str, slot: &mut String, given: Option<String>) {
    if let Some(new) = given
        && *slot != new
    {
        changes.insert(field.to_owned(), change((), ()));
        *slot = new;
    }
}

/// An activity about to be written: who, when and what; the statement it is part of knows of which row.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: ActivityId,
    pub at: DateTime<Utc>,
    pub actor_id: String,
    pub actor_name: String,
    pub action: &'static str,
    pub changes: Changes,
}

impl Entry {
    /// The context's actor, now.
    pub fn new(ctx: &TenantContext, action: &'static str, changes: Changes) -> Self {
        Self {
            id: ActivityId::new(),
            at: ctx.clock.now(),
            actor_id: ctx.actor.id.clone(),
            actor_name: ctx.actor.name.clone(),
            action,
            changes,
        }
    }
}

/// Filters of the activity list. All that are given must hold.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ActivityQuery {
    /// A project, task or comment: what happened to it and within it.
    #[param(value_type = Option<String>, example = "tsk_06fqv3k1s9t4m7b2n8c5v0r6e4")]
    pub subject: Option<Subject>,
    /// Within this project.
    pub project: Option<ProjectId>,
    /// Within this task.
    pub task: Option<TaskId>,
    /// By this actor's id.
    #[serde(default, deserialize_with = "fields::term")]
    #[param(value_type = Option<String>)]
    pub actor: Option<String>,
    /// Later than this moment.
    #[serde(default, deserialize_with = "fields::moment")]
    #[param(value_type = Option<DateTime<Utc>>)]
    pub after: Option<DateTime<Utc>>,
    #[serde(default)]
    #[param(inline)]
    pub sort: ActivitySort,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Rows in a page, 1 to 100; 20 when not given.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
}

/// An id of any kind that activity speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Project(ProjectId),
    Task(TaskId),
    Comment(CommentId),
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        let id = text.parse().map(Self::Project);
        let id = id.or_else(|_| text.parse().map(Self::Task));
        id.or_else(|_| text.parse().map(Self::Comment))
            .map_err(|_| serde::de::Error::custom("must be the id of a project, a task or a comment"))
    }
}

/// Orders of the activity list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ActivitySort {
    #[serde(rename = "at")]
    Oldest,
    #[default]
    #[serde(rename = "-at")]
    Newest,
}

impl ActivitySort {
    pub const fn order(self) -> Order {
        match self {
            Self::Oldest => Order::asc("at", Kind::Time),
            Self::Newest => Order::desc("at", Kind::Time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_changes_are_noted() {
        let (mut changes, mut title, mut text) = (Changes::new(), "a".to_owned(), "b".to_owned());
        set(&mut changes, "title", &mut title, None);
        set(&mut changes, "title", &mut title, Some("a".into()));
        set_prose(&mut changes, "description", &mut text, Some("b".into()));
        assert!(changes.is_empty());
        set(&mut changes, "title", &mut title, Some("c".into()));
        set_prose(&mut changes, "description", &mut text, Some("secret".into()));
        assert_eq!(
            serde_json::to_string(&changes).unwrap(),
            r#"{"description":{"from":null,"to":null},"title":{"from":"a","to":"c"}}"#
        );
        assert_eq!((title.as_str(), text.as_str()), ("c", "secret"));
    }

    #[test]
    fn a_subject_is_told_by_its_prefix() {
        let (project, task) = (ProjectId::new(), TaskId::new());
        let read = |text: String| serde_json::from_value::<Subject>(Value::String(text));
        assert_eq!(read(project.to_string()).unwrap(), Subject::Project(project));
        assert_eq!(read(task.to_string()).unwrap(), Subject::Task(task));
        assert!(read("ten_06fqv3k1s9t4m7b2n8c5v0r6e4".into()).is_err());
    }
}
