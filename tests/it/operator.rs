//! The operators' API, through its router.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use freehold::control_plane::provisioning::NewTenant;
use freehold::control_plane::signup::{self, Key, Signup};
use freehold::control_plane::worker;
use freehold::data_plane::RequestId;
use freehold::http::operator;
use freehold::identity::keys::{operator_key_create, operator_key_revoke};
use freehold::jobs::feed::RunFeed;
use freehold::kernel::codes;
use freehold::product::{Current, Product};
use freehold::testkit::{World, WorldOptions, tester};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

struct Api {
    router: Router,
    key: String,
}

struct Answer {
    status: StatusCode,
    replayed: bool,
    bytes: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }
}

/// What the router is asked, as it is after the middleware.
pub fn request(
    key: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {key}"))
        .extension(RequestId("req-1".into()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    match body {
        Some(body) => {
            request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
        }
        None => request.body(Body::empty()).unwrap(),
    }
}

impl Api {
    async fn of(world: &World) -> Self {
        let (router, _) = operator::routes(world.hands.cp.clone()).split_for_parts();
        let key = operator_key_create(&world.hands.cp, &tester(), "test", None).await.unwrap().key;
        Self { router, key }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let request = request(&self.key, method, &format!("/operator/v1{path}"), headers, body);
        let response = self.router.clone().oneshot(request).await.unwrap();
        let replayed = response.headers().contains_key("idempotency-replayed");
        let status = response.status();
        Answer { status, replayed, bytes: to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec() }
    }

    async fn create(&self, slug: &str, key: &str) -> Answer {
        let headers = [("idempotency-key", key)];
        self.send("POST", "/tenants", &headers, Some(json!({ "slug": slug }))).await
    }
}

async fn world(slots: i32) -> World {
    let tables = Current::migrations();
    World::with(WorldOptions { shards: 2, tenant_cap: 200, slots, tables }).await
}

fn work(world: &World) -> CancellationToken {
    let stop = CancellationToken::new();
    tokio::spawn(worker::work(world.hands.clone(), stop.clone()));
    stop
}

#[tokio::test]
async fn no_route_answers_without_a_valid_key() {
    let world = world(0).await;
    let cp = &world.hands.cp;
    let (router, api) = operator::routes(cp.clone()).split_for_parts();
    let revoked = operator_key_create(cp, &tester(), "gone", None).await.unwrap();
    operator_key_revoke(cp, &tester(), revoked.record.id).await.unwrap();
    let good = Api::of(&world).await.key;
    let twice = Request::get("/operator/v1/pools")
        .header("authorization", format!("Bearer {good}"))
        .header("authorization", "Bearer fho_another");
    let response = router.clone().oneshot(twice.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "of two keys none counts");
    assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"freehold\"");
    let once = Request::get("/operator/v1/pools").header("authorization", format!("Bearer {good}"));
    let response = router.clone().oneshot(once.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["cache-control"], "private, no-store", "no cache keeps what operators see");
    let mut asked = 0;
    for (path, item) in &api.paths.paths {
        let methods =
            [("GET", &item.get), ("POST", &item.post), ("PATCH", &item.patch), ("DELETE", &item.delete)];
        for (method, _) in methods.into_iter().filter(|(_, operation)| operation.is_some()) {
            for key in [
                None,
                Some("Bearer fho_nonsense"),
                Some("Basic eDp5"),
                Some(&*format!("Bearer {}", revoked.key)),
            ] {
                let mut request = Request::builder().method(method).uri(path.replace(['{', '}'], "x"));
                if let Some(key) = key {
                    request = request.header("authorization", key);
                }
                let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path} {key:?}");
                asked += 1;
            }
        }
    }
    assert!(asked >= 4 * 30, "{asked}");
}

#[tokio::test]
async fn of_a_hundred_who_want_one_slug_one_gets_it() {
    let world = world(2).await;
    let api = Api::of(&world).await;
    let answers =
        join_all((0..100).map(|_| api.send("POST", "/tenants", &[], Some(json!({ "slug": "acme" }))))).await;
    let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    let taken = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::CONFLICT && answer.json()["code"] == "slug_taken")
        .count();
    assert_eq!((made, taken), (1, 99));
    assert_eq!(world.orphans().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_repeated_creation_gets_the_same_bytes() {
    let world = world(2).await;
    let api = Api::of(&world).await;
    let first = api.create("acme", "k1").await;
    assert_eq!((first.status, first.replayed), (StatusCode::CREATED, false));
    // What is answered is what is kept.
    let mut shown = api.send("GET", "/tenants/acme", &[], None).await.json();
    for only_there in ["schema", "role", "epoch", "version", "state_reason", "domains", "resources"] {
        shown.as_object_mut().unwrap().remove(only_there);
    }
    assert_eq!(first.json(), shown);
    let again = api.create("acme", "k1").await;
    assert_eq!((again.status, again.replayed, &again.bytes), (StatusCode::CREATED, true, &first.bytes));
    let other = api.create("globex", "k1").await;
    assert_eq!((other.status, &other.json()["code"]), (StatusCode::CONFLICT, &"idempotency_conflict".into()));
    // A refusal keeps no key: the same one may ask for something that works.
    assert_eq!(api.create("acme", "k2").await.status, StatusCode::CONFLICT);
    assert_eq!(api.create("globex", "k2").await.status, StatusCode::CREATED);
    let long = "x".repeat(256);
    assert_eq!(api.create("initech", &long).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    // Another operator's keys are other keys.
    let colleague = Api::of(&world).await;
    assert_eq!(colleague.create("umbrella", "k1").await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn at_once_with_one_key_and_no_slot_all_get_the_same_answer() {
    let world = world(0).await;
    let stop = work(&world);
    let api = Api::of(&world).await;
    let answers = join_all((0..10).map(|_| api.create("acme", "k1"))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.bytes), (StatusCode::CREATED, &answers[0].bytes));
    }
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    stop.cancel();
}

#[tokio::test]
async fn a_creation_that_takes_longer_is_followed_and_a_failed_one_frees_its_key() {
    let world = world(0).await;
    let (cp, caller) = (&world.hands.cp, tester());
    let key = Some(Key { scope: "test", key: "k1" });
    let new = NewTenant { slug: "acme".to_owned(), name: None, plan: None };
    let feed = RunFeed::new(cp.db.clone());
    let ask = async || signup::sign_up(cp, &feed, &caller, &new, key, Duration::from_millis(20)).await;
    // No worker: it cannot be finished.
    let Signup::Underway(run) = ask().await.unwrap() else { panic!("finished without a worker") };
    let Signup::Underway(same) = ask().await.unwrap() else { panic!("finished without a worker") };
    assert_eq!(run.id, same.id);
    // Its shard goes; the run is undone, and the key is free for another try.
    sqlx::query("UPDATE shard SET admin_dsn_ref = 'env:NOT_SET'").execute(world.db()).await.unwrap();
    let stop = work(&world);
    let failed = signup::sign_up(cp, &feed, &caller, &new, key, Duration::from_secs(30)).await.unwrap_err();
    // What is told is what was met last: the reference that is not set, or a shard that is left alone because of it.
    assert!(
        [&codes::BAD_REQUEST, &codes::SHARD_UNAVAILABLE].iter().any(|code| failed.is(code)),
        "{failed:?}"
    );
    stop.cancel();
    for (shard, file) in world.shards.iter().zip(["shard-1", "shard-2"]) {
        sqlx::query(
            "UPDATE shard SET admin_dsn_ref = $2, last_failure = NULL, last_seen_at = now() WHERE id = $1",
        )
        .bind(shard.id)
        .bind(format!("file:{}", world.folder.path().join(file).display()))
        .execute(world.db())
        .await
        .unwrap();
    }
    let stop = work(&world);
    let Signup::Answered(answer) =
        signup::sign_up(cp, &feed, &caller, &new, key, Duration::from_secs(30)).await.unwrap()
    else {
        panic!("not finished in time")
    };
    assert_eq!((answer.status, answer.replayed), (201, false));
    stop.cancel();
}

#[tokio::test]
async fn a_run_is_followed_to_its_end() {
    let world = world(0).await;
    let api = Api::of(&world).await;
    let run = world.create(&NewTenant { slug: "acme".to_owned(), name: None, plan: None }).await.unwrap();
    let request = Request::builder()
        .uri(format!("/operator/v1/runs/{run}/events"))
        .header("authorization", format!("Bearer {}", api.key))
        .body(Body::empty())
        .unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = response.into_body().into_data_stream();
    let first = events.next().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&first).unwrap().contains("\"pending\""), "{first:?}");
    let stop = work(&world);
    let rest: Vec<u8> = tokio::time::timeout(
        Duration::from_secs(30),
        events.flat_map(|chunk| stream::iter(chunk.unwrap().to_vec())).collect(),
    )
    .await
    .expect("the stream ends with the run");
    let text = String::from_utf8(rest).unwrap();
    let states: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let last = states.last().unwrap();
    assert_eq!(last["state"], "done", "{text}");
    assert!(last["steps"].as_array().unwrap().iter().all(|step| step["state"] == "done"));
    let unknown = api.send("GET", "/runs/run_06fqv3k1s9t4m7b2n8c5v0r6e4/events", &[], None).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    stop.cancel();
}

#[tokio::test]
async fn bad_input_is_refused_with_the_field() {
    let world = world(1).await;
    let api = Api::of(&world).await;
    let cases = [
        ("POST", "/tenants", Some(json!({ "slug": "No" })), 422, "invalid_fields"),
        ("POST", "/tenants", Some(json!({ "slug": "acme", "colour": 1 })), 422, "invalid_fields"),
        ("POST", "/tenants", Some(json!({ "slug": 7 })), 422, "invalid_fields"),
        ("POST", "/tenants", None, 415, "unsupported_media_type"),
        ("GET", "/tenants?limit=1000", None, 422, "invalid_fields"),
        ("GET", "/tenants?nonsense=1", None, 422, "invalid_fields"),
        ("GET", "/tenants?cursor=%25%25", None, 400, "bad_cursor"),
        ("GET", "/tenants/nobody", None, 404, "tenant_not_found"),
        ("GET", "/runs/ten_1", None, 404, "not_found"),
        ("POST", "/plans/apply", Some(json!({ "toml": "[[plan]]" })), 400, "bad_request"),
        ("POST", "/shards/shard-1/fill", Some(json!({ "target": -1 })), 422, "invalid_fields"),
        ("POST", "/operator-keys", Some(json!({ "name": "" })), 422, "invalid_fields"),
        // What PostgreSQL cannot store is the caller's mistake, wherever it turns up.
        ("GET", "/tenants/%00", None, 400, "bad_request"),
        ("GET", "/audit?action=%00", None, 400, "bad_request"),
        ("POST", "/tenants", Some(json!({ "slug": "acme", "name": "a\0" })), 400, "bad_request"),
        ("DELETE", "/tenants/%00", None, 400, "bad_request"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = api.send(method, path, &[], body).await;
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {text}");
        assert_eq!(answer.json()["code"], code, "{method} {path}: {text}");
    }
    assert_eq!(api.create("acme", "k").await.status, StatusCode::CREATED);
    let audit = api.send("GET", "/audit?action=tenant.create", &[], None).await.json();
    assert_eq!(audit["items"][0]["request_id"], "req-1");
    assert!(audit["items"][0]["actor"].as_str().unwrap().starts_with("operator:opk_"));
}

#[tokio::test]
async fn a_change_whose_shard_is_away_is_accepted_and_goes_on() {
    let world = world(1).await;
    let api = Api::of(&world).await;
    api.create("acme", "k").await;
    // No worker here. The tenant is shut for servers at once all the same.
    let answer = api.send("POST", "/tenants/acme/suspend", &[], Some(json!({ "reason": "abuse" }))).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.json()["kind"], "suspend");
    assert_eq!(api.send("GET", "/tenants/acme", &[], None).await.json()["state"], "suspended");
    let again = api.send("POST", "/tenants/acme/resume", &[], None).await;
    assert_eq!((again.status, &again.json()["code"]), (StatusCode::CONFLICT, &"state_conflict".into()));
    let stop = work(&world);
    world.finish(answer.json()["id"].as_str().unwrap().parse().unwrap()).await;
    assert_eq!(api.send("POST", "/tenants/acme/resume", &[], None).await.json()["state"], "active");
    stop.cancel();
}
