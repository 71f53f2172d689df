//! A change made on one side is seen by every server within a second.

use std::time::{Duration, Instant};

use freehold::control_plane::access::tenant_suspend;
use freehold::control_plane::tenants::TenantRef;
use freehold::kernel::Role;
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp, eventually, tester};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};

const REPLICAS: usize = 3;
const PROJECTS: &str = "/api/v1/projects";

async fn app() -> (TestApp, String) {
    let app =
        TestApp::start::<Current>(AppOptions { replicas: REPLICAS, ..AppOptions::of::<Current>() }).await;
    app.world.tenant("acme").await;
    let key = app.key("acme", Role::Owner).await;
    everywhere(&app, &key, 200, Instant::now() + Duration::from_secs(10)).await;
    (app, key)
}

/// Waits until every replica answers with this status; fails when one still does not at the deadline.
async fn everywhere(app: &TestApp, key: &str, status: u16, deadline: Instant) {
    for replica in 0..REPLICAS {
        let left = deadline.saturating_duration_since(Instant::now());
        eventually(left.max(Duration::from_millis(1)), "the replica has seen the change", async || {
            let (seen, body) = app.send(app.on(replica, Method::GET, "acme", key, PROJECTS)).await;
            if seen == status { Ok(()) } else { Err(format!("replica {replica}: {seen} {body}")) }
        })
        .await;
    }
}

/// The whole of it, through the API. Two guards, each enough for the servers' answer: the notification, and the fence,
/// after which a refused login makes a server look again. Without the fence the tenant's own login still works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_is_seen_by_every_replica_and_by_the_shard() {
    let (app, key) = app().await;
    let tenant = app.world.show("acme").await;
    let (status, body) = app
        .send(
            app.operator(Method::POST, "/operator/v1/tenants/acme/suspend")
                .json(&json!({ "reason": "test" })),
        )
        .await;
    let answered = Instant::now();
    assert_eq!(status, 200, "{body}");
    everywhere(&app, &key, 403, answered + Duration::from_secs(1)).await;
    let refused = PgConnection::connect_with(&app.world.tenant_login(&tenant)).await;
    assert!(refused.is_err(), "its login still works");

    let (status, body) = app.send(app.operator(Method::POST, "/operator/v1/tenants/acme/resume")).await;
    assert_eq!(status, 200, "{body}");
    everywhere(&app, &key, 200, Instant::now() + Duration::from_secs(1)).await;
}

/// The notification by itself: no worker runs, so nothing is fenced. Without `changes::notify` in `access::shut` the
/// servers go on for 15 seconds and more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_is_heard_before_the_shard_is_fenced() {
    let options = AppOptions { replicas: REPLICAS, worker: false, ..AppOptions::of::<Current>() };
    let app = TestApp::start::<Current>(options).await;
    app.world.tenant("acme").await;
    let key = app.key("acme", Role::Owner).await;
    everywhere(&app, &key, 200, Instant::now() + Duration::from_secs(10)).await;
    let acme = TenantRef::Slug("acme".to_owned());
    tenant_suspend(&app.world.hands.cp, &tester(), &acme, "test").await.unwrap();
    everywhere(&app, &key, 403, Instant::now() + Duration::from_secs(1)).await;
}

/// A server whose listener panics knows that it does not hear, and hears again a moment later. Should fail: run the
/// directory without `supervise`, or without `Drop for Ear` in `jobs::listen`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_panics_is_begun_again() {
    let (app, key) = app().await;
    let listening = |replica: usize| app.replicas[replica].http.directory.health().listening;
    sqlx::query("SELECT pg_notify('freehold_changed', 'panic')").execute(app.world.db()).await.unwrap();
    let all_deaf = async {
        let mut deaf = [false; REPLICAS];
        while deaf.contains(&false) {
            (0..REPLICAS).for_each(|replica| deaf[replica] |= !listening(replica));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_deaf).await.expect("they say that they do not hear");
    eventually(Duration::from_secs(10), "all hear again", async || {
        if (0..REPLICAS).all(listening) { Ok(()) } else { Err("one does not".to_owned()) }
    })
    .await;
    let acme = TenantRef::Slug("acme".to_owned());
    tenant_suspend(&app.world.hands.cp, &tester(), &acme, "test").await.unwrap();
    everywhere(&app, &key, 403, Instant::now() + Duration::from_secs(1)).await;
}

/// Guard: the notification that names the key's hash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused_by_every_replica() {
    let (app, key) = app().await;
    let (_, keys) = app.send(app.operator(Method::GET, "/operator/v1/tenants/acme/api-keys")).await;
    let id = keys["items"][0]["id"].as_str().expect("the key is listed").to_owned();
    let (status, body) = app.send(app.operator(Method::DELETE, &format!("/operator/v1/api-keys/{id}"))).await;
    assert!(status < 300, "{status} {body}");
    everywhere(&app, &key, 401, Instant::now() + Duration::from_secs(1)).await;
}

/// A renamed tenant answers at its new address at once, and no longer at the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_tenant_moves_on_every_replica() {
    let (app, key) = app().await;
    let (status, body) = app
        .send(app.operator(Method::PATCH, "/operator/v1/tenants/acme").json(&json!({ "slug": "apex" })))
        .await;
    assert_eq!(status, 200, "{body}");
    everywhere(&app, &key, 404, Instant::now() + Duration::from_secs(1)).await;
    for replica in 0..REPLICAS {
        let (status, body) = app.send(app.on(replica, Method::GET, "apex", &key, PROJECTS)).await;
        assert_eq!(status, 200, "{body}");
    }
}
