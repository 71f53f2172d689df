//! A workspace that requires its own sign-in: of whom, since when, and at which doors.

use std::time::Duration;

use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::identity::sso::sso_method;
use freehold::kernel::{Clock, Role};
use freehold::testkit::{Browser, RogueIdp, TestApp, eventually};
use reqwest::{Method, Url};
use serde_json::json;

use super::fixture::{seat_for, sign_in_again, signed_in, site};
use super::own::{at, connect, method_in, prove, provide};
use crate::identity::fixture::Browser as Door;

/// The browser's door at the workspace.
fn door(browser: &Browser) -> Door {
    Door {
        slug: "acme".to_owned(),
        token: browser.cookie("acme.localhost", SESSION_COOKIE).unwrap_or_default(),
    }
}

async fn me(app: &TestApp, browser: &Browser) -> u16 {
    app.send(door(browser).ask(app, Method::GET, "/api/v1/me")).await.0
}

async fn require(app: &TestApp, browser: &Browser, required: bool) -> (u16, String) {
    let request = door(browser).ask(app, Method::POST, "/api/v1/sso/require");
    let (status, body) = app.send(request.json(&json!({ "required": required }))).await;
    (status, body["detail"].as_str().unwrap_or_default().to_owned())
}

/// An owner tries it, then requires it; who is of the domain comes by it from then on, after connecting their seat once;
/// guests come as before.
///
/// Shown to fail: `sso_allows_session` taken out of `on_to`, of `token_refresh`; `sso_allows_started` taken out of
/// `redeem`; the freshness in `sso_enforce`.
#[tokio::test]
async fn it_is_required_of_its_people_at_every_door() {
    let (rogue, own) = (RogueIdp::start(Clock::System).await, RogueIdp::start(Clock::System).await);
    let app = site(vec![rogue.settings("rogue")]).await;
    let acme = app.world.tenant("acme").await;
    provide(&app, acme.tenant.id, &own.issuer, "secret", None).await;
    prove(&app, acme.tenant.id, "example.com", None).await;
    let mut people = Vec::new();
    for (name, role) in [("ada", Role::Owner), ("grace", Role::Member), ("gus", Role::Member)] {
        let browser = signed_in(&app, &rogue, "rogue", name).await;
        let account = seat_for(&app, &rogue, name, &acme, role).await;
        if name == "gus" {
            sqlx::query("UPDATE account SET email = 'gus@guest.io' WHERE id = $1")
                .bind(account)
                .execute(app.world.db())
                .await
                .unwrap();
        }
        assert_eq!(browser.open(&at("/go/acme")).await.status, 200);
        assert_eq!(me(&app, &browser).await, 200, "{name}");
        people.push(browser);
    }
    let [ada, grace, gus] = &people[..] else { unreachable!() };

    // Not before somebody has shown that it works.
    assert_eq!(require(&app, ada, true).await.0, 409);
    let entered = connect(ada, "acme").await;
    assert_eq!((entered.status, entered.url.host_str()), (200, Some("acme.localhost")), "{}", entered.body);
    assert_eq!(method_in(&app, ada, "acme.localhost").await, sso_method(acme.tenant.id));
    app.world.hands.cp.clock.advance(chrono::TimeDelta::seconds(301));
    let (status, why) = require(&app, ada, true).await;
    assert!(status == 409 && why.contains("just"), "{status} {why}");
    let again = ada.open(&at("/sign-in/sso/acme")).await;
    assert_eq!((again.status, again.url.host_str()), (200, Some("acme.localhost")), "{}", again.body);
    // A code that is on its way when the rule begins is worth nothing after.
    let on_its_way = grace.ask(Method::GET, &at("/go/acme").parse().unwrap(), None, None).await;
    let to_code = |url: &Url| url.query_pairs().all(|(key, _)| key != "code");
    let with_code = grace.follow(on_its_way, to_code).await.leads_to().expect("a code");
    assert_eq!(require(&app, ada, true).await.0, 200);

    assert_eq!((me(&app, ada).await, me(&app, gus).await), (200, 200));
    eventually(Duration::from_secs(1), "who came another way is out", async || match me(&app, grace).await {
        401 => Ok(()),
        status => Err(status),
    })
    .await;
    let page = grace.open(with_code.as_str()).await;
    assert_eq!(page.status, 403, "{}", page.body);
    let page = gus.open(&at("/go/acme")).await;
    assert_eq!((page.status, page.url.host_str()), (200, Some("acme.localhost")), "a guest");

    // The way back in: shown on the page, after a fresh sign-in of one's own.
    let page = grace.open("http://acme.localhost/members").await;
    assert_eq!(page.status, 403, "{} {}", page.url, page.body);
    assert!(page.body.contains("/account/confirm"), "she signed in too long ago: {}", page.body);
    sign_in_again(grace, &rogue, "rogue", "grace").await;
    let page = grace.open("http://acme.localhost/members").await;
    let forms = page.forms();
    let form = forms.iter().find(|form| form.action.path().ends_with("/connect")).expect("the button");
    own.order(freehold::testkit::rogue_idp::Orders {
        claims: freehold::testkit::rogue_idp::person("grace"),
        ..Default::default()
    });
    let page = grace.submit(&page, form, &[]).await;
    assert_eq!((page.status, page.url.as_str()), (200, "http://acme.localhost/members"), "{}", page.body);
    assert_eq!(me(&app, grace).await, 200);
    let seats: i64 =
        sqlx::query_scalar("SELECT count(*) FROM membership").fetch_one(app.world.db()).await.unwrap();
    assert_eq!(seats, 3, "her seat, and no second one");

    // Loosened by an owner, all ways are open again.
    assert_eq!(require(&app, grace, false).await.0, 403);
    assert_eq!(require(&app, ada, false).await.0, 200);
    sign_in_again(grace, &rogue, "rogue", "grace").await;
    assert_eq!(grace.open(&at("/go/acme")).await.url.host_str(), Some("acme.localhost"));
}
