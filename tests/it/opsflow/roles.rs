//! Who may do what: the document's `x-min-role` against the answers, and the rules about one's own work.

use freehold::kernel::Role;
use freehold::product::{Current, Product};
use http::{Method, StatusCode};
use serde_json::json;

use super::fixture::Workspace;

/// Every operation of the document, as every role: refused exactly below the role it states.
#[tokio::test]
async fn the_document_states_the_roles_that_are_enforced() {
    let workspace = Workspace::new().await;
    let document = serde_json::to_value(Current::routes().into_openapi()).unwrap();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let minimum = operation["x-min-role"].as_str().unwrap();
            for role in Role::ALL {
                let caller = workspace.caller("key_any", role);
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let body = matches!(method, Method::POST | Method::PATCH).then(|| json!({}));
                let answer = caller.send(method.clone(), path, body).await;
                let refused = role.as_str() != minimum
                    && Role::ALL.iter().position(|r| *r == role)
                        < Role::ALL.iter().position(|r| r.as_str() == minimum);
                assert_eq!(
                    answer.status == StatusCode::FORBIDDEN,
                    refused,
                    "{method} {path} as {role}: {} {}",
                    answer.status,
                    answer.body
                );
                assert!(answer.status.as_u16() < 500, "{method} {path} as {role}: {}", answer.body);
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 16 * Role::ALL.len());
}

#[tokio::test]
async fn members_delete_their_own_work_and_admins_any() {
    let workspace = Workspace::new().await;
    let admin = workspace.caller("key_admin", Role::Admin);
    let (ada, bob) = (workspace.caller("key_ada", Role::Member), workspace.caller("key_bob", Role::Member));
    let project = admin.project("p").await;
    let task = format!("/api/v1/tasks/{}", ada.task(&project, "Ada's").await);
    let comments = format!("{task}/comments");
    let comment = format!("/api/v1/comments/{}", ada.post(&comments, json!({"body": "mine"})).await.id());

    bob.patch(&task, json!({"status": "done"})).await.expect(StatusCode::OK);
    bob.send(Method::DELETE, &task, None).await.problem(StatusCode::FORBIDDEN, "forbidden");
    bob.send(Method::DELETE, &comment, None).await.problem(StatusCode::FORBIDDEN, "forbidden");
    bob.patch(&comment, json!({"body": "not mine"})).await.problem(StatusCode::FORBIDDEN, "forbidden");
    admin.patch(&comment, json!({"body": "in her name"})).await.problem(StatusCode::FORBIDDEN, "forbidden");

    ada.send(Method::DELETE, &comment, None).await.expect(StatusCode::NO_CONTENT);
    let second = format!("/api/v1/comments/{}", ada.post(&comments, json!({"body": "again"})).await.id());
    admin.send(Method::DELETE, &second, None).await.expect(StatusCode::NO_CONTENT);
    ada.send(Method::DELETE, &task, None).await.expect(StatusCode::NO_CONTENT);
    let other = format!("/api/v1/tasks/{}", ada.task(&project, "another").await);
    admin.send(Method::DELETE, &other, None).await.expect(StatusCode::NO_CONTENT);
}
