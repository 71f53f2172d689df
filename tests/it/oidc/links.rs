//! Linking and unlinking: a live session, a fresh proof, and never the last way in.

use chrono::TimeDelta;
use freehold::kernel::Clock;
use freehold::testkit::rogue_idp::Orders;
use freehold::testkit::{Browser, Idp, RogueIdp};
use serde_json::json;

use super::fixture::{account_in, account_of, claims, count, post, signed_in, site};

/// Shown to fail: `session_is_fresh` returning `Ok`; no look at what is left in `link_remove`.
#[tokio::test]
async fn a_link_takes_a_fresh_proof() {
    let (rogue, other) = (RogueIdp::start(Clock::System).await, RogueIdp::start(Clock::System).await);
    let app = site(vec![rogue.settings("rogue"), other.settings("other")]).await;
    let ada = signed_in(&app, &rogue, "rogue", "ada").await;
    let account = account_in(&app, &ada).await.unwrap();
    let own = [("issuer", rogue.issuer.as_str()), ("subject", "ada")];
    let second = [("issuer", other.issuer.as_str()), ("subject", "ada-at-other")];
    let link = [("provider", "other")];

    // The last way in stays.
    assert_eq!(post(&ada, "/account/links/remove", &own).await.status, 409);
    app.world.hands.cp.clock.advance(TimeDelta::seconds(301));
    for orders in [&rogue, &other] {
        orders.order(Orders { clock: 301, ..Orders::default() });
    }
    for (path, fields) in [("/account/links", &link[..]), ("/account/links/remove", &own[..])] {
        let page = post(&ada, path, fields).await;
        assert_eq!(page.status, 403, "{path}");
        assert!(page.body.contains("confirm_required"), "{}", page.body);
    }
    // Somebody else confirms, or a provider says that nobody did anything: no.
    for word in [json!({ "sub": "grace" }), json!({ "auth_time": Clock::System.now().timestamp() - 4_000 })] {
        rogue.order(Orders { clock: 301, claims: claims(word.clone()), ..Orders::default() });
        let sent = post(&ada, "/account/confirm", &[("provider", "rogue")]).await;
        assert_eq!(ada.follow(sent, |_| true).await.status, 400, "{word}");
    }
    assert_eq!(post(&ada, "/account/links", &link).await.status, 403);
    rogue.order(Orders { clock: 301, ..Orders::default() });
    let sent = post(&ada, "/account/confirm", &[("provider", "rogue")]).await;
    assert_eq!(ada.follow(sent, |_| true).await.url.path(), "/account");

    other.order(Orders { clock: 301, claims: claims(json!({ "sub": "ada-at-other" })), ..Orders::default() });
    let sent = post(&ada, "/account/links", &link).await;
    assert_eq!(ada.follow(sent, |_| true).await.url.path(), "/account");
    assert_eq!(account_of(&app, &other.issuer, "ada-at-other").await, Some(account));
    // Both lead to the one account; then one does.
    let by_other = Browser::new(&app);
    by_other.open("http://localhost/sign-in/other?return_to=/done").await;
    assert_eq!(account_in(&app, &by_other).await, Some(account));
    let grace = signed_in(&app, &rogue, "rogue", "grace").await;
    assert_eq!(post(&grace, "/account/links/remove", &second).await.status, 404, "another account's");
    assert_eq!(post(&ada, "/account/links/remove", &own).await.status, 303);
    assert_eq!(account_of(&app, &rogue.issuer, "ada").await, None);
    assert_eq!(post(&ada, "/account/links/remove", &second).await.status, 409, "the last one");
    let lines: Vec<String> = sqlx::query_scalar(
        "SELECT action FROM audit WHERE action LIKE 'account.%' OR action = 'session.confirm' ORDER BY id",
    )
    .fetch_all(app.world.db())
    .await
    .unwrap();
    assert_eq!(lines, ["session.confirm", "account.link", "account.unlink"]);
}

/// A real provider is made to ask again: who is signed in there types their name once more.
#[tokio::test]
async fn confirming_asks_again_at_a_real_provider() {
    let idp = Idp::start("local").await;
    let app = site(vec![idp.settings()]).await;
    let browser = Browser::new(&app);
    idp.sign_in(&browser, "http://localhost/sign-in/local?return_to=/done", "ada").await;
    let account = account_in(&app, &browser).await.unwrap();

    // Signing in again there takes no typing; confirming does.
    let page = browser.open("http://localhost/sign-in/local?return_to=/done").await;
    assert_eq!(page.url.path(), "/done");
    let sent = post(&browser, "/account/confirm", &[("provider", "local")]).await;
    let asked = browser.follow(sent, |_| true).await;
    assert!(asked.url.as_str().starts_with(&idp.issuer), "{}", asked.url);
    assert!(asked.forms().iter().any(|form| form.fields.iter().any(|(name, _)| name == "login")));
    let back = idp.through(&browser, asked, "ada").await;
    assert_eq!(browser.follow(back, |_| true).await.url.path(), "/account");
    assert_eq!(account_in(&app, &browser).await, Some(account));
    assert_eq!(count(&app, "account").await, 1);
}
