//! Who is let in at `/operator`, and that it opens nothing else.

use chrono::TimeDelta;
use freehold::data_plane::tenancy::cookie::{SESSION_COOKIE, csrf_proof};
use freehold::http::desk::COOKIE;
use freehold::identity::operators::{OperatorRef, OperatorRole, operator_remove, operator_set_role};
use freehold::kernel::Role;
use freehold::testkit::rogue_idp::{Orders, person};
use freehold::testkit::{Browser, tester};
use reqwest::Method;
use serde_json::json;

use super::fixture::{DESK, arrive, get, hire, on_duty, site};
use crate::oidc::fixture::{callback_of, claims, seat_for, signed_in};

/// Shown to fail: `email_verified` taken out of `operator_vouched`; `issuer IS NULL` taken out of it (another person with the
/// same address takes the row over); the look at `disabled_at`.
#[tokio::test]
async fn operators_are_who_was_added_and_nobody_else() {
    let (app, rogue) = site().await;
    let stranger = Browser::new(&app);
    let page = arrive(&stranger, &rogue, "ada").await;
    assert_eq!(page.status, 400, "nobody added her: {}", page.body);
    assert_eq!(stranger.cookie("localhost", COOKIE), None);

    hire(&app, "ada", OperatorRole::Operator).await;
    let unverified = Browser::new(&app);
    rogue.order(Orders { claims: claims(json!({ "email_verified": false })), ..Orders::default() });
    assert_eq!(
        unverified.open(&format!("{DESK}/sign-in/corp")).await.status,
        400,
        "an address is not proven"
    );

    let ada = Browser::new(&app);
    let page = arrive(&ada, &rogue, "ada").await;
    assert_eq!((page.status, page.url.path()), (200, "/operator"), "{}", page.body);
    assert!(ada.cookie("localhost", COOKIE).unwrap().starts_with("fhb_"));
    assert_eq!(ada.cookie("localhost", SESSION_COOKIE), None, "no session of a person");

    // From now on she is (issuer, subject): the address leads nobody else to her, and she may change hers.
    let other = Browser::new(&app);
    rogue.order(Orders { claims: claims(json!({ "sub": "eve" })), ..Orders::default() });
    assert_eq!(other.open(&format!("{DESK}/sign-in/corp")).await.status, 400);
    let moved = Browser::new(&app);
    rogue.order(Orders { claims: claims(json!({ "email": "ada@elsewhere.example" })), ..Orders::default() });
    assert_eq!(moved.open(&format!("{DESK}/sign-in/corp")).await.status, 200);

    let lines: Vec<(String, uuid::Uuid)> =
        sqlx::query_as("SELECT action, chain FROM audit WHERE action LIKE 'operator.%' ORDER BY id")
            .fetch_all(app.world.db())
            .await
            .unwrap();
    let actions: Vec<&str> = lines.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(actions, ["operator.add", "operator.sign_in", "operator.sign_in"]);
    assert!(lines.iter().all(|(_, chain)| chain.is_nil()), "in the platform's chain");

    operator_remove(&app.world.hands.cp, &tester(), &OperatorRef::Email("ada@example.com".into()))
        .await
        .unwrap();
    let page = get(&ada, DESK).await;
    assert_eq!(page.leads_to().unwrap().path(), "/operator/sign-in", "shut out at the next request");
    assert_eq!(arrive(&ada, &rogue, "ada").await.status, 400);
}

/// What was begun at the customers' door is kept out of the other by three guards: the flow's cookie, the provider's name
/// in its row, and what it is for. Shown to fail with all three taken out, and with one callback address for both.
#[tokio::test]
async fn an_operators_session_and_a_persons_open_nothing_of_each_other() {
    let (app, rogue) = site().await;
    let acme = app.world.tenant("acme").await;
    let desk = on_duty(&app, &rogue, "ada", OperatorRole::Operator).await;
    for (url, to) in [
        ("http://localhost/account", "/sign-in"),
        ("http://localhost/new", "/sign-in"),
        ("http://localhost/go/acme", "/sign-in"),
        ("http://acme.localhost/projects", "/go/acme"),
    ] {
        assert_eq!(get(&desk, url).await.leads_to().unwrap().path(), to, "{url}");
    }
    let token = desk.cookie("localhost", COOKIE).unwrap();
    for host in ["localhost", "acme.localhost"] {
        for name in [COOKIE, SESSION_COOKIE] {
            let thief = Browser::new(&app);
            thief.plant(host, name, &token);
            assert_eq!(get(&thief, &format!("http://{host}/api/v1/me")).await.status, 401, "{host} {name}");
        }
    }
    // At a tenant's host there are no such pages, whatever the cookie.
    let elsewhere = Browser::new(&app);
    elsewhere.plant("acme.localhost", COOKIE, &token);
    assert_eq!(get(&elsewhere, "http://acme.localhost/operator").await.status, 404);
    let api = app
        .client
        .get(app.replicas[0].url("/operator/v1/tenants"))
        .header("cookie", format!("{COOKIE}={token}"));
    assert_eq!(app.send(api).await.0, 401, "the API takes keys only");

    // A person's session, the owner's of a tenant even, opens nothing here.
    let person_there = signed_in(&app, &rogue, "rogue", "ada").await;
    seat_for(&app, &rogue, "ada", &acme, Role::Owner).await;
    let session = person_there.cookie("localhost", SESSION_COOKIE).unwrap();
    person_there.plant("localhost", COOKIE, &session);
    assert_eq!(get(&person_there, DESK).await.leads_to().unwrap().path(), "/operator/sign-in");

    // What was begun at one door does not end at the other.
    let both = Browser::new(&app);
    rogue.order(Orders { claims: person("ada"), ..Orders::default() });
    let back = callback_of(&both, "http://localhost/sign-in/rogue").await;
    let mut swapped = back.clone();
    swapped.set_path("/operator/sign-in/corp/callback");
    assert_eq!(both.ask(Method::GET, &swapped, None, None).await.status, 400);
    let back = callback_of(&both, &format!("{DESK}/sign-in/corp")).await;
    assert_eq!(back.path(), "/operator/sign-in/corp/callback");
    let mut swapped = back.clone();
    swapped.set_path("/sign-in/rogue/callback");
    assert_eq!(both.ask(Method::GET, &swapped, None, None).await.status, 400);
    assert_eq!(both.cookie("localhost", COOKIE), None);
    assert_eq!(both.cookie("localhost", SESSION_COOKIE), None);
    // And the customers' page does not name the operators' provider.
    assert!(!both.open("http://localhost/sign-in").await.body.contains("corp"));
}

/// Shown to fail: `meant_form` and `require` taken out of `Change`; the expiry taken out of `operator_of_session`.
#[tokio::test]
async fn the_desk_is_shut_after_a_day_and_changes_are_meant() {
    let (app, rogue) = site().await;
    let acme = app.world.tenant("acme").await.tenant.id;
    app.world.tenant("globex").await;
    let desk = on_duty(&app, &rogue, "ada", OperatorRole::Operator).await;
    let fleet = get(&desk, DESK).await;
    assert!(fleet.body.contains("acme") && fleet.body.contains("globex"), "{}", fleet.body);
    assert!(fleet.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let found = get(&desk, &format!("{DESK}?search=ACM&state=active")).await;
    assert!(found.body.contains("acme") && !found.body.contains("globex"), "{}", found.body);
    let none = get(&desk, &format!("{DESK}?search=%25")).await;
    assert!(none.body.contains("No tenant matches"), "a wildcard is a letter: {}", none.body);
    let one = get(&desk, &format!("{DESK}/tenants/{acme}")).await;
    assert!(one.body.contains("provision") && one.body.contains("acme.localhost"), "{}", one.body);

    let url = format!("{DESK}/tenants/{acme}/support").parse().unwrap();
    let proof = csrf_proof(&desk.cookie("localhost", COOKIE).unwrap());
    let fields = [("reason", "ticket 1"), ("minutes", "5"), ("csrf", proof.as_str())];
    for (what, origin, fields) in [
        ("no proof", "http://localhost", &fields[..2]),
        ("another site", "http://evil.example", &fields[..]),
        ("a tenant's page", "http://acme.localhost", &fields[..]),
    ] {
        let page = desk.ask(Method::POST, &url, Some(origin), Some(fields)).await;
        assert_eq!(page.status, 403, "{what}");
    }
    let cp = &app.world.hands.cp;
    let ada = OperatorRef::Email("ada@example.com".into());
    operator_set_role(cp, &tester(), &ada, OperatorRole::Viewer).await.unwrap();
    assert_eq!(desk.ask(Method::POST, &url, Some("http://localhost"), Some(&fields)).await.status, 403);
    assert!(!get(&desk, &format!("{DESK}/tenants/{acme}")).await.body.contains("name=\"reason\""));
    let started: i64 =
        sqlx::query_scalar("SELECT count(*) FROM support_session").fetch_one(app.world.db()).await.unwrap();
    assert_eq!(started, 0);

    app.world.hands.cp.clock.advance(TimeDelta::hours(8) - TimeDelta::minutes(1));
    assert_eq!(get(&desk, DESK).await.status, 200);
    app.world.hands.cp.clock.advance(TimeDelta::minutes(2));
    assert_eq!(get(&desk, DESK).await.leads_to().unwrap().path(), "/operator/sign-in");
}

#[tokio::test]
async fn an_operator_signs_out() {
    let (app, rogue) = site().await;
    let desk = on_duty(&app, &rogue, "ada", OperatorRole::Viewer).await;
    let token = desk.cookie("localhost", COOKIE).unwrap();
    let page = get(&desk, DESK).await;
    let form = page.forms().into_iter().find(|form| form.action.path() == "/operator/sign-out").unwrap();
    let out = desk.submit(&page, &form, &[]).await;
    assert_eq!(out.url.path(), "/operator/sign-in");
    assert_eq!(desk.cookie("localhost", COOKIE), None);
    desk.plant("localhost", COOKIE, &token);
    assert_eq!(get(&desk, DESK).await.leads_to().unwrap().path(), "/operator/sign-in", "and it is over");
}
