//! The sample data.

use freehold::kernel::{Role, codes};
use freehold::product::{Current, Product};
use http::StatusCode;

use super::fixture::Workspace;

#[tokio::test]
async fn the_samples_load_once_and_name_their_tenant() {
    let workspace = Workspace::new().await;
    let owner = workspace.caller("key_demo", Role::Owner);
    let (first, second) = tokio::join!(Current::demo(owner.context()), Current::demo(owner.context()));
    first.unwrap();
    second.unwrap();
    Current::demo(owner.context()).await.unwrap();

    let projects = owner.get("/api/v1/projects?sort=name").await.items();
    assert_eq!(projects.len(), 3);
    let name = projects[0]["name"].as_str().unwrap();
    assert_eq!(name, format!("{} customer onboarding", workspace.title()));
    let tasks = owner.get("/api/v1/tasks?limit=100").await.items();
    assert_eq!(tasks.len(), 12);
    let mut words: Vec<_> = tasks.iter().map(|task| task["status"].as_str().unwrap()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words, ["blocked", "cancelled", "done", "in_progress", "todo"]);
    let activity = owner.get("/api/v1/activity?limit=100").await;
    activity.expect(StatusCode::OK);
    let comments = activity.items().iter().filter(|row| row["action"] == "comment.created").count();
    assert_eq!(activity.items().len(), 3 + 12 + comments);
    assert!(comments >= 6);
}

#[tokio::test]
async fn samples_that_do_not_fit_the_plan_leave_nothing_behind() {
    let workspace = Workspace::with_projects(2).await;
    let owner = workspace.caller("key_demo", Role::Owner);
    let refused = Current::demo(owner.context()).await.unwrap_err();
    assert!(refused.is(&codes::PAYMENT_REQUIRED), "{refused:?}");
    for list in ["projects", "tasks", "activity"] {
        assert!(owner.get(&format!("/api/v1/{list}")).await.items().is_empty(), "{list}");
    }
}
