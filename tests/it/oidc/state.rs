//! B3: what comes back is what this browser began here, with this provider, and comes back once.

use chrono::TimeDelta;
use freehold::kernel::Clock;
use freehold::testkit::rogue_idp::Orders;
use freehold::testkit::{Browser, RogueIdp};

use super::fixture::{
    START, assert_refused, callback_of, count, parameter, site, with_parameter, with_rogue,
};

/// Shown to fail: the conditions of the `UPDATE` in `Identity::returned` on the browser, on use and on time, taken out
/// one at a time.
#[tokio::test]
async fn only_the_browser_that_began_it_gets_in_and_once() {
    let (app, rogue) = with_rogue().await;
    let begun = async || {
        let browser = Browser::new(&app);
        let callback = callback_of(&browser, START).await;
        (browser, callback)
    };

    let (browser, callback) = begun().await;
    for state in [None, Some(""), Some("x"), Some(&*"A".repeat(43))] {
        let page = browser.open(with_parameter(&callback, "state", state).as_str()).await;
        assert_refused(&format!("state {state:?}"), &browser, &page, 400);
    }
    let twice = format!("{callback}&state=x");
    assert_refused("two states", &browser, &browser.open(&twice).await, 400);

    // Login CSRF: the address of somebody else's sign-in, opened in a victim's browser.
    let fresh = Browser::new(&app);
    assert_refused("a browser that began nothing", &fresh, &fresh.open(callback.as_str()).await, 400);
    let (victim, _) = begun().await;
    assert_refused("a browser that began another", &victim, &victim.open(callback.as_str()).await, 400);

    // A code from one sign-in put into another of the same browser.
    let other = callback_of(&browser, START).await;
    let mixed = with_parameter(&other, "code", Some(&parameter(&callback, "code")));
    assert_refused("another sign-in's code", &browser, &browser.open(mixed.as_str()).await, 400);

    // Too late.
    let (slow, late) = begun().await;
    app.world.hands.cp.clock.advance(TimeDelta::seconds(601));
    // What the provider says is of this moment: only the sign-in is old.
    rogue.order(Orders { clock: 601, ..Orders::default() });
    assert_refused("too late", &slow, &slow.open(late.as_str()).await, 400);
    app.world.hands.cp.clock.advance(TimeDelta::seconds(-601));
    rogue.order(Orders::default());

    assert_eq!((count(&app, "account").await, count(&app, "session").await), (0, 0));
    // None of this used it up: the one who began it gets in, and nobody after.
    assert_eq!(browser.open(callback.as_str()).await.url.path(), "/done");
    let page = browser.open(callback.as_str()).await;
    assert_eq!((page.status, count(&app, "session").await), (400, 1), "replayed");
}

/// A provider that is asked for one thing and answers as another, or sends a browser to the other's callback.
///
/// Shown to fail: `check_issuer` returning `Ok`; no `provider` in the `UPDATE` of `Identity::returned`.
#[tokio::test]
async fn one_issuer_cannot_answer_for_another() {
    let (honest, rogue) = (RogueIdp::start(Clock::System).await, RogueIdp::start(Clock::System).await);
    // `again` is the same provider, registered a second time: nothing but the address tells the two apart.
    let registered = vec![honest.settings("honest"), rogue.settings("rogue"), rogue.settings("again")];
    let app = site(registered).await;
    let browser = Browser::new(&app);
    let callback = callback_of(&browser, START).await;
    let at_again = callback.as_str().replace("/sign-in/rogue/", "/sign-in/again/");
    assert_refused("a second registration's callback", &browser, &browser.open(&at_again).await, 400);
    let at_honest = callback.as_str().replace("/sign-in/rogue/", "/sign-in/honest/");
    assert_refused("another provider's callback", &browser, &browser.open(&at_honest).await, 400);
    let named = with_parameter(&callback, "iss", Some(&honest.issuer));
    assert_refused("named as another", &browser, &browser.open(named.as_str()).await, 400);

    for orders in [
        Orders { says_iss: Some("https://accounts.example.com"), ..Orders::default() },
        Orders { hides_iss: true, ..Orders::default() },
    ] {
        // Its document, which promises `iss` now, is read by a server that has not read it before.
        let rogue = RogueIdp::start(Clock::System).await;
        let app = site(vec![rogue.settings("rogue")]).await;
        rogue.order(orders.clone());
        let browser = Browser::new(&app);
        assert_refused(&format!("{orders:?}"), &browser, &browser.open(START).await, 400);
        assert_eq!(count(&app, "account").await, 0);
    }
    assert_eq!(count(&app, "account").await, 0);
}
