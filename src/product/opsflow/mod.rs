//! OpsFlow: a team's projects, their tasks, the comments on them, and what happened when.
//!
//! | module | holds |
//! |---|---|
//! | `projects`, `tasks`, `comments`, `activity` | one noun each: `model` (what clients see and send, pure), `store` (SQL), `service` (rules, one transaction per call), handlers |
//! | `words`, `fields` | ids and closed vocabularies; what texts and times are accepted |
//! | `list` | sort, cursor, keyset pages |
//! | `answer` | the shapes of answers |
//! | `pages` | projects and tasks in a browser |
//! | `demo` | sample data |
//! | `forget` | takes a person's name out of comments and activity |
//! | `trim` | the daily job that removes what is past its time |
//!
//! Who may do what: everyone reads. Members create and change tasks and comments, delete the tasks they created and
//! edit or delete their own comments. Managers create, change and delete projects and delete anyone's work.
//!
//! To add a noun: a migration, a folder with these four files, and its handlers in [`OpsFlow::routes`].

use axum::Router;
use serde_json::Value;
use sqlx::migrate::Migrator;
use utoipa_axum::router::OpenApiRouter;

use super::Product;
use crate::data_plane::{Meter, RegularJob, TenantContext};
use crate::kernel::{Error, Result};
use crate::operations;

pub mod activity;
pub mod answer;
pub mod comments;
pub mod demo;
pub mod fields;
pub mod forget;
pub mod list;
mod pages;
pub mod projects;
pub mod tasks;
pub mod trim;
pub mod words;

static MIGRATIONS: Migrator = sqlx::migrate!("./tenant-migrations");

/// The tenant application that ships with the platform.
pub struct OpsFlow;

impl Product for OpsFlow {
    const NAME: &'static str = "OpsFlow";
    const TAGLINE: &'static str = "Your team's projects and tasks, in one calm place";
    const PAGES: &'static [(&'static str, &'static str)] = &[("/projects", "Projects")];
    const REGULAR_JOBS: &'static [RegularJob] = &[trim::DAILY];
    const METERS: &'static [Meter] = &[tasks::service::CREATED];

    fn migrations() -> &'static Migrator {
        &MIGRATIONS
    }

    fn routes() -> OpenApiRouter {
        operations!(
            OpenApiRouter::new(),
            projects::create,
            projects::list,
            projects::get,
            projects::update,
            projects::delete,
            tasks::create,
            tasks::list,
            tasks::get,
            tasks::update,
            tasks::delete,
            comments::create,
            comments::list,
            comments::get,
            comments::update,
            comments::delete,
            activity::list,
        )
    }

    fn pages() -> Router {
        pages::routes()
    }

    async fn demo(tenant: &TenantContext) -> Result<()> {
        demo::load(tenant).await
    }

    async fn forget_person(tenant: &TenantContext, person: &str) -> Result<()> {
        forget::forget(tenant, person).await
    }

    async fn job(tenant: &TenantContext, kind: &str, payload: &Value) -> Result<()> {
        match kind {
            trim::KIND => trim::trim(tenant, payload).await,
            other => Err(Error::internal(format!("OpsFlow knows no job of kind {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Role;

    #[test]
    fn every_operation_says_its_role_and_its_problems() {
        let document = serde_json::to_value(OpsFlow::routes().into_openapi()).unwrap();
        let mut seen = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            assert!(path.starts_with("/api/v1/"), "{path}");
            for (method, operation) in item.as_object().unwrap() {
                let role = operation["x-min-role"].as_str().unwrap_or_else(|| panic!("{method} {path}"));
                let expected = match (method.as_str(), path.contains("/projects")) {
                    ("get", _) => Role::Viewer,
                    (_, true) => Role::Manager,
                    _ => Role::Member,
                };
                assert_eq!(role, expected.as_str(), "{method} {path}");
                for needed in ["operationId", "summary", "tags"] {
                    assert!(!operation[needed].is_null(), "{needed} of {method} {path}");
                }
                let problem = &operation["responses"]["401"]["content"]["application/problem+json"];
                assert_eq!(problem["schema"]["$ref"], "#/components/schemas/Problem", "{method} {path}");
                seen += 1;
            }
        }
        assert_eq!(seen, 16);
        assert!(document["components"]["schemas"]["FieldError"].is_object());
    }

    #[test]
    fn the_document_is_whole_and_speaks_our_words() {
        let document = serde_json::to_value(OpsFlow::routes().into_openapi()).unwrap();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} is not in the document");
        }
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["Priority"]["enum"], serde_json::json!(["low", "normal", "high", "urgent"]));
        assert_eq!(schemas["NewTask"]["additionalProperties"], false);
        assert!(
            text.contains(r#"["created_at","-created_at","updated_at","-updated_at","due_at","-due_at","#)
        );
    }

    #[test]
    fn migrations_are_plain_and_in_order() {
        let versions: Vec<i64> = OpsFlow::migrations().iter().map(|migration| migration.version).collect();
        assert_eq!(versions[..2], [1, 2]);
        assert!(versions.is_sorted());
        assert!(
            OpsFlow::migrations().iter().all(|migration| !migration.sql.as_str().contains("CONCURRENTLY"))
        );
    }
}
