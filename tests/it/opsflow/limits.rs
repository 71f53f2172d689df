//! The plan's limit of projects.

use freehold::kernel::Role;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::json;

use super::fixture::Workspace;

/// Fails when the counter's condition is taken out of `project_insert`: all twelve get in.
#[tokio::test]
async fn the_limit_holds_when_many_create_at_once() {
    let workspace = Workspace::with_projects(3).await;
    let ada = workspace.caller("key_ada", Role::Admin);
    let answers =
        join_all((0..12).map(|n| ada.post("/api/v1/projects", json!({"name": format!("p{n}")})))).await;
    let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!(made, 3);
    for refused in answers.iter().filter(|answer| answer.status != StatusCode::CREATED) {
        refused.problem(StatusCode::PAYMENT_REQUIRED, "payment_required");
        assert_eq!(refused.body["detail"], "the plan allows 3 projects, and all are in use");
    }
    let projects = ada.get("/api/v1/projects").await.ids();
    assert_eq!(projects.len(), 3);
    assert_eq!(ada.get("/api/v1/activity").await.items().len(), 3, "a refusal leaves no trace");

    // A deleted project gives its place back, once, however many delete it.
    let path = format!("/api/v1/projects/{}", projects[0]);
    let deletions = join_all((0..4).map(|_| ada.send(Method::DELETE, &path, None))).await;
    assert_eq!(deletions.iter().filter(|answer| answer.status == StatusCode::NO_CONTENT).count(), 1);
    ada.post("/api/v1/projects", json!({"name": "again"})).await.expect(StatusCode::CREATED);
    ada.post("/api/v1/projects", json!({"name": "one too many"}))
        .await
        .problem(StatusCode::PAYMENT_REQUIRED, "payment_required");
}
