//! B1: an ID token is the provider's word, or nothing.

use freehold::testkit::Browser;
use freehold::testkit::rogue_idp::{Forgery, Orders};

use super::fixture::{START, assert_refused, count, with_rogue};

/// Fourteen of fourteen, each through the real handlers.
///
/// Shown to fail, each by its own forgery: `none` and HMAC taken unchecked, no signature checked, and in
/// `id_token::Claims::agree` no look at the issuer, the audience, a second audience, `azp`, the nonce, a nonce that is not
/// there, `exp`, `nbf`; and a look at the address in `jku`.
#[tokio::test]
async fn fourteen_forged_id_tokens_are_refused() {
    let (app, rogue) = with_rogue().await;
    let mut refused = 0;
    for forgery in Forgery::ALL {
        rogue.order(Orders { forgery: Some(forgery), ..Orders::default() });
        let browser = Browser::new(&app);
        let page = browser.open(START).await;
        assert!(page.url.path().ends_with("/callback"), "{forgery:?}: {}", page.url);
        assert_refused(&format!("{forgery:?}"), &browser, &page, 400);
        refused += 1;
    }
    assert_eq!(refused, 14);
    assert_eq!((count(&app, "account").await, count(&app, "session").await), (0, 0));
    assert_eq!(rogue.asked("/elsewhere"), 0, "an address in the token was asked for keys");

    // The same provider, when it does not lie.
    rogue.order(Orders::default());
    let page = Browser::new(&app).open(START).await;
    assert_eq!(page.url.as_str(), "http://localhost/done");
    assert_eq!(count(&app, "account").await, 1);
}
