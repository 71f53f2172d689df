//! What clients get wrong: each a clear answer, never a 500, nothing lost.

use freehold::kernel::Role;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fixture::Workspace;

#[tokio::test]
async fn bad_bodies() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Owner);
    let project = ada.project("p").await;
    let task = format!("/api/v1/tasks/{}", ada.task(&project, "t").await);
    let comments = format!("{task}/comments");
    let new = |field: &str, value: Value| {
        let mut new = json!({"project_id": project, "title": "t"});
        new[field] = value;
        new
    };
    let fields = |path: &str, method: Method, body: Value, field: &str| {
        (method, path.to_owned(), body, field.to_owned())
    };
    let (post, patch) = (Method::POST, Method::PATCH);
    for (method, path, body, field) in [
        fields("/api/v1/projects", post.clone(), json!({"name": "x", "colour": "red"}), "colour"),
        fields("/api/v1/projects", post.clone(), json!({}), "name"),
        fields("/api/v1/projects", post.clone(), json!([]), ""),
        fields("/api/v1/projects", post.clone(), json!("name"), ""),
        fields("/api/v1/projects", post.clone(), json!({"name": 7}), "name"),
        fields("/api/v1/projects", post.clone(), json!({"name": ""}), "name"),
        fields("/api/v1/projects", post.clone(), json!({"name": " \u{a0} "}), "name"),
        fields("/api/v1/projects", post.clone(), json!({"name": "é".repeat(121)}), "name"),
        fields("/api/v1/projects", post.clone(), json!({"name": "a\u{0}b"}), "name"),
        fields("/api/v1/projects", post.clone(), json!({"name": "a\nb"}), "name"),
        fields(
            "/api/v1/projects",
            post.clone(),
            json!({"name": "a", "description": "a\u{0}b"}),
            "description",
        ),
        fields(
            "/api/v1/projects",
            post.clone(),
            json!({"name": "a", "description": "x".repeat(20_001)}),
            "description",
        ),
        fields("/api/v1/tasks", post.clone(), new("status", json!("finished")), "status"),
        fields("/api/v1/tasks", post.clone(), new("priority", json!(3)), "priority"),
        fields("/api/v1/tasks", post.clone(), new("title", json!("x".repeat(201))), "title"),
        fields("/api/v1/tasks", post.clone(), new("assignee", json!("")), "assignee"),
        fields("/api/v1/tasks", post.clone(), new("assignee", json!("a\u{0}")), "assignee"),
        fields("/api/v1/tasks", post.clone(), new("due_at", json!("tomorrow")), "due_at"),
        fields("/api/v1/tasks", post.clone(), new("due_at", json!("2030-02-30T00:00:00Z")), "due_at"),
        fields("/api/v1/tasks", post.clone(), new("due_at", json!("+200000-01-01T00:00:00Z")), "due_at"),
        fields("/api/v1/tasks", post.clone(), new("due_at", json!("-4800-01-01T00:00:00Z")), "due_at"),
        fields("/api/v1/tasks", post.clone(), new("project_id", json!("prj_1")), "project_id"),
        fields(
            "/api/v1/tasks",
            post.clone(),
            new("project_id", json!("ten_06fqv3k1s9t4m7b2n8c5x0r6e4")),
            "project_id",
        ),
        fields("/api/v1/tasks", post.clone(), new("version", json!(1)), "version"),
        fields(&task, patch.clone(), json!({}), "body"),
        fields(&task, patch.clone(), json!({"version": 1}), "body"),
        fields(&task, patch.clone(), json!({"title": null}), "title"),
        fields(&task, patch.clone(), json!({"version": "1", "title": "x"}), "version"),
        fields(&task, patch.clone(), json!({"project_id": project}), "project_id"),
        fields(&task, patch.clone(), json!({"assignee": "a\u{0}"}), "assignee"),
        fields(&task, patch.clone(), json!({"due_at": "+12025-01-01T00:00:00Z"}), "due_at"),
        fields(&comments, post.clone(), json!({"body": ""}), "body"),
        fields(&comments, post.clone(), json!({"body": "x".repeat(10_001)}), "body"),
        fields(&comments, post, json!({"body": "a\u{0}"}), "body"),
    ] {
        let answer = ada.send(method.clone(), &path, Some(body.clone())).await;
        let text = body.to_string();
        let shown = text.get(..120).unwrap_or(&text);
        assert_eq!(
            answer.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{method} {path} {shown}: {}",
            answer.body
        );
        answer.problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields");
        let told = answer.body["errors"].to_string();
        assert!(told.contains(&field), "{method} {path} {shown}: {told} does not name {field}");
    }
    // Everything wrong is told at once.
    let both = ada.post("/api/v1/projects", json!({"name": "", "description": "\u{0}"})).await;
    assert_eq!(both.body["errors"].as_array().unwrap().len(), 2, "{}", both.body);
    assert_eq!(ada.get("/api/v1/projects").await.items().len(), 1);
    assert_eq!(ada.get("/api/v1/tasks").await.items().len(), 1);

    // The longest of all that is allowed.
    let name = "é".repeat(120);
    let made = ada.post("/api/v1/projects", json!({"name": name, "description": "ü".repeat(20_000)})).await;
    made.expect(StatusCode::CREATED);
    assert_eq!(made.body["name"], name);
    let new =
        json!({"project_id": made.id(), "title": "ж".repeat(200), "description": "word ".repeat(4_000)});
    ada.post("/api/v1/tasks", new).await.expect(StatusCode::CREATED);
    ada.post(&comments, json!({"body": "🦀".repeat(10_000)})).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn bodies_that_are_not_json() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Owner);
    for (body, content_type, status, code) in [
        (&b"{"[..], "application/json", 400, "bad_json"),
        (b"", "application/json", 400, "bad_json"),
        (b"{\"name\": \"\xff\xfe\"}", "application/json", 400, "bad_json"),
        (b"{\"name\": \"\\ud800\"}", "application/json", 400, "bad_json"),
        (b"{\"name\": \"x\"}", "text/plain", 415, "unsupported_media_type"),
        (b"{\"name\": \"x\", \"name\": \"y\"}", "application/json", 422, "invalid_fields"),
    ] {
        let answer = ada.send_raw(Method::POST, "/api/v1/projects", content_type, body.to_vec()).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(answer.status.as_u16(), status, "{shown}: {}", answer.body);
        assert_eq!(answer.body["code"], code, "{shown}: {}", answer.body);
    }
    assert!(ada.get("/api/v1/projects").await.items().is_empty());
}

#[tokio::test]
async fn bad_queries() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Owner);
    let long = "x".repeat(201);
    let huge = "A".repeat(3_000);
    for (query, status, code) in [
        ("tasks?limit=0", 422, "invalid_fields"),
        ("tasks?limit=101", 422, "invalid_fields"),
        ("tasks?limit=-1", 422, "invalid_fields"),
        ("tasks?limit=ten", 422, "invalid_fields"),
        ("tasks?limit=99999999999999999999", 422, "invalid_fields"),
        ("tasks?colour=red", 422, "invalid_fields"),
        ("tasks?status=", 422, "invalid_fields"),
        ("tasks?status=todo,finished", 422, "invalid_fields"),
        ("tasks?status=todo&status=done", 422, "invalid_fields"),
        ("tasks?priority=5", 422, "invalid_fields"),
        ("tasks?sort=title", 422, "invalid_fields"),
        ("tasks?sort=created_at;drop", 422, "invalid_fields"),
        ("tasks?project=prj_1", 422, "invalid_fields"),
        ("tasks?due_before=tomorrow", 422, "invalid_fields"),
        ("tasks?due_after=%2B200000-01-01T00:00:00Z", 422, "invalid_fields"),
        ("tasks?q=a%00b", 422, "invalid_fields"),
        ("tasks?assignee=%00", 422, "invalid_fields"),
        (&format!("tasks?q={long}"), 422, "invalid_fields"),
        ("tasks?cursor=", 400, "bad_cursor"),
        ("tasks?cursor=%00", 400, "bad_cursor"),
        ("tasks?cursor=not-one", 400, "bad_cursor"),
        (&format!("tasks?cursor={huge}"), 400, "bad_cursor"),
        // ["-created_at",9223372036854775807,"tsk_…"] and ["-created_at",null,"tsk_…"]
        (&forged("-created_at", json!(i64::MAX)), 400, "bad_cursor"),
        (&forged("-created_at", json!("now()")), 400, "bad_cursor"),
        (&forged("-created_at", json!([1])), 400, "bad_cursor"),
        ("activity?subject=nothing", 422, "invalid_fields"),
        ("activity?actor=%00", 422, "invalid_fields"),
        ("activity?after=never", 422, "invalid_fields"),
        ("projects?status=live", 422, "invalid_fields"),
        ("projects?sort=due_at", 422, "invalid_fields"),
    ] {
        let answer = ada.get(&format!("/api/v1/{query}")).await;
        assert_eq!(answer.status.as_u16(), status, "{query}: {}", answer.body);
        assert_eq!(answer.body["code"], code, "{query}: {}", answer.body);
    }
    // Odd, but fine: operators of the text search are never an error.
    let (minuses, spread) = ("-".repeat(200), "-%20%7C".repeat(60));
    for q in [
        &*minuses,
        &spread,
        "%22",
        "-",
        "or",
        "%26%20%7C%20%21",
        "%27%3B--",
        "%FF",
        "%F0%9F%A6%80",
        "a%20or%20-%22b",
    ] {
        ada.get(&format!("/api/v1/tasks?q={q}")).await.expect(StatusCode::OK);
    }
}

fn forged(sort: &str, key: Value) -> String {
    let cursor = freehold::kernel::page::encode(&json!([sort, key, "tsk_06fqv3k1s9t4m7b2n8c5x0r6e4"]));
    format!("tasks?sort={sort}&cursor={cursor}")
}

#[tokio::test]
async fn ids_that_name_nothing() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Owner);
    let never = ada.get("/api/v1/tasks/tsk_0000000000000000000000000g").await;
    never.problem(StatusCode::NOT_FOUND, "not_found");
    let long = "x".repeat(5_000);
    for id in [
        "1",
        "tsk_",
        "TSK_06FQV3K1S9T4M7B2N8C5X0R6E4",
        "prj_06fqv3k1s9t4m7b2n8c5x0r6e4",
        "%00",
        "%FF",
        "..",
        &long,
    ] {
        for path in [format!("tasks/{id}"), format!("comments/{id}"), format!("tasks/{id}/comments")] {
            let answer = ada.get(&format!("/api/v1/{path}")).await;
            answer.problem(StatusCode::NOT_FOUND, "not_found");
            assert_eq!(answer.body, never.body, "{path}");
        }
    }
    let nowhere = json!({"project_id": "prj_0000000000000000000000000g", "title": "t"});
    ada.post("/api/v1/tasks", nowhere).await.problem(StatusCode::NOT_FOUND, "not_found");
    let path = "/api/v1/tasks/tsk_0000000000000000000000000g";
    let answer = ada.send_if_match(Method::DELETE, path, "three", None).await;
    answer.problem(StatusCode::PRECONDITION_FAILED, "precondition_failed");
}
