//! What people do for themselves at their workspace's host: sessions, the workspace's log, handing it over.

use std::time::Duration;

use freehold::control_plane::audit::audit_add;
use freehold::identity::members::ownership_transfer;
use freehold::kernel::ids::AccountId;
use freehold::kernel::{Role, codes};
use freehold::product::{Current, Product};
use freehold::testkit::{AppOptions, TestApp, World, eventually, tester};
use reqwest::Method;
use serde_json::{Value, json};

use super::fixture::{enter, person, seat, sign_in};

async fn app() -> TestApp {
    TestApp::start::<Current>(AppOptions { worker: false, ..AppOptions::of::<Current>() }).await
}

/// Shown to fail: `account = $2` taken out of `session_revoke`; `session_root` giving the session itself (the browser that
/// asks ends its own).
#[tokio::test]
async fn a_person_sees_and_ends_their_own_sessions_and_nobody_elses() {
    let app = app().await;
    let world = &app.world;
    let acme = world.tenant("acme").await;
    let (ada, eve) = (person(world, "ada").await, person(world, "eve").await);
    seat(world, &acme, ada, Role::Viewer).await;
    seat(world, &acme, eve, Role::Owner).await;
    let (laptop, phone, evil) =
        (sign_in(world, ada).await.id, sign_in(world, ada).await.id, sign_in(world, eve).await.id);
    let here = enter(world, laptop, &acme).await;
    let there = enter(world, phone, &acme).await;
    let eves = enter(world, evil, &acme).await;
    let list = async || -> Vec<(String, bool)> {
        let (status, body) = app.send(here.ask(&app, Method::GET, "/api/v1/sessions")).await;
        assert_eq!(status, 200, "{body}");
        let all = body["items"].as_array().unwrap().iter();
        all.map(|one| (one["id"].as_str().unwrap().to_owned(), one["current"] == true)).collect()
    };
    assert_eq!(list().await, [(phone.to_string(), false), (laptop.to_string(), true)]);
    let at = |id: &str| format!("/api/v1/sessions/{id}");
    let (status, _) = app.send(eves.ask(&app, Method::DELETE, &at(&phone.to_string()))).await;
    assert_eq!(status, 404, "an owner ends nobody's session");
    let key = app.key("acme", Role::Owner).await;
    assert_eq!(app.send(app.request(Method::GET, "acme", &key, "/api/v1/sessions")).await.0, 403, "a key");
    assert_eq!(app.send(there.ask(&app, Method::GET, "/api/v1/me")).await.0, 200);

    assert_eq!(app.send(here.ask(&app, Method::DELETE, &at(&phone.to_string()))).await.0, 204);
    let ended = async |what: &str| {
        eventually(Duration::from_secs(5), what, async || {
            match app.send(there.ask(&app, Method::GET, "/api/v1/me")).await.0 {
                401 => Ok(()),
                status => Err(status),
            }
        })
        .await;
    };
    ended("the phone is out").await;
    assert_eq!(list().await, [(laptop.to_string(), true)]);

    for _ in 0..3 {
        sign_in(world, ada).await;
    }
    assert_eq!(list().await.len(), 4);
    let (status, body) = app.send(here.ask(&app, Method::POST, "/api/v1/sessions/revoke-others")).await;
    assert_eq!((status, &body), (200, &json!({ "ended": 3 })));
    assert_eq!(list().await, [(laptop.to_string(), true)], "the one that asks stays");
    assert_eq!(app.send(eves.ask(&app, Method::GET, "/api/v1/me")).await.0, 200, "eve is left alone");
    let written: Vec<String> =
        sqlx::query_scalar("SELECT action FROM audit WHERE action LIKE 'session.%' ORDER BY id")
            .fetch_all(world.db())
            .await
            .unwrap();
    assert_eq!(written, ["session.revoke", "session.revoke_others"]);
}

/// B13, "readable by its own tenant only". Shown to fail: `tenant = $1` taken out of `own_audit_page`.
#[tokio::test]
async fn the_log_shows_its_own_workspace_and_all_of_it() {
    let app = app().await;
    let world = &app.world;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let now = world.hands.cp.clock.now();
    let mut tx = world.db().begin().await.unwrap();
    for (tenant, what) in [(acme.tenant.id, "acme"), (globex.tenant.id, "globex")] {
        for n in 0..1_234 {
            let detail = json!({ "of": what });
            audit_add(&mut tx, &tester(), now, "test.line", Some(tenant), &format!("={n}"), detail)
                .await
                .unwrap();
        }
    }
    audit_add(&mut tx, &tester(), now, "test.platform", None, "platform", json!({})).await.unwrap();
    tx.commit().await.unwrap();

    let admin = app.key("acme", Role::Admin).await;
    let ask = async |query: &str| -> (u16, Value) {
        app.send(app.request(Method::GET, "acme", &admin, &format!("/api/v1/audit{query}"))).await
    };
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let (status, page) = ask(&format!("?limit=100{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        for line in page["items"].as_array().unwrap() {
            assert_eq!(line["tenant"], acme.tenant.id.to_string());
            assert!(!line.to_string().contains("globex"), "{line}");
            seen += usize::from(line["action"] == "test.line");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, 1_234);
    let (_, created) = ask("?action=tenant.create").await;
    assert_eq!(created["items"].as_array().unwrap().len(), 1);
    let (_, keys) = ask("?action=api_key.create&actor=test").await;
    assert_eq!(keys["items"].as_array().unwrap().len(), 1);
    for bad in [format!("?tenant={}", globex.tenant.id), "?limit=0".to_owned(), "?since=yesterday".to_owned()]
    {
        assert_eq!(ask(&bad).await.0, 422, "{bad}");
    }

    let export = app.request(Method::GET, "acme", &admin, "/api/v1/audit/export?action=test.line");
    let answer = export.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/csv; charset=utf-8");
    assert!(answer.headers()["cache-control"].to_str().unwrap().contains("no-store"));
    let csv = answer.text().await.unwrap();
    assert_eq!(csv.lines().count(), 1 + 1_234, "a head and every line, over all pages");
    assert!(!csv.contains("globex"));
    assert!(csv.contains("\"'=7\""), "no cell is a formula");
    let (_, exported) = ask("?action=audit.export").await;
    assert_eq!(exported["items"][0]["detail"], json!({ "filter": { "action": "test.line" } }));
    let manager = app.key("acme", Role::Manager).await;
    let refused = app.send(app.request(Method::GET, "acme", &manager, "/api/v1/audit/export")).await;
    assert_eq!(refused.0, 403);
}

/// Shown to fail: `session_is_fresh` taken out.
#[tokio::test]
async fn an_owner_hands_the_workspace_over() {
    let app = app().await;
    let world = &app.world;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let (ada, grace, eve) =
        (person(world, "ada").await, person(world, "grace").await, person(world, "eve").await);
    seat(world, &acme, ada, Role::Owner).await;
    seat(world, &acme, grace, Role::Viewer).await;
    seat(world, &globex, eve, Role::Owner).await;
    let base = sign_in(world, ada).await;
    let browser = enter(world, base.id, &acme).await;
    let give = async |to: AccountId| {
        let request = browser.ask(&app, Method::POST, "/api/v1/ownership/transfer");
        let (status, body) = app.send(request.json(&json!({ "account": to }))).await;
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(give(eve).await.0, 404, "no member of this workspace");
    assert_eq!(give(ada).await, (409, "state_conflict".to_owned()), "to oneself");
    world.hands.cp.clock.advance(chrono::TimeDelta::seconds(301));
    assert_eq!(give(grace).await, (403, "confirm_required".to_owned()), "an old sign-in");
    sqlx::query("UPDATE session SET authenticated_at = $1 WHERE id = $2")
        .bind(world.hands.cp.clock.now())
        .bind(base.id)
        .execute(world.db())
        .await
        .unwrap();
    assert_eq!(give(grace).await.0, 200, "a fresh sign-in at the sign-in host counts at the tenant's");
    let roles: Vec<(AccountId, Role)> =
        sqlx::query_as("SELECT account, role FROM membership WHERE tenant = $1 ORDER BY role")
            .bind(acme.tenant.id)
            .fetch_all(world.db())
            .await
            .unwrap();
    assert_eq!(roles, [(ada, Role::Admin), (grace, Role::Owner)]);
    eventually(Duration::from_secs(5), "the one who gave it is no owner any more", async || {
        match give(grace).await.0 {
            403 => Ok(()),
            status => Err(status),
        }
    })
    .await;
}

/// Shown to fail: the lock in `owners_locked` taken out; `owners.contains(&from)` taken out.
#[tokio::test]
async fn a_workspace_is_handed_over_once_also_in_a_race() {
    let world = World::new(Current::migrations()).await;
    let acme = world.tenant("acme").await;
    let now = world.hands.cp.clock.now();
    for round in 0..10 {
        let names = ["a", "b", "c"].map(|name| format!("{name}{round}"));
        let mut people = Vec::new();
        for (name, role) in names.iter().zip([Role::Owner, Role::Member, Role::Member]) {
            let account = person(&world, name).await;
            seat(&world, &acme, account, role).await;
            people.push(account);
        }
        let give = async |to| {
            let mut tx = world.db().begin().await.unwrap();
            let given = ownership_transfer(&mut tx, &tester(), acme.tenant.id, people[0], to, now).await;
            tx.commit().await.unwrap();
            given
        };
        let (one, other) = tokio::join!(give(people[1]), give(people[2]));
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        assert!(one.and(other).is_err_and(|error| error.is(&codes::FORBIDDEN)));
        let owners: i64 = sqlx::query_scalar("SELECT count(*) FROM membership WHERE role = 'owner'")
            .fetch_one(world.db())
            .await
            .unwrap();
        assert_eq!(owners, 1);
        sqlx::query("DELETE FROM membership").execute(world.db()).await.unwrap();
    }
}
