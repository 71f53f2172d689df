//! A tenant that stores all that its plan lets it store.

use std::time::{Duration, Instant};

use freehold::app;
use freehold::billing::Billing;
use freehold::billing::quotas::stored;
use freehold::billing::settings::Settings;
use freehold::kernel::Role;
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp, World, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use super::{move_to, sell};
use crate::identity::fixture::{enter, person, seat, sign_in};

const PROJECTS: &str = "/api/v1/projects";

pub fn billing(world: &World) -> Billing {
    let hands = &world.hands;
    app::billing(&hands.cp, hands.admins.clone(), Settings::default(), None).unwrap()
}

/// Waits until both replicas answer a new project with this status; fails when one does not within a second.
async fn creating_gives(app: &TestApp, key: &str, want: u16) -> Value {
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut last = Value::Null;
    for replica in 0..2 {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        last = eventually(left, "the replica has seen the change", async || {
            let request = app.on(replica, Method::POST, "acme", key, PROJECTS);
            let (status, body) = app.send(request.json(&json!({ "name": "p" }))).await;
            if status == want { Ok(body) } else { Err(format!("replica {replica}: {status} {body}")) }
        })
        .await;
    }
    last
}

/// Shown to fail: `room()` in `TenantContext::write`; `needs_no_room` of a deletion; `changes::notify` in `write_down`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_tenant_reads_and_deletes_and_writes_again_on_a_larger_plan() {
    let options = AppOptions { replicas: 2, worker: false, ..AppOptions::of::<Current>() };
    let app = TestApp::start::<Current>(options).await;
    sell(&app.world, |plan| {
        if plan.id == "team" {
            plan.entitlements.stored_bytes = Some(4_096);
        }
    })
    .await;
    let acme = app.world.tenant_with("acme", "team").await;
    app.world.tenant_with("globex", "team").await;
    let key = app.key("acme", Role::Owner).await;
    let made = creating_gives(&app, &key, 201).await;

    stored::sample(billing(&app.world)).await.unwrap();
    let refused = creating_gives(&app, &key, 402).await;
    let said = (refused["code"].as_str(), refused["quota"]["name"].as_str());
    assert_eq!(said, (Some("payment_required"), Some("stored_bytes")));
    let used = refused["quota"]["used"].as_u64().unwrap();
    let there: i64 =
        sqlx::query_scalar("SELECT used FROM quota_level WHERE tenant = $1 AND quota = 'stored_bytes'")
            .bind(acme.tenant.id)
            .fetch_one(app.world.db())
            .await
            .unwrap();
    assert_eq!((used, refused["quota"]["limit"].as_u64()), (there.unsigned_abs(), Some(4_096)));
    assert!(used > 100_000, "a schema's empty tables and indexes alone: {used}");
    assert!(refused["hint"].as_str().unwrap().contains("delete"), "{refused}");

    let (status, _) = app.send(app.request(Method::GET, "acme", &key, PROJECTS)).await;
    assert_eq!(status, 200);
    let path = format!("{PROJECTS}/{}", made["id"].as_str().unwrap());
    let patch = app.request(Method::PATCH, "acme", &key, &path).json(&json!({ "name": "q" }));
    assert_eq!(app.send(patch).await.0, 402);
    assert_eq!(app.send(app.request(Method::DELETE, "acme", &key, &path)).await.0, 204);
    // What the platform keeps of a workspace goes on: keys, people, sessions.
    let ada = person(&app.world, "ada").await;
    seat(&app.world, &acme, ada, Role::Owner).await;
    let browser = enter(&app.world, sign_in(&app.world, ada).await.id, &acme).await;
    let new_key = browser.ask(&app, Method::POST, "/api/v1/api-keys");
    let (status, body) = app.send(new_key.json(&json!({ "name": "k", "role": "viewer" }))).await;
    assert_eq!(status, 201, "{body}");
    let page = browser.bare(&app, Method::GET, "/members").send().await.unwrap().text().await.unwrap();
    assert!(page.contains("Nothing can be added or changed until there is room again."), "{page}");
    assert!(page.contains("1 of 50 seats are taken."), "{page}");

    move_to(&app.world, acme.tenant.id, "business").await;
    creating_gives(&app, &key, 201).await;
}

/// Room that comes back is seen as fast as room that goes.
///
/// Shown to fail: servers told only of a tenant that comes to store more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smaller_sample_opens_it_again() {
    let options = AppOptions { replicas: 2, worker: false, ..AppOptions::of::<Current>() };
    let app = TestApp::start::<Current>(options).await;
    let acme = app.world.tenant_with("acme", "free").await.tenant.id;
    let key = app.key("acme", Role::Owner).await;
    let now = app.world.hands.cp.clock.now();
    creating_gives(&app, &key, 201).await;
    stored::write_down(app.world.db(), &[(acme, 524_288_000)], now).await.unwrap();
    creating_gives(&app, &key, 402).await;
    stored::write_down(app.world.db(), &[(acme, 524_287_999)], now).await.unwrap();
    creating_gives(&app, &key, 201).await;
}
