//! Creating, changing, deleting: versions, what vanishes with what, and the activity that tells of it.

use std::time::Duration;

use freehold::kernel::Role;
use freehold::testkit::eventually;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fixture::{Caller, Workspace};

#[tokio::test]
async fn a_project_its_task_and_a_comment_from_birth_to_death() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Admin);

    let made = ada.post("/api/v1/projects", json!({"name": "Relaunch", "description": "two\nlines"})).await;
    made.expect(StatusCode::CREATED);
    assert_eq!(made.header("etag"), "\"1\"");
    let project = made.id();
    assert_eq!(made.header("location"), format!("/api/v1/projects/{project}"));
    assert!(project.starts_with("prj_"), "{project}");
    assert_eq!(made.body["status"], "active");
    assert_eq!(made.body["created_by"], "key_ada");
    let created_at = made.body["created_at"].as_str().unwrap();
    assert!(created_at.ends_with('Z') && created_at.contains('T'), "{created_at}");

    let due = "2031-05-06T07:08:09.123456Z";
    let task = ada
        .post(
            "/api/v1/tasks",
            json!({"project_id": project, "title": "Écrire", "priority": "high", "assignee": "Ada", "due_at": due}),
        )
        .await;
    task.expect(StatusCode::CREATED);
    let task_path = format!("/api/v1/tasks/{}", task.id());
    assert_eq!(task.header("location"), task_path);
    assert_eq!((&task.body["due_at"], &task.body["status"]), (&json!(due), &json!("todo")));
    assert_eq!(ada.get(&task_path).await.body, task.body);

    let comment = ada.post(&format!("{task_path}/comments"), json!({"body": "well"})).await;
    comment.expect(StatusCode::CREATED);
    let comment_path = format!("/api/v1/comments/{}", comment.id());
    assert_eq!(comment.header("location"), comment_path);
    let edited = ada.patch(&comment_path, json!({"body": "well then"})).await;
    edited.expect(StatusCode::OK);
    assert!(edited.body["edited_at"].is_string());
    assert_eq!(ada.get(&format!("{task_path}/comments")).await.items(), [edited.body]);

    ada.send(Method::DELETE, &task_path, None).await.expect(StatusCode::NO_CONTENT);
    for gone in [
        ada.get(&task_path).await,
        ada.patch(&task_path, json!({"title": "x"})).await,
        ada.send(Method::DELETE, &task_path, None).await,
        ada.get(&format!("{task_path}/comments")).await,
        ada.post(&format!("{task_path}/comments"), json!({"body": "late"})).await,
        ada.get(&comment_path).await,
        ada.patch(&comment_path, json!({"body": "late"})).await,
        ada.send(Method::DELETE, &comment_path, None).await,
    ] {
        gone.problem(StatusCode::NOT_FOUND, "not_found");
        assert_eq!(gone.body, unknown(&ada).await, "the same answer as for what never was");
    }

    let actions: Vec<Value> =
        ada.get("/api/v1/activity?sort=at").await.items().iter().map(|row| row["action"].clone()).collect();
    assert_eq!(
        actions,
        ["project.created", "task.created", "comment.created", "comment.updated", "task.deleted"]
    );
}

async fn unknown(caller: &Caller) -> Value {
    caller.get("/api/v1/tasks/tsk_0000000000000000000000000g").await.body
}

#[tokio::test]
async fn tasks_go_with_their_project() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Admin);
    let (kept, doomed) = (ada.project("kept").await, ada.project("doomed").await);
    let (stays, goes) = (ada.task(&kept, "stays").await, ada.task(&doomed, "goes").await);

    ada.send(Method::DELETE, &format!("/api/v1/projects/{doomed}"), None)
        .await
        .expect(StatusCode::NO_CONTENT);

    ada.get(&format!("/api/v1/projects/{doomed}")).await.problem(StatusCode::NOT_FOUND, "not_found");
    ada.get(&format!("/api/v1/tasks/{goes}")).await.problem(StatusCode::NOT_FOUND, "not_found");
    assert_eq!(ada.get("/api/v1/tasks").await.ids(), [stays]);
    assert_eq!(ada.get("/api/v1/projects").await.ids(), [kept]);
    assert!(ada.get(&format!("/api/v1/tasks?project={doomed}")).await.items().is_empty());
    ada.post("/api/v1/tasks", json!({"project_id": doomed, "title": "late"}))
        .await
        .problem(StatusCode::NOT_FOUND, "not_found");
    let told = ada.get(&format!("/api/v1/activity?project={doomed}")).await.items();
    assert_eq!(told[0]["action"], "project.deleted");
}

/// A task that is added while its project is being deleted is either refused or deleted with it. Fails when
/// `task_insert` takes no share lock.
#[tokio::test]
async fn no_task_outlives_its_project() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Admin);
    for _ in 0..10 {
        let project = ada.project("doomed").await;
        let adding = join_all((0..4).map(|n| {
            let new = json!({"project_id": project, "title": format!("task {n}")});
            ada.post("/api/v1/tasks", new)
        }));
        let path = format!("/api/v1/projects/{project}");
        let (added, deleted) = tokio::join!(adding, ada.send(Method::DELETE, &path, None));
        deleted.expect(StatusCode::NO_CONTENT);
        assert!(added.iter().all(|answer| [201, 404].contains(&answer.status.as_u16())));
        assert!(ada.get("/api/v1/tasks").await.items().is_empty());
    }
}

#[tokio::test]
async fn an_archived_project_takes_no_new_tasks() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Admin);
    let project = ada.project("old").await;
    let path = format!("/api/v1/projects/{project}");
    ada.patch(&path, json!({"status": "archived"})).await.expect(StatusCode::OK);
    let new = json!({"project_id": project, "title": "late"});
    ada.post("/api/v1/tasks", new.clone()).await.problem(StatusCode::CONFLICT, "state_conflict");
    ada.patch(&path, json!({"status": "active"})).await.expect(StatusCode::OK);
    ada.post("/api/v1/tasks", new).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_patch_changes_only_what_it_names() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Admin);
    let project = ada.project("p").await;
    let new =
        json!({"project_id": project, "title": "t", "assignee": "Ada", "due_at": "2030-01-01T00:00:00Z"});
    let before = ada.post("/api/v1/tasks", new).await;
    let path = format!("/api/v1/tasks/{}", before.id());

    let after = ada.patch(&path, json!({"assignee": null, "status": "in_progress"})).await;
    after.expect(StatusCode::OK);
    let mut expected = before.body.clone();
    expected["assignee"] = Value::Null;
    expected["status"] = json!("in_progress");
    expected["version"] = json!(2);
    expected["updated_at"] = after.body["updated_at"].clone();
    assert_eq!(after.body, expected);
    assert_eq!(after.header("etag"), "\"2\"");

    let told = ada.get("/api/v1/activity?limit=1").await.items();
    assert_eq!(told[0]["action"], "task.updated");
    assert_eq!(told[0]["actor"]["id"], "key_ada");
    assert_eq!(
        told[0]["changes"],
        json!({"assignee": {"from": "Ada", "to": null}, "status": {"from": "todo", "to": "in_progress"}})
    );

    // Saying what already is, is no change: no version, no activity.
    let same = ada.patch(&path, json!({"status": "in_progress"})).await;
    assert_eq!(same.body, after.body);
    assert_eq!(ada.get("/api/v1/activity?limit=1").await.items(), told);
}

#[tokio::test]
async fn a_change_on_sight_of_an_older_version_is_refused() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Admin);
    let project = ada.project("p").await;
    let task = ada.task(&project, "t").await;
    let comment = ada.post(&format!("/api/v1/tasks/{task}/comments"), json!({"body": "c"})).await;
    let path = format!("/api/v1/comments/{}", comment.id());
    assert_eq!(comment.header("etag"), "\"1\"");
    let edited = ada.send_if_match(Method::PATCH, &path, "\"1\"", Some(json!({"body": "d"}))).await;
    assert_eq!((edited.status, edited.header("etag").as_str()), (StatusCode::OK, "\"2\""));
    for (method, body) in [(Method::PATCH, Some(json!({"body": "e"}))), (Method::DELETE, None)] {
        let late = ada.send_if_match(method, &path, "\"1\"", body).await;
        late.problem(StatusCode::CONFLICT, "version_conflict");
    }
    for path in [format!("/api/v1/projects/{project}"), format!("/api/v1/tasks/{task}")] {
        let seen = ada.get(&path).await.header("etag");
        let patch = |text: &str| Some(json!({"description": text}));
        ada.send_if_match(Method::PATCH, &path, &seen, patch("one")).await.expect(StatusCode::OK);
        let late = ada.send_if_match(Method::PATCH, &path, &seen, patch("two")).await;
        late.problem(StatusCode::CONFLICT, "version_conflict");
        ada.patch(&path, json!({"description": "two", "version": 1}))
            .await
            .problem(StatusCode::CONFLICT, "version_conflict");
        let deleted = ada.send_if_match(Method::DELETE, &path, &seen, None).await;
        deleted.problem(StatusCode::CONFLICT, "version_conflict");
        assert_eq!(ada.get(&path).await.body["description"], "one");
        ada.patch(&path, json!({"description": "three", "version": 2})).await.expect(StatusCode::OK);
        ada.send_if_match(Method::PATCH, &path, "*", patch("four")).await.expect(StatusCode::OK);
    }
    let told = ada.get("/api/v1/activity").await.items();
    assert_eq!(told.len(), 2 + 2 + 6, "a refused change leaves no trace");
}

/// All eight stand at the row before the first may change it. Fails when `task_locked` does not lock: all win.
#[tokio::test]
async fn of_many_who_saw_the_same_version_one_wins() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Admin);
    let project = ada.project("p").await;
    let path = format!("/api/v1/tasks/{}", ada.task(&project, "t").await);
    let (mut gate, mut watch) = (workspace.owner_connection().await, workspace.owner_connection().await);
    sqlx::raw_sql("BEGIN; SELECT 1 FROM tasks FOR UPDATE").execute(&mut gate).await.unwrap();
    let tries = join_all((0..8).map(|n| {
        let patch = Some(json!({"title": format!("by {n}")}));
        ada.send_if_match(Method::PATCH, &path, "\"1\"", patch)
    }));
    let opening = async {
        eventually(Duration::from_secs(20), "all stand at the row", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut watch).await.unwrap();
            if waiting == 8 { Ok(()) } else { Err(format!("{waiting} wait")) }
        })
        .await;
        sqlx::raw_sql("COMMIT").execute(&mut gate).await.unwrap();
    };
    let (answers, ()) = tokio::join!(tries, opening);
    let won = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let lost = answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT).count();
    assert_eq!((won, lost), (1, 7));
    assert_eq!(ada.get(&path).await.body["version"], 2);
}

/// Through the whole server: key, host, idempotency, document.
#[tokio::test]
async fn a_repeated_post_makes_one_task() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Admin);
    let project = ada.project("p").await;
    let send = async |body: Value| {
        let request = workspace.request(Method::POST, "/api/v1/tasks").header("idempotency-key", "order 17");
        workspace.send(request.body(body.to_string().into()).unwrap()).await
    };
    let new = json!({"project_id": project, "title": "once"});
    let (one, two) = tokio::join!(send(new.clone()), send(new.clone()));
    let three = send(new).await;
    for answer in [&two, &three] {
        answer.expect(StatusCode::CREATED);
        assert_eq!(answer.body, one.body);
        for header in ["location", "etag"] {
            assert_eq!(answer.header(header), one.header(header));
        }
    }
    assert_eq!(three.header("idempotency-replayed"), "true");
    assert_eq!(ada.get("/api/v1/tasks").await.ids(), [one.id()]);
    let other = send(json!({"project_id": project, "title": "twice"})).await;
    other.problem(StatusCode::CONFLICT, "idempotency_conflict");
    // A refused attempt keeps nothing: the same key works once the request does.
    let request = || workspace.request(Method::POST, "/api/v1/tasks").header("idempotency-key", "order 18");
    let bad = json!({"project_id": project, "title": ""}).to_string();
    workspace.send(request().body(bad.into()).unwrap()).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
    let good = json!({"project_id": project, "title": "two"}).to_string();
    workspace.send(request().body(good.into()).unwrap()).await.expect(StatusCode::CREATED);
    let told = ada.get("/api/v1/activity").await.items();
    assert_eq!(told.len(), 3);
    assert_eq!(told[0]["actor"]["name"], "Test");
}
