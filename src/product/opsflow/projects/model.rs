//! A project, and what clients send about one.

use chrono::{DateTime, Utc};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::activity::model::{Changes, change, set, set_prose};
use super::super::fields::{self, DESCRIPTION_MAX, line, prose};
use super::super::list::{Key, Kind, Order};
use super::super::words::{ProjectId, ProjectStatus};
use crate::kernel::rfc3339;

/// What tasks belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
pub struct Project {
    pub id: ProjectId,
    pub name: String,
    pub description: String,
    pub status: ProjectStatus,
    /// Raised by every change; also the `ETag`.
    pub version: i64,
    /// The creator's id.
    pub created_by: String,
    #[serde(serialize_with = "rfc3339::required")]
    pub created_at: DateTime<Utc>,
    #[serde(serialize_with = "rfc3339::required")]
    pub updated_at: DateTime<Utc>,
}

/// A project to make.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    /// 1 to 120 characters on one line.
    #[garde(custom(line(120)))]
    #[schema(min_length = 1, max_length = 120, example = "Website relaunch")]
    pub name: String,
    /// Up to 20,000 characters.
    #[serde(default)]
    #[garde(custom(prose(DESCRIPTION_MAX)))]
    #[schema(max_length = 20_000)]
    pub description: String,
}

impl NewProject {
    pub fn changes(&self) -> Changes {
        Changes::from([("name".to_owned(), change((), &self.name))])
    }
}

/// Changes to a project: only the fields given change.
#[derive(Clone, Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectPatch {
    #[serde(default, deserialize_with = "fields::given")]
    #[garde(inner(custom(line(120))))]
    #[schema(nullable = false, min_length = 1, max_length = 120)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "fields::given")]
    #[garde(inner(custom(prose(DESCRIPTION_MAX))))]
    #[schema(nullable = false, max_length = 20_000)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "fields::given")]
    #[garde(skip)]
    #[schema(nullable = false)]
    pub status: Option<ProjectStatus>,
    /// The version you changed; the same as `If-Match`.
    #[serde(default, deserialize_with = "fields::given")]
    #[garde(skip)]
    #[schema(nullable = false)]
    pub version: Option<i64>,
}

impl ProjectPatch {
    /// Whether it changes nothing by its form. A version alone is no change.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.description.is_none() && self.status.is_none()
    }

    /// Changes the project and says what changed.
    pub fn apply(self, project: &mut Project) -> Changes {
        let mut changes = Changes::new();
        set(&mut changes, "name", &mut project.name, self.name);
        set_prose(&mut changes, "description", &mut project.description, self.description);
        set(&mut changes, "status", &mut project.status, self.status);
        changes
    }
}

/// Filters and order of the project list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProjectQuery {
    pub status: Option<ProjectStatus>,
    #[serde(default)]
    #[param(inline)]
    pub sort: ProjectSort,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Rows in a page, 1 to 100; 20 when not given.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
}

/// Orders of the project list; `-` is the other way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ProjectSort {
    #[serde(rename = "created_at")]
    Created,
    #[default]
    #[serde(rename = "-created_at")]
    CreatedDesc,
    #[serde(rename = "updated_at")]
    Updated,
    #[serde(rename = "-updated_at")]
    UpdatedDesc,
    #[serde(rename = "name")]
    Name,
    #[serde(rename = "-name")]
    NameDesc,
}

impl ProjectSort {
    pub const ALL: [Self; 6] =
        [Self::Created, Self::CreatedDesc, Self::Updated, Self::UpdatedDesc, Self::Name, Self::NameDesc];

    pub const fn order(self) -> Order {
        match self {
            Self::Created => Order::asc("created_at", Kind::Time),
            Self::CreatedDesc => Order::desc("created_at", Kind::Time),
            Self::Updated => Order::asc("updated_at", Kind::Time),
            Self::UpdatedDesc => Order::desc("updated_at", Kind::Time),
            Self::Name => Order::asc("name", Kind::Name),
            Self::NameDesc => Order::desc("name", Kind::Name),
        }
    }

    /// The row's value of the ordering expression.
    pub fn key(self, project: &Project) -> Key {
        match self {
            Self::Created | Self::CreatedDesc => project.created_at.into(),
            Self::Updated | Self::UpdatedDesc => project.updated_at.into(),
            Self::Name | Self::NameDesc => Key::Text(project.name.clone()),
        }
    }
}
