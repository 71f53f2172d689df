//! A browser's session, from sign-in to its end.

use std::time::Duration;

use freehold::identity::accounts::account_enter;
use freehold::identity::members::{By, member_change, member_remove};
use freehold::identity::sessions::{hand_off, hand_off_redeem, session_list, session_revoke};
use freehold::kernel::credentials::{KeyKind, parse};
use freehold::kernel::{Entropy, Role};
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp, eventually, tester};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::json;

use super::fixture::{device, enter, person, seat, sign_in, vouched};

const NEW: &str = "/api/v1/projects";

/// What a cookie lets in, what it does not, and that each way of ending it is seen within a second.
///
/// Shown to fail: `check_meant` returning `Ok` (a foreign page changes something); no notification at revocation, and no
/// `invalidate` for `Change::Account` (the revoked session goes on).
#[tokio::test]
async fn a_browser_works_until_its_session_or_its_seat_ends() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let (world, cp) = (&app.world, &app.world.hands.cp);
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let ada = person(world, "ada").await;
    seat(world, &acme, ada, Role::Owner).await;
    let base = sign_in(world, ada).await;
    let browser = enter(world, base.id, &acme).await;

    assert_eq!(app.send(browser.ask(&app, Method::GET, NEW)).await.0, 200);
    let new = json!({ "name": "First" });
    assert_eq!(app.send(browser.ask(&app, Method::POST, NEW).json(&new)).await.0, 201);
    for (what, request) in [
        ("no proof", browser.bare(&app, Method::POST, NEW).header("origin", "http://acme.localhost")),
        ("a foreign page", browser.ask(&app, Method::POST, NEW).header("sec-fetch-site", "cross-site")),
    ] {
        assert_eq!(app.send(request.json(&new)).await.0, 403, "{what}");
    }
    // The cookie of one host is nothing on another, and the one of the sign-in host is nothing on any tenant's.
    let at = |host: &str, token: &str| {
        let cookie = format!("__Host-freehold={token}");
        app.client.get(app.replicas[0].url(NEW)).header("host", host).header("cookie", cookie)
    };
    assert_eq!(app.send(at("globex.localhost", &browser.token)).await.0, 404);
    assert_eq!(app.send(at("acme.localhost", base.token.expose_secret())).await.0, 401);

    let grace = person(world, "grace").await;
    seat(world, &acme, grace, Role::Member).await;
    let colleague = enter(world, sign_in(world, grace).await.id, &acme).await;
    assert_eq!(app.send(colleague.ask(&app, Method::GET, NEW)).await.0, 200);
    assert_eq!(app.send(colleague.ask(&app, Method::POST, NEW).json(&new)).await.0, 403, "a member");
    let by = By { account: Some(ada), role: Role::Owner };
    let mut tx = world.db().begin().await.unwrap();
    member_change(&mut tx, &tester(), by, acme.tenant.id, grace, Role::Manager, cp.clock.now())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let status = async |browser: &super::fixture::Browser, wanted: u16| {
        eventually(Duration::from_secs(1), "the change is seen", async || {
            match app.send(browser.ask(&app, Method::POST, NEW).json(&json!({ "name": "More" }))).await {
                (status, _) if status == wanted => Ok(()),
                (status, body) => Err(format!("{status} {body}")),
            }
        })
        .await;
    };
    status(&colleague, 201).await;
    let mut tx = world.db().begin().await.unwrap();
    member_remove(&mut tx, &tester(), by, acme.tenant.id, grace, cp.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    status(&colleague, 404).await;

    // Ending the browser's session at the sign-in host ends it everywhere.
    let mut tx = world.db().begin().await.unwrap();
    assert_eq!(session_list(&mut tx, ada, cp.clock.now()).await.unwrap().len(), 1);
    session_revoke(&mut tx, ada, base.id, cp.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    status(&browser, 401).await;
    drop(globex);
}

/// A code works once, at its own tenant, in time, and while its session lives.
#[tokio::test]
async fn a_hand_off_is_for_once() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let (world, cp) = (&app.world, &app.world.hands.cp);
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let ada = person(world, "ada").await;
    let base = sign_in(world, ada).await;
    let mut conn = world.db().acquire().await.unwrap();
    let entropy = Entropy::default();
    let code = async |conn: &mut sqlx::PgConnection| {
        let code = hand_off(conn, &entropy, base.id, acme.tenant.id, &[1; 32], "/tasks", cp.clock.now())
            .await
            .unwrap();
        parse(KeyKind::HandOff, code.expose_secret()).unwrap()
    };
    let first = code(&mut conn).await;
    let redeem = async |conn: &mut sqlx::PgConnection, code, tenant, browser: &[u8; 32], now| {
        hand_off_redeem(conn, &entropy, &code, tenant, browser, &device(), now).await.is_ok()
    };
    let now = cp.clock.now();
    assert!(!redeem(&mut conn, first, globex.tenant.id, &[1; 32], now).await, "another tenant's host");
    assert!(!redeem(&mut conn, first, acme.tenant.id, &[2; 32], now).await, "another browser");
    assert!(redeem(&mut conn, first, acme.tenant.id, &[1; 32], now).await);
    assert!(!redeem(&mut conn, first, acme.tenant.id, &[1; 32], now).await, "twice");
    let late = code(&mut conn).await;
    let later = now + chrono::TimeDelta::seconds(60);
    assert!(!redeem(&mut conn, late, acme.tenant.id, &[1; 32], later).await, "too late");
    let dead = code(&mut conn).await;
    session_revoke(&mut conn, ada, base.id, now).await.unwrap();
    assert!(!redeem(&mut conn, dead, acme.tenant.id, &[1; 32], now).await, "its session has ended");
}

/// The pair (issuer, subject) is the account; the address is not.
#[tokio::test]
async fn an_address_leads_to_nobodys_account() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let world = &app.world;
    let now = world.hands.cp.clock.now();
    let mut conn = world.db().acquire().await.unwrap();
    let (ada, new) = account_enter(&mut conn, &vouched("ada"), now).await.unwrap();
    assert!(new);
    assert_eq!(account_enter(&mut conn, &vouched("ada"), now).await.unwrap(), (ada, false));
    let mut same_address = vouched("ada");
    same_address.issuer = "https://other.example.com".to_owned();
    let (other, new) = account_enter(&mut conn, &same_address, now).await.unwrap();
    assert!(new && other != ada);
}
