//! Against a real, certified provider in a process of its own.

use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::testkit::{Browser, Idp, TestApp};
use reqwest::{Method, Url};

use super::fixture::{account_of, assert_refused, count, parameter, site, with_parameter};

const START: &str = "http://localhost/sign-in/local?return_to=/done";

async fn with_idp() -> (TestApp, Idp) {
    let idp = Idp::start("local").await;
    let app = site(vec![idp.settings()]).await;
    (app, idp)
}

/// The address at the provider that a sign-in begins with.
async fn authorization(browser: &Browser) -> Url {
    browser.ask(Method::GET, &START.parse().unwrap(), None, None).await.leads_to().expect("to the provider")
}

/// There and back, for two people, in two browsers, before and after the provider changed its keys.
///
/// Shown to fail: another verifier than the challenge's in `Provider::vouch`; no `look_again`.
#[tokio::test]
async fn people_sign_in() {
    let (app, idp) = with_idp().await;
    for (round, person) in ["ada", "grace", "ada"].into_iter().enumerate() {
        if round == 2 {
            idp.rotate().await;
        }
        let browser = Browser::new(&app);
        let page = idp.sign_in(&browser, START, person).await;
        assert_eq!(page.url.as_str(), "http://localhost/done", "{person}: {} {}", page.status, page.body);
        assert!(browser.cookie("localhost", SESSION_COOKIE).is_some());
    }
    assert_eq!(count(&app, "account").await, 2);
    let ada: (String, Option<String>, bool) =
        sqlx::query_as("SELECT name, email, email_verified FROM account WHERE id = $1")
            .bind(account_of(&app, &idp.issuer, "ada").await.unwrap())
            .fetch_one(app.world.db())
            .await
            .unwrap();
    assert_eq!(ada, ("Ada Lovelace".to_owned(), Some("ada@example.com".to_owned()), true));
    let lines: i64 = sqlx::query_scalar("SELECT count(*) FROM audit WHERE action = 'session.start'")
        .fetch_one(app.world.db())
        .await
        .unwrap();
    assert_eq!(lines, 3, "one line for each sign-in");
}

/// Whoever declines is told so, and has no account.
#[tokio::test]
async fn whoever_declines_stays_outside() {
    let (app, idp) = with_idp().await;
    let browser = Browser::new(&app);
    let begun = browser.ask(Method::GET, &START.parse().unwrap(), None, None).await;
    let login = browser.follow(begun, |url| url.as_str().starts_with(&idp.issuer)).await;
    let abort = login
        .body
        .split("href=\"")
        .find_map(|rest| rest.split('"').next().filter(|to| to.ends_with("/abort")));
    let abort = login.url.join(abort.expect("a way out")).unwrap();
    let page = browser.open(abort.as_str()).await;
    assert_refused("declined", &browser, &page, 400);
    assert!(page.body.contains("declined"), "{}", page.body);
    assert_eq!(count(&app, "account").await, 0);
}

/// PKCE: always S256, and the provider holds us to it: without it, with `plain`, with another sign-in's verifier, or with
/// a code that was used, nothing is given.
#[tokio::test]
async fn a_code_is_worth_nothing_without_its_verifier() {
    let (app, idp) = with_idp().await;
    let browser = Browser::new(&app);
    let url = authorization(&browser).await;
    assert_eq!(parameter(&url, "code_challenge_method"), "S256");
    assert_eq!(parameter(&url, "code_challenge").len(), 43);
    assert!(parameter(&url, "nonce").len() >= 43 && parameter(&url, "state").len() >= 43);
    assert_eq!(parameter(&url, "redirect_uri"), "http://localhost/sign-in/local/callback");
    for weaker in [
        with_parameter(&with_parameter(&url, "code_challenge", None), "code_challenge_method", None),
        with_parameter(&url, "code_challenge_method", Some("plain")),
        with_parameter(&url, "code_challenge_method", None),
    ] {
        let page = browser.open(weaker.as_str()).await;
        assert_refused(weaker.as_str(), &browser, &page, 400);
        assert!(parameter(page.visited.last().unwrap(), "error").starts_with("invalid_request"));
    }

    // A stolen code, put into a sign-in of the thief's own: same state, same browser, another verifier.
    let victim = Browser::new(&app);
    let page = victim.ask(Method::GET, &START.parse().unwrap(), None, None).await;
    let stolen = parameter(&idp.through(&victim, page, "ada").await.leads_to().unwrap(), "code");
    let thief = Browser::new(&app);
    let page = thief.ask(Method::GET, &START.parse().unwrap(), None, None).await;
    let own = idp.through(&thief, page, "grace").await.leads_to().unwrap();
    let injected = with_parameter(&own, "code", Some(&stolen));
    assert_refused("a stolen code", &thief, &thief.open(injected.as_str()).await, 400);

    // A code that was used, in a new sign-in of the same browser.
    let done = Browser::new(&app);
    let page = done.ask(Method::GET, &START.parse().unwrap(), None, None).await;
    let callback = idp.through(&done, page, "grace").await.leads_to().unwrap();
    assert_eq!(done.open(callback.as_str()).await.url.path(), "/done");
    let again = authorization(&done).await;
    let mut replay = callback.clone();
    replay = with_parameter(&replay, "state", Some(&parameter(&again, "state")));
    assert_eq!(done.open(replay.as_str()).await.status, 400, "a used code");
    assert_eq!(count(&app, "account").await, 1, "grace's own");

    // And a redirect address that is not exactly ours is not the provider's to serve.
    let elsewhere = with_parameter(&url, "redirect_uri", Some("http://localhost/sign-in/local/callback/x"));
    let page = browser.open(elsewhere.as_str()).await;
    assert!(page.url.as_str().starts_with(&idp.issuer) && page.status == 400, "{}", page.url);
}
