//! `Idempotency-Key` on the platform's own POSTs.

use freehold::kernel::Role;
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp};
use reqwest::Method;
use serde_json::{Value, json};

const KEYS: &str = "/api/v1/api-keys";

async fn make(app: &TestApp, key: &str, once: &str, body: &Value) -> (u16, String, bool) {
    let request = app.request(Method::POST, "acme", key, KEYS).header("idempotency-key", once).json(body);
    let answer = request.send().await.unwrap();
    let replayed = answer.headers().get("idempotency-replayed").is_some_and(|yes| yes == "true");
    (answer.status().as_u16(), answer.text().await.unwrap(), replayed)
}

/// Shown to fail: the layer taken out of `workspace::routes`; the body kept in the open (`seal` giving what it gets); the
/// role taken out of the scope.
#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_does_nothing() {
    let app = TestApp::start::<Current>(AppOptions { worker: false, ..AppOptions::of::<Current>() }).await;
    app.world.tenant("acme").await;
    let admin = app.key("acme", Role::Admin).await;
    let count = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM api_key WHERE name LIKE 'ci%'")
            .fetch_one(app.world.db())
            .await
            .unwrap()
    };
    let body = json!({ "name": "ci", "role": "member" });
    let first = make(&app, &admin, "one", &body).await;
    assert_eq!((first.0, first.2), (201, false), "{}", first.1);
    let again = make(&app, &admin, "one", &body).await;
    assert_eq!(
        (again.0, &again.1, again.2),
        (201, &first.1, true),
        "the same answer, the key that is shown once with it"
    );
    assert_eq!(count().await, 1);
    let other = make(&app, &admin, "one", &json!({ "name": "ci2", "role": "member" })).await;
    assert!(other.0 == 409 && other.1.contains("idempotency_conflict"), "{}", other.1);
    // Another caller's key of the same name is another key.
    assert_eq!(make(&app, &app.key("acme", Role::Owner).await, "one", &body).await.0, 201);
    assert_eq!(count().await, 2);

    // What failed is not kept: the same request may be tried again.
    let bad = json!({ "name": "ci3", "role": "owner" });
    for _ in 0..2 {
        let refused = make(&app, &admin, "bad", &bad).await;
        assert_eq!((refused.0, refused.2), (403, false), "{}", refused.1);
    }
    // At once, from several: once.
    let body = json!({ "name": "ci4", "role": "member" });
    let all = futures_util::future::join_all((0..6).map(|_| make(&app, &admin, "two", &body))).await;
    assert!(all.iter().all(|one| one.0 == 201 && one.1 == all[0].1), "{all:?}");
    assert_eq!(all.iter().filter(|one| !one.2).count(), 1);
    assert_eq!(count().await, 3);

    // The answer shows a key, so it is not kept in the open.
    let shown: Value = serde_json::from_str(&first.1).unwrap();
    let secret = &shown["key"].as_str().unwrap()[4..44];
    let kept: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT body FROM idempotency WHERE scope LIKE 'workspace:%'")
            .fetch_all(app.world.db())
            .await
            .unwrap();
    assert!(kept.len() >= 3);
    for body in kept {
        let plain = serde_json::from_slice::<Value>(&body).is_ok();
        assert!(!plain && !String::from_utf8_lossy(&body).contains(secret), "kept in the open");
    }
    // Who has lost the role gets no answer that it gave.
    sqlx::query("UPDATE api_key SET role = 'member' WHERE name = 'admin'")
        .execute(app.world.db())
        .await
        .unwrap();
    let cold = app.beside::<Current>().await;
    let request = app.client.post(cold.url(KEYS)).header("host", "acme.localhost").bearer_auth(&admin);
    let body = json!({ "name": "ci", "role": "member" });
    let (status, answer) = app.send(request.header("idempotency-key", "one").json(&body)).await;
    assert_eq!(status, 403, "{answer}");
    cold.stop().await;
}
