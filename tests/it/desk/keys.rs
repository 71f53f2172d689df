//! Whose an operator's key is.

use axum::Router;
use axum::body::{Body, to_bytes};
use freehold::data_plane::RequestId;
use freehold::http::operator;
use freehold::identity::keys::{operator_key_create_as, operator_key_create_for};
use freehold::identity::operators::{OperatorRef, OperatorRole, operator_remove, operator_set_role};
use freehold::kernel::codes;
use freehold::testkit::tester;
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::fixture::{hire, site};

const KEYS: &str = "/operator/v1/operator-keys";

async fn send(router: &Router, key: &str, method: &str, body: Option<Value>) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(KEYS)
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .extension(RequestId("req-1".into()));
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// A key is its maker's. Through the API nobody makes one for somebody else: they would be two people then.
///
/// Guards `owner_of_new`.
#[tokio::test]
async fn a_key_is_its_maker_s() {
    let (app, _rogue) = site().await;
    let cp = &app.world.hands.cp;
    let (router, _) = operator::routes(cp.clone()).split_for_parts();
    for (name, role) in [("ada", OperatorRole::Operator), ("bob", OperatorRole::Operator)] {
        hire(&app, name, role).await;
    }
    hire(&app, "fin", OperatorRole::Finance).await;
    let make = async |name: &str, role: OperatorRole| {
        let owner = OperatorRef::Email(format!("{name}@example.com"));
        operator_key_create_for(cp, &tester(), "laptop", role, Some(&owner), None).await
    };
    let hers = make("ada", OperatorRole::Operator).await.unwrap();
    assert_eq!(hers.record.owner_email.as_deref(), Some("ada@example.com"));
    assert!(
        make("fin", OperatorRole::Operator).await.unwrap_err().is(&codes::INVALID_FIELDS),
        "above their own"
    );
    assert!(make("eve", OperatorRole::Viewer).await.unwrap_err().is(&codes::NOT_FOUND));
    let nobodys = operator_key_create_as(cp, &tester(), "ci", OperatorRole::Operator, None).await.unwrap();
    assert_eq!((nobodys.record.owner, nobodys.record.owner_email), (None, None));

    let new = |owner: Option<&str>| Some(json!({ "name": "another", "owner": owner }));
    let ada = json!("ada@example.com");
    let (status, made) = send(&router, &hers.key, "POST", new(None)).await;
    assert_eq!((status, &made["owner_email"]), (201, &ada), "{made}");
    let (status, made) = send(&router, &hers.key, "POST", new(Some("ada@example.com"))).await;
    assert_eq!((status, &made["owner_email"]), (201, &ada), "{made}");
    for key in [&hers.key, &nobodys.key] {
        let (status, said) = send(&router, key, "POST", new(Some("bob@example.com"))).await;
        assert_eq!((status, &said["code"]), (403, &json!("forbidden")), "{said}");
    }
    let (status, made) = send(&router, &nobodys.key, "POST", new(None)).await;
    assert_eq!((status, &made["owner"]), (201, &Value::Null), "{made}");
    let (_, list) = send(&router, &hers.key, "GET", None).await;
    let of_ada = list["items"].as_array().unwrap().iter().filter(|key| key["owner_email"] == ada).count();
    assert_eq!(of_ada, 3, "{list}");
}

/// A key never may more than its owner, and ends with them.
///
/// Guards the owner's role in `operator_authenticate`, and the keys in `operator_remove`.
#[tokio::test]
async fn a_key_goes_the_way_of_its_owner() {
    let (app, _rogue) = site().await;
    let cp = &app.world.hands.cp;
    let (router, _) = operator::routes(cp.clone()).split_for_parts();
    let ada = OperatorRef::Id(hire(&app, "ada", OperatorRole::Operator).await.id);
    let hers = operator_key_create_for(cp, &tester(), "laptop", OperatorRole::Operator, Some(&ada), None)
        .await
        .unwrap();
    let new = || Some(json!({ "name": "another", "role": "viewer" }));
    assert_eq!(send(&router, &hers.key, "POST", new()).await.0, 201);
    operator_set_role(cp, &tester(), &ada, OperatorRole::Viewer).await.unwrap();
    assert_eq!(send(&router, &hers.key, "POST", new()).await.0, 403);
    assert_eq!(send(&router, &hers.key, "GET", None).await.0, 200);
    operator_remove(cp, &tester(), &ada).await.unwrap();
    assert_eq!(send(&router, &hers.key, "GET", None).await.0, 401);
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM operator_key WHERE owner IS NOT NULL AND revoked_at IS NULL",
    )
    .fetch_one(app.world.db())
    .await
    .unwrap();
    assert_eq!(left, 0);
    let said: i64 = sqlx::query_scalar("SELECT count(*) FROM audit WHERE action = 'operator_key.revoke'")
        .fetch_one(app.world.db())
        .await
        .unwrap();
    assert_eq!(said, 2, "both of her keys");
}
