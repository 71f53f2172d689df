//! B2: a provider's keys change, and strangers invent key ids.

use std::time::Duration;

use freehold::identity::oidc::web::Web;
use freehold::identity::oidc::{CallbackQuery, FlowSecrets, Provider};
use freehold::kernel::{Clock, codes};
use freehold::testkit::rogue_idp::{Forgery, Orders};
use freehold::testkit::{Browser, RogueIdp};
use futures_util::{StreamExt, stream};

use super::fixture::{START, with_rogue};

/// Shown to fail: without `look_again` in `Provider::believe` nobody gets in after the change.
#[tokio::test]
async fn new_keys_are_found_with_one_more_look() {
    let (app, rogue) = with_rogue().await;
    for (round, looks) in [(1, 1), (2, 1)] {
        Browser::new(&app).open(START).await;
        assert_eq!(rogue.asked("/jwks"), looks, "round {round}: known keys are not asked for again");
    }
    rogue.rotate();
    for round in 1..=3 {
        let page = Browser::new(&app).open(START).await;
        assert_eq!(page.url.path(), "/done", "after the change, round {round}: {}", page.body);
        assert_eq!(rogue.asked("/jwks"), 2);
    }
}

/// A thousand tokens with key ids that nobody has, many at once: one look beside the first, in a minute.
///
/// Shown to fail: without the age in `Keys::look_again` there are as many looks as tokens.
#[tokio::test]
async fn invented_key_ids_do_not_make_us_ask() {
    let rogue = RogueIdp::start(Clock::System).await;
    let provider = Provider::new(rogue.settings("rogue").register().unwrap(), Web::new(true));
    rogue.order(Orders { forgery: Some(Forgery::UnknownKid), ..Orders::default() });
    let begun = std::time::Instant::now();
    let refused = stream::iter(0..1_000)
        .map(async |_| {
            let query =
                CallbackQuery { code: Some(rogue.code_for("n", "c")), iss: None, ..CallbackQuery::default() };
            let flow = FlowSecrets { nonce: "n".into(), verifier: "v".repeat(43), again_since: None };
            let vouched = provider.vouch(&query, "http://localhost/x", &flow, &Clock::System).await;
            vouched.is_err_and(|error| error.is(&codes::SIGN_IN_FAILED))
        })
        .buffer_unordered(20)
        .filter(|refused| std::future::ready(*refused))
        .count()
        .await;
    assert_eq!(refused, 1_000);
    let minutes = 1 + (begun.elapsed().as_secs() / Duration::from_secs(60).as_secs()) as usize;
    assert!(rogue.asked("/jwks") <= 1 + minutes, "{} looks in {minutes} min", rogue.asked("/jwks"));
}
