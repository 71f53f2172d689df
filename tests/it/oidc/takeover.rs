//! B5: five ways of having an account ready before its victim comes (Sudhodanan and Paverd, 2022): 0 takeovers.

use freehold::kernel::ids::AccountId;
use freehold::kernel::{Clock, Role};
use freehold::testkit::rogue_idp::Orders;
use freehold::testkit::{Browser, RogueIdp, TestApp};
use reqwest::Method;
use serde_json::json;

use super::fixture::{
    BASE, START, account_in, account_of, callback_of, claims, count, post, seat_for, sign_in_again,
    signed_in, site,
};

/// A site with two providers: `rogue`, which the victim uses, and `other`, which says what the attacker wants.
async fn two() -> (TestApp, RogueIdp, RogueIdp) {
    let (rogue, other) = (RogueIdp::start(Clock::System).await, RogueIdp::start(Clock::System).await);
    let app = site(vec![rogue.settings("rogue"), other.settings("other")]).await;
    (app, rogue, other)
}

/// Signs in at `other` as a person who claims the victim's address.
async fn attacker(app: &TestApp, other: &RogueIdp, word: serde_json::Value) -> Browser {
    other.order(Orders { claims: claims(word), ..Orders::default() });
    let browser = Browser::new(app);
    assert_eq!(browser.open(&format!("{BASE}/sign-in/other?return_to=/done")).await.url.path(), "/done");
    browser
}

/// The victim comes, gets an account of their own with a seat, and the attacker's browser has nothing of it.
async fn victim_is_safe(app: &TestApp, rogue: &RogueIdp, attacker: &Browser, slug: &str) -> AccountId {
    let acme = app.world.tenant(slug).await;
    signed_in(app, rogue, "rogue", "ada").await;
    let ada = seat_for(app, rogue, "ada", &acme, Role::Owner).await;
    let theirs = account_in(app, attacker).await;
    assert!(theirs.is_some() && theirs != Some(ada), "one account for two people");
    let page = attacker.open(&format!("{BASE}/go/{slug}")).await;
    assert_eq!((page.status, page.url.host_str()), (404, Some("localhost")), "{}", page.url);
    ada
}

/// 1 and 2: an account made with the victim's address, and a session in it that is still open when the victim comes; from
/// a provider that did not check the address, and from one that says it did.
///
/// Shown to fail: a new identity with a known address taken into that account (`account_enter`).
#[tokio::test]
async fn an_account_with_the_victims_address_is_not_the_victims() {
    for verified in [json!(false), json!(true)] {
        let (app, rogue, other) = two().await;
        let word = json!({ "sub": "evil", "email": "ada@example.com", "email_verified": verified });
        let attacker = attacker(&app, &other, word).await;
        let ada = victim_is_safe(&app, &rogue, &attacker, "acme").await;
        assert_ne!(account_of(&app, &other.issuer, "evil").await, Some(ada));
        assert_eq!(count(&app, "account").await, 2);
    }
}

/// 3: a way back in, left in the account: the attacker links a second provider before the victim comes, and tries to link
/// the victim's after.
///
/// Shown to fail: `link_add` taking the conflict for a success.
#[tokio::test]
async fn a_second_way_in_leads_to_the_attackers_own_account_only() {
    let (app, rogue, other) = two().await;
    let word = json!({ "sub": "evil", "email": "ada@example.com", "email_verified": false });
    let attacker = attacker(&app, &other, word).await;
    rogue.order(Orders { claims: claims(json!({ "sub": "trojan" })), ..Orders::default() });
    let sent = post(&attacker, "/account/links", &[("provider", "rogue")]).await;
    assert_eq!(attacker.follow(sent, |_| true).await.url.path(), "/account");
    assert_eq!(count(&app, "account_identity").await, 2);
    let ada = victim_is_safe(&app, &rogue, &attacker, "acme").await;

    // The provider says `ada` now; her word is hers already.
    let sent = post(&attacker, "/account/links", &[("provider", "rogue")]).await;
    let page = attacker.follow(sent, |_| true).await;
    assert_eq!(page.status, 409, "{}", page.body);
    assert_eq!(account_of(&app, &rogue.issuer, "ada").await, Some(ada));
    assert_ne!(account_of(&app, &rogue.issuer, "trojan").await, Some(ada));
}

/// 4: a change begun by the attacker and ended by the victim, or ended after the attacker's session: a link.
///
/// Shown to fail: `still_here` returning `Ok`. The browser's own check (see `state`) stands before it.
#[tokio::test]
async fn a_change_under_way_ends_with_who_began_it() {
    let (app, rogue, other) = two().await;
    let attacker = attacker(&app, &other, json!({ "sub": "evil" })).await;
    let began = async || {
        rogue.order(Orders::default());
        let sent = post(&attacker, "/account/links", &[("provider", "rogue")]).await;
        let at_provider = sent.leads_to().expect("on to the provider");
        let page = attacker.ask(Method::GET, &at_provider, None, None).await;
        (at_provider, page.leads_to().expect("back"))
    };
    // Sent to the victim, before and after the provider; signed in already, and not.
    let (at_provider, callback) = began().await;
    let victim = signed_in(&app, &rogue, "rogue", "ada").await;
    for browser in [&victim, &Browser::new(&app)] {
        for url in [&at_provider, &callback] {
            assert_eq!(browser.open(url.as_str()).await.status, 400);
        }
    }
    // In the attacker's own browser, where somebody else has signed in since.
    let (_, callback) = began().await;
    sign_in_again(&attacker, &rogue, "rogue", "grace").await;
    assert_eq!(attacker.open(callback.as_str()).await.status, 400);
    // And where nobody is signed in any more.
    other.order(Orders { claims: claims(json!({ "sub": "evil" })), ..Orders::default() });
    attacker.open(&format!("{BASE}/sign-in/other?return_to=/done")).await;
    let (_, callback) = began().await;
    assert_eq!(post(&attacker, "/sign-out", &[]).await.status, 303);
    assert_eq!(attacker.open(callback.as_str()).await.status, 400);
    let evil = account_of(&app, &other.issuer, "evil").await.unwrap();
    let linked: i64 = sqlx::query_scalar("SELECT count(*) FROM account_identity WHERE account = $1")
        .bind(evil)
        .fetch_one(app.world.db())
        .await
        .unwrap();
    assert_eq!(linked, 1, "nothing was linked to the attacker's account");
}

/// 5: a provider that checks no addresses, or gives none: the address is believed in no spelling but a plain yes.
///
/// Shown to fail: `truth` taking all but `false` for yes.
#[tokio::test]
async fn an_address_that_nobody_checked_is_believed_by_nobody() {
    let (app, rogue, other) = two().await;
    let no = ["false", "no", "0", "", "TRUE", "yes"].map(|text| json!(text));
    let no = no.into_iter().chain([
        json!(false),
        json!(0),
        json!(1),
        json!(null),
        json!([true]),
        json!("<missing>"),
    ]);
    for (at, verified) in no.enumerate() {
        let subject = format!("evil{at}");
        attacker(
            &app,
            &other,
            json!({ "sub": subject, "email": "ada@example.com", "email_verified": verified }),
        )
        .await;
        assert_eq!(verified_address(&app, &other.issuer, &subject).await, None, "{verified}");
    }
    for email in ["<missing>", "", "@", "not an address", "a@b@c"] {
        attacker(&app, &other, json!({ "sub": format!("odd{email}"), "email": email })).await;
        assert_eq!(verified_address(&app, &other.issuer, &format!("odd{email}")).await, None, "{email}");
    }
    let last = attacker(&app, &other, json!({ "sub": "last", "email_verified": "<missing>" })).await;
    let ada = victim_is_safe(&app, &rogue, &last, "acme").await;
    assert_eq!(verified_address(&app, &rogue.issuer, "ada").await.as_deref(), Some("ada@example.com"));
    let hers: i64 = sqlx::query_scalar("SELECT count(*) FROM account_identity WHERE account = $1")
        .bind(ada)
        .fetch_one(app.world.db())
        .await
        .unwrap();
    assert_eq!(hers, 1);
    // Coming back changes nothing of that.
    Browser::new(&app).open(START).await;
    assert_eq!(account_of(&app, &rogue.issuer, "ada").await, Some(ada));
    drop(callback_of(&Browser::new(&app), START).await);
}

/// The address that counts as this account's own.
async fn verified_address(app: &TestApp, issuer: &str, subject: &str) -> Option<String> {
    let account = account_of(app, issuer, subject).await.expect("an account");
    sqlx::query_scalar("SELECT email FROM account WHERE id = $1 AND email_verified")
        .bind(account)
        .fetch_optional(app.world.db())
        .await
        .unwrap()
}
