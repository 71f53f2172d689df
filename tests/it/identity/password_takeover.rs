//! B5 with passwords: an address that is proven here captures no account of another issuer, and nobody has one ready before
//! its owner comes (the five patterns of Sudhodanan and Paverd, 2022).

use std::time::Duration;

use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::kernel::ids::AccountId;
use freehold::kernel::{Clock, credentials};
use freehold::testkit::{Browser, RogueIdp, TestApp, eventually};

use super::password_fixture::{
    BASE, PASSWORD, ask, choose, count, fill, letter, letters, link_in, sign_in, sign_up, site,
};
use crate::oidc::fixture::{account_in, sign_in_again, signed_in};

const ADA: &str = "ada@example.com";

/// A site with passwords and a provider that vouches for `ada@example.com`.
async fn both() -> (TestApp, RogueIdp) {
    let rogue = RogueIdp::start(Clock::System).await;
    (site(vec![rogue.settings("rogue")]).await, rogue)
}

async fn who(app: &TestApp, browser: &Browser) -> AccountId {
    account_in(app, browser).await.expect("signed in")
}

/// Classic merge: one address, two issuers, whichever comes first: two accounts, and neither sees the other's.
///
/// Shown to fail: `account_enter` taking an account with the same verified address.
#[tokio::test]
async fn one_address_and_two_issuers_are_two_accounts() {
    let (app, rogue) = both().await;
    let by_provider = signed_in(&app, &rogue, "rogue", "ada").await;
    let by_password = sign_up(&app, ADA).await;
    let (first, second) = (who(&app, &by_provider).await, who(&app, &by_password).await);
    assert_ne!(first, second);
    let again = Browser::new(&app);
    sign_in_again(&again, &rogue, "rogue", "ada").await;
    assert_eq!(who(&app, &again).await, first);
    sign_in(&Browser::new(&app), ADA, PASSWORD).await;
    let verified: i64 =
        count(&app.world, "SELECT count(*) FROM account WHERE email = 'ada@example.com' AND email_verified")
            .await;
    assert_eq!(verified, 2);
    let grace = signed_in(&app, &rogue, "rogue", "grace").await;
    assert_ne!(who(&app, &grace).await, second);
}

/// Non-verifying identity provider, turned round: the attacker says the victim's address here, and cannot read its mail.
#[tokio::test]
async fn an_address_that_one_cannot_read_makes_no_account() {
    let (app, rogue) = both().await;
    let attacker = Browser::new(&app);
    ask(&attacker, "/sign-in/password/new", ADA).await;
    let mail = letter(&app.world).await;
    assert_eq!((count(&app.world, "SELECT count(*) FROM account").await, mail.to.as_str()), (0, ADA));
    // The victim comes by their provider, and has nothing of it.
    let victim = signed_in(&app, &rogue, "rogue", "ada").await;
    assert_eq!(sign_in(&attacker, ADA, PASSWORD).await.status, 400);
    // And if the victim uses the letter that the attacker asked for, the account is theirs alone: the browser that asked
    // is not signed in by it.
    let victims = Browser::new(&app);
    choose(&victims, &link_in(&mail), "the victim's own words").await;
    assert_eq!(attacker.cookie("localhost", SESSION_COOKIE), None);
    assert_eq!(attacker.open(&format!("{BASE}/account")).await.url.path(), "/sign-in");
    assert_ne!(who(&app, &victims).await, who(&app, &victim).await);
}

/// Trojan identifier: a password with the victim's address added to the attacker's account.
///
/// Shown to fail: the comparison of accounts taken out of `password_choose`.
#[tokio::test]
async fn a_password_is_added_by_who_is_signed_in_and_reads_the_mail() {
    let (app, rogue) = both().await;
    let world = &app.world;
    let attacker = signed_in(&app, &rogue, "rogue", "mallory").await;
    let page = attacker.open(&format!("{BASE}/account")).await;
    let page = fill(&attacker, &page, "/account/password/add", &[("email", ADA)]).await;
    assert!(page.body.contains("Check your e-mail"), "{}", page.body);
    let link = link_in(&letter(world).await);
    // Whoever reads the mail is not the one who asked, signed in as somebody else or not at all.
    for victim in [Browser::new(&app), signed_in(&app, &rogue, "rogue", "ada").await] {
        let page = choose(&victim, &link, PASSWORD).await;
        assert_eq!(page.status, 403, "{}", page.body);
    }
    assert_eq!(count(world, "SELECT count(*) FROM account_password").await, 0);
    // The same person, for their own address, in time.
    let ada = signed_in(&app, &rogue, "rogue", "ada").await;
    let page = ada.open(&format!("{BASE}/account")).await;
    fill(&ada, &page, "/account/password/add", &[("email", ADA)]).await;
    let link = link_in(&letter(world).await);
    let page = choose(&ada, &link, PASSWORD).await;
    assert_eq!(page.url.path(), "/account", "{}", page.body);
    assert!(letter(world).await.subject.contains("added"));
    let other = Browser::new(&app);
    assert_eq!(sign_in(&other, ADA, PASSWORD).await.url.path(), "/account");
    assert_eq!(who(&app, &other).await, who(&app, &ada).await);
    // Another account cannot have it as well, and the first keeps it.
    let second = signed_in(&app, &rogue, "rogue", "mallory").await;
    let page = second.open(&format!("{BASE}/account")).await;
    fill(&second, &page, "/account/password/add", &[("email", ADA)]).await;
    let page = choose(&second, &link_in(&letter(world).await), "mallory's own words").await;
    assert_eq!(page.status, 409, "{}", page.body);
    // Taken away, it is gone with its row; the provider is left.
    let page = ada.open(&format!("{BASE}/account")).await;
    let forms = page.forms();
    let remove = |form: &&freehold::testkit::Form| {
        form.action.path() == "/account/links/remove" && form.fields.iter().any(|(_, value)| value == BASE)
    };
    let form = forms.iter().find(remove).expect("a way to take the password away");
    assert_eq!(ada.submit(&page, form, &[]).await.url.path(), "/account");
    assert_eq!(count(world, "SELECT count(*) FROM account_password").await, 0);
    assert_eq!(sign_in(&Browser::new(&app), ADA, PASSWORD).await.status, 400);
}

/// Unexpired session: what an attacker had open in the account ends when its owner takes it back.
///
/// Shown to fail: `session_revoke_others` taken out of `password_replace`.
#[tokio::test]
async fn taking_an_account_back_ends_what_is_open_in_it() {
    let (app, _) = both().await;
    let attacker = sign_up(&app, ADA).await;
    letters(&app.world).await;
    let token = attacker.cookie("localhost", SESSION_COOKIE).unwrap();
    let owner = Browser::new(&app);
    ask(&owner, "/sign-in/password/forgotten", ADA).await;
    choose(&owner, &link_in(&letter(&app.world).await), "the owner's own words").await;
    let live: i64 =
        sqlx::query_scalar("SELECT count(*) FROM session WHERE token_hash = $1 AND revoked_at IS NULL")
            .bind(&credentials::hash(&token)[..])
            .fetch_one(app.world.db())
            .await
            .unwrap();
    assert_eq!(live, 0);
    eventually(Duration::from_secs(5), "the attacker is out", async || {
        match attacker.open(&format!("{BASE}/account")).await.url.path() {
            "/sign-in" => Ok(()),
            path => Err(path.to_owned()),
        }
    })
    .await;
    assert_eq!(sign_in(&attacker, ADA, PASSWORD).await.status, 400);
}

/// Unexpired change: links that the attacker asked for before die with the next password.
///
/// Shown to fail: `used_at` not set and the version left as it is, both: each of the two guards alone is enough.
#[tokio::test]
async fn links_of_before_are_dead_after() {
    let (app, _) = both().await;
    sign_up(&app, ADA).await;
    letters(&app.world).await;
    let browser = Browser::new(&app);
    let mut links = Vec::new();
    for path in ["/sign-in/password/forgotten", "/sign-in/password/forgotten"] {
        ask(&browser, path, ADA).await;
        links.push(link_in(&letter(&app.world).await));
    }
    let last = links.pop().unwrap();
    choose(&browser, &last, "the owner's own words").await;
    links.push(last);
    for link in links {
        assert_eq!(Browser::new(&app).open(&link).await.status, 404);
    }
    // By the version alone: as if the row were still there.
    sqlx::query("UPDATE password_link SET used_at = NULL").execute(app.world.db()).await.unwrap();
    let older: Vec<freehold::kernel::ids::PasswordLinkId> =
        sqlx::query_scalar("SELECT id FROM password_link").fetch_all(app.world.db()).await.unwrap();
    let services = super::password_fixture::services(&app.world);
    for id in older {
        let secret = services.master.link_secret("password", &id.to_string(), 1);
        assert!(services.password_link(id, &secret).await.is_err());
    }
}
