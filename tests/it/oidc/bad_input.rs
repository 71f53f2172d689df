//! Providers that are down, slow or confused, people who decline, clocks that disagree: a clear page, no account, and
//! nothing of it in pages or logs.

use std::time::Instant;

use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::kernel::Clock;
use freehold::testkit::rogue_idp::{CANARY, Endpoint, Orders, Trouble};
use freehold::testkit::{Browser, RogueIdp};
use reqwest::Method;
use serde_json::json;

use super::fixture::{
    BASE, Logs, START, assert_refused, callback_of, claims, count, parameter, site, with_parameter,
    with_rogue,
};

/// Shown to fail: `RequestTokenError::Parse` with its text as the cause (the log quotes the token answer).
#[tokio::test]
async fn a_troubled_provider_lets_nobody_in_and_leaks_nothing() {
    let logs = Logs::capture();
    let mut tried = 0;
    for endpoint in [Endpoint::Discovery, Endpoint::Token, Endpoint::Jwks] {
        for trouble in [
            Trouble::Html502,
            Trouble::Rubbish,
            Trouble::WrongShape,
            Trouble::Endless,
            Trouble::Redirect,
            Trouble::Hangs,
        ] {
            // Once is enough for what takes eight seconds.
            if trouble == Trouble::Hangs && endpoint != Endpoint::Token {
                continue;
            }
            // A server that remembers nothing of the provider.
            let (app, rogue) = with_rogue().await;
            rogue.order(Orders { trouble: Some((endpoint, trouble)), ..Orders::default() });
            let (browser, begun) = (Browser::new(&app), Instant::now());
            let page = browser.open(START).await;
            assert_refused(&format!("{endpoint:?} {trouble:?}"), &browser, &page, 503);
            assert!(page.headers.contains_key("retry-after"));
            assert!(begun.elapsed().as_secs() < 30, "{endpoint:?} {trouble:?}: {:?}", begun.elapsed());
            assert_eq!((count(&app, "account").await, count(&app, "session").await), (0, 0));
            // And back to work when the trouble is over, some seconds later at most.
            rogue.order(Orders::default());
            let well = Browser::new(&app).open(START).await;
            assert_eq!(well.url.path(), "/done", "{endpoint:?} {trouble:?}: {}", well.body);
            tried += 1;
        }
    }
    assert_eq!(tried, 16);
    let text = logs.text();
    assert!(text.contains("request failed"), "nothing was logged at all");
    assert!(
        !text.contains(CANARY),
        "{}",
        text.lines().find(|line| line.contains(CANARY)).unwrap_or_default()
    );
}

/// Nobody listens at all; the page is there all the same.
#[tokio::test]
async fn a_provider_that_is_down_is_said_to_be() {
    let (app, rogue) = with_rogue().await;
    let other = RogueIdp::start(Clock::System).await;
    drop(other.settings("x"));
    let door = rogue.issuer.trim_start_matches("http://").to_owned();
    drop(rogue);
    // It may answer once more before it is gone.
    freehold::testkit::eventually(std::time::Duration::from_secs(5), "its door is shut", async || {
        match tokio::net::TcpStream::connect(&door).await {
            Ok(_) => Err("open"),
            Err(_) => Ok(()),
        }
    })
    .await;
    let browser = Browser::new(&app);
    freehold::testkit::eventually(std::time::Duration::from_secs(5), "it is down", async || {
        match browser.open(START).await.status {
            503 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    assert_refused("down", &browser, &browser.open(START).await, 503);
    assert_eq!(count(&app, "account").await, 0);
}

/// Answers that are no sign-in, and addresses that somebody wrote by hand.
#[tokio::test]
async fn what_is_no_sign_in_is_answered_with_a_page() {
    let logs = Logs::capture();
    let (app, rogue) = with_rogue().await;
    for (error, said) in [
        ("access_denied", "declined"),
        ("temporarily_unavailable", "problem"),
        ("server_error", "problem"),
        ("<script>alert(1)</script>", "refused"),
    ] {
        rogue.order(Orders { error: Some(error), ..Orders::default() });
        let browser = Browser::new(&app);
        let page = browser.open(START).await;
        assert_refused(error, &browser, &page, 400);
        assert!(page.body.contains(said) && !page.body.contains("<script>alert"), "{error}: {}", page.body);
    }
    rogue.order(Orders::default());
    let browser = Browser::new(&app);
    let callback = callback_of(&browser, START).await;
    let (state, code) = (parameter(&callback, "state"), parameter(&callback, "code"));
    let mut flipped = state.clone().into_bytes();
    flipped[0] = if flipped[0] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    let long = "x".repeat(6_000);
    for (what, url) in [
        ("a tampered state", with_parameter(&callback, "state", Some(&flipped))),
        ("a long state", with_parameter(&callback, "state", Some(&long))),
        ("no parameters", with_parameter(&callback, "x", None).join("?").unwrap()),
        (
            "bytes that are no text",
            format!("{BASE}/sign-in/rogue/callback?state=%FF%FE&code=%00").parse().unwrap(),
        ),
    ] {
        assert_refused(what, &browser, &browser.open(url.as_str()).await, 400);
    }
    for path in ["/sign-in/nobody", "/sign-in/nobody/callback?state=x&code=y", "/sign-in/..%2F..%2Fx"] {
        let page = browser.open(&format!("{BASE}{path}")).await;
        assert_eq!(page.status, 404, "{path}: {}", page.body);
    }
    for host in ["http://acme.localhost", "http://acme.localhost:1"] {
        assert_eq!(
            browser.open(&format!("{host}/sign-in/rogue")).await.status,
            404,
            "not at a tenant's host"
        );
    }
    assert_eq!(browser.open("http://localhost/enter").await.status, 404, "not at the sign-in host");
    // A flow cookie that somebody changed.
    let other = Browser::new(&app);
    other.plant("localhost", "__Host-freehold-flow", "nonsense");
    assert_refused("a tampered cookie", &other, &other.open(callback.as_str()).await, 400);
    for sent in
        ["__Host-freehold=fhs_x; __Host-freehold-flow=%%%", "__Host-freehold-flow=a; __Host-freehold-flow=b"]
    {
        let server = app.replicas[0].url(&format!("{}?{}", callback.path(), callback.query().unwrap()));
        let answer =
            app.client.get(server).header("host", "localhost").header("cookie", sent).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{sent}");
    }
    assert_eq!((count(&app, "account").await, count(&app, "session").await), (0, 0));
    assert_eq!(browser.open(callback.as_str()).await.url.path(), "/done", "none of it did harm");
    let token = browser.cookie("localhost", SESSION_COOKIE).unwrap();
    for secret in [CANARY, &state, &code, &token] {
        assert!(!logs.text().contains(secret), "{secret} is in the log");
    }
}

/// Five minutes are too much, in either direction; a few seconds are not. Nothing is made.
///
/// Shown to fail: `LEEWAY` of ten minutes.
#[tokio::test]
async fn clocks_that_disagree_by_five_minutes_let_nobody_in() {
    let (app, rogue) = with_rogue().await;
    // The rogue's tokens live for five minutes.
    for (seconds, gets_in) in
        [(300, false), (-400, false), (90, false), (30, true), (-30, true), (-300, true)]
    {
        rogue.order(Orders {
            clock: seconds,
            claims: claims(json!({ "sub": format!("s{seconds}") })),
            ..Orders::default()
        });
        let (browser, before) = (Browser::new(&app), count(&app, "account").await);
        let page = browser.open(START).await;
        if gets_in {
            assert_eq!(page.url.path(), "/done", "{seconds} s: {}", page.body);
        } else {
            assert_refused(&format!("{seconds} s"), &browser, &page, 400);
            assert_eq!(count(&app, "account").await, before, "{seconds} s");
        }
    }
}

/// What a provider writes into names and addresses is kept short and plain, and refused where it cannot be.
#[tokio::test]
async fn strange_people_are_kept_plainly_or_not_at_all() {
    let rogue = RogueIdp::start(Clock::System).await;
    let app = site(vec![rogue.settings("rogue")]).await;
    for (word, gets_in) in [
        (json!({ "sub": "n1", "name": "x".repeat(9_000) }), true),
        (json!({ "sub": "n2", "name": "\u{0}\u{1}" , "email": "<missing>" }), true),
        (json!({ "sub": "n3", "email": format!("{}@example.com", "x".repeat(400)) }), true),
        (json!({ "sub": "n4", "name": "'; DROP TABLE account; --" }), true),
        (json!({ "sub": "" }), false),
        (json!({ "sub": "x".repeat(256) }), false),
        (json!({ "sub": "<missing>" }), false),
        (json!({ "sub": 7 }), false),
        (json!({ "sub": "a\u{0}b" }), false),
        (json!({ "sub": "n5", "padding": "x".repeat(20_000) }), false),
    ] {
        rogue.order(Orders { claims: claims(word.clone()), ..Orders::default() });
        let browser = Browser::new(&app);
        let page = browser.open(START).await;
        let what: String = word.to_string().chars().take(60).collect();
        assert_eq!(page.url.path() == "/done", gets_in, "{what}: {} {}", page.status, page.body);
        if !gets_in {
            assert_refused(&what, &browser, &page, 400);
        }
    }
    assert_eq!(count(&app, "account").await, 4);
    let page = Browser::new(&app).ask(Method::HEAD, &START.parse().unwrap(), None, None).await;
    assert_eq!(page.status, 303);
}
