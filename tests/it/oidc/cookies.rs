//! B6: the cookie is the session; what it is, where it counts, and when it changes.

use chrono::TimeDelta;
use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::kernel::{Role, credentials};
use freehold::testkit::{Browser, Page};
use reqwest::{Method, Url};

use super::fixture::{
    BASE, START, account_in, count, parameter, post, seat_for, sign_in_again, signed_in, with_rogue,
};

/// The attributes of each of our cookies in an answer.
fn assert_strict(page: &Page) -> usize {
    let lines = page.set_cookies();
    for line in &lines {
        let mut parts: Vec<&str> = line.split(';').map(str::trim).collect();
        let (name, value) = parts.remove(0).split_once('=').unwrap();
        assert!(name.starts_with("__Host-"), "{line}");
        parts.retain(|part| !part.starts_with("Max-Age="));
        parts.sort_unstable();
        assert_eq!(parts, ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"], "{line}");
        // 43 characters of 64 and 40 of 32: 256 and 200 bits.
        assert!(value.is_empty() || value.len() >= 43, "{line}");
    }
    lines.len()
}

/// Shown to fail: the old token left alive (no `session_succeed`); a cookie without `HttpOnly`.
#[tokio::test]
async fn a_session_is_new_at_each_sign_in_and_kept_as_a_hash() {
    let (app, rogue) = with_rogue().await;
    let browser = Browser::new(&app);
    // Planted before the sign-in by whoever had hands on it: another person's, good, and a made-up one.
    let planted =
        signed_in(&app, &rogue, "rogue", "mallory").await.cookie("localhost", SESSION_COOKIE).unwrap();
    let begun = browser.ask(Method::GET, &START.parse().unwrap(), None, None).await;
    assert_eq!(assert_strict(&begun), 1);
    browser.plant("localhost", SESSION_COOKIE, &planted);
    sign_in_again(&browser, &rogue, "rogue", "ada").await;
    let first = browser.cookie("localhost", SESSION_COOKIE).unwrap();
    assert_ne!(first, planted);
    let ada = account_in(&app, &browser).await.unwrap();

    sign_in_again(&browser, &rogue, "rogue", "ada").await;
    let second = browser.cookie("localhost", SESSION_COOKIE).unwrap();
    assert_ne!(first, second);
    assert_eq!(account_in(&app, &browser).await, Some(ada));
    let live: i64 = sqlx::query_scalar("SELECT count(*) FROM session WHERE revoked_at IS NULL")
        .fetch_one(app.world.db())
        .await
        .unwrap();
    assert_eq!((live, count(&app, "session").await), (1, 3), "the planted one and the first have ended");

    for (token, kept) in [(&first, 1_i64), (&second, 1)] {
        let hash = credentials::hash(token);
        let by_hash: i64 = sqlx::query_scalar("SELECT count(*) FROM session WHERE token_hash = $1")
            .bind(&hash[..])
            .fetch_one(app.world.db())
            .await
            .unwrap();
        let in_text: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM session s WHERE s::text LIKE '%' || $1 || '%')
                  + (SELECT count(*) FROM audit a WHERE a::text LIKE '%' || $1 || '%')
                  + (SELECT count(*) FROM session WHERE token_hash = convert_to($1, 'UTF8'))",
        )
        .bind(token)
        .fetch_one(app.world.db())
        .await
        .unwrap();
        assert_eq!((by_hash, in_text), (kept, 0));
    }
    assert_eq!(assert_strict(&post(&browser, "/sign-out", &[]).await), 1);
    assert_eq!((account_in(&app, &browser).await, browser.cookie("localhost", SESSION_COOKIE)), (None, None));
}

/// From the sign-in host to a tenant's: a code for one browser, once, for half a minute, for one tenant.
///
/// Shown to fail: the conditions of the `UPDATE` in `hand_off_redeem` on the browser, on use and on time; no look at the
/// seat in `go`; a `Visitor` by a tenant's session.
#[tokio::test]
async fn the_way_to_a_tenants_host_is_this_browsers_alone() {
    let (app, rogue) = with_rogue().await;
    let (acme, _globex) = (app.world.tenant("acme").await, app.world.tenant("globex").await);
    let browser = signed_in(&app, &rogue, "rogue", "ada").await;
    seat_for(&app, &rogue, "ada", &acme, Role::Owner).await;
    let code_of = async |browser: &Browser| {
        let page = browser
            .ask(Method::GET, &"http://localhost/go/acme?return_to=/t".parse().unwrap(), None, None)
            .await;
        let to_code = |url: &Url| url.query_pairs().all(|(key, _)| key != "code");
        browser.follow(page, to_code).await.leads_to().expect("a code")
    };
    let with_code = code_of(&browser).await;
    assert!(parameter(&with_code, "code").starts_with("fhh_"));

    // In a browser that did not ask, and in one that asked itself; at another tenant's host.
    let me = |browser: &Browser, url: &Url| {
        let (server, cookie) =
            (app.replicas[0].url("/api/v1/me"), browser.cookie(url.host_str().unwrap(), SESSION_COOKIE));
        let request = app.client.get(server).header("host", url.host_str().unwrap().to_owned());
        app.send(request.header("cookie", format!("{SESSION_COOKIE}={}", cookie.unwrap_or_default())))
    };
    let victim = Browser::new(&app);
    assert_eq!(victim.open(with_code.as_str()).await.status, 400);
    victim.ask(Method::GET, &"http://acme.localhost/enter".parse().unwrap(), None, None).await;
    assert_eq!(victim.open(with_code.as_str()).await.status, 400, "another browser's code");
    assert_eq!(victim.cookie("acme.localhost", SESSION_COOKIE), None);
    let at_globex = with_code.as_str().replace("acme.", "globex.");
    assert_eq!(browser.open(&at_globex).await.status, 400);

    let mark = browser.cookie("acme.localhost", "__Host-freehold-enter").expect("the browser's mark");
    let entered = browser.ask(Method::GET, &with_code, None, None).await;
    assert_eq!((entered.status, assert_strict(&entered)), (303, 2));
    assert_eq!(entered.leads_to().unwrap().as_str(), "http://acme.localhost/t");
    assert_eq!(me(&browser, &with_code).await.0, 200);
    browser.plant("acme.localhost", "__Host-freehold-enter", &mark);
    assert_eq!(browser.open(with_code.as_str()).await.status, 400, "used");

    // A cookie of one host is nothing on another.
    let (base, tenant) =
        (browser.cookie("localhost", SESSION_COOKIE), browser.cookie("acme.localhost", SESSION_COOKIE));
    assert_ne!(base, tenant);
    let stranger = Browser::new(&app);
    stranger.plant("acme.localhost", SESSION_COOKIE, &base.unwrap());
    stranger.plant("globex.localhost", SESSION_COOKIE, tenant.as_deref().unwrap());
    stranger.plant("localhost", SESSION_COOKIE, tenant.as_deref().unwrap());
    assert_eq!(me(&stranger, &"http://acme.localhost".parse().unwrap()).await.0, 401);
    assert_eq!(me(&stranger, &"http://globex.localhost".parse().unwrap()).await.0, 404);
    let page = stranger.ask(Method::GET, &"http://localhost/go/acme".parse().unwrap(), None, None).await;
    assert_eq!(page.leads_to().unwrap().path(), "/sign-in", "nobody is signed in here");

    // No seat, no tenant, no sense: one answer.
    let mut bodies = Vec::new();
    for slug in ["globex", "nobody-has-this", "x"] {
        let page = browser.open(&format!("{BASE}/go/{slug}")).await;
        assert_eq!(page.status, 404, "{slug}");
        bodies.push(page.body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));

    let late = code_of(&browser).await;
    app.world.hands.cp.clock.advance(TimeDelta::seconds(31));
    assert_eq!(browser.open(late.as_str()).await.status, 400, "too late");

    // Signing in again, the stay goes on; signing out ends it, everywhere.
    sign_in_again(&browser, &rogue, "rogue", "ada").await;
    assert_eq!(me(&browser, &with_code).await.0, 200);
    let before_out = code_of(&browser).await;
    assert_eq!(post(&browser, "/sign-out", &[]).await.status, 303);
    assert_eq!(browser.open(before_out.as_str()).await.status, 400, "its session has ended");
    freehold::testkit::eventually(std::time::Duration::from_secs(1), "the stay ends", async || {
        match me(&browser, &with_code).await.0 {
            401 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
}
