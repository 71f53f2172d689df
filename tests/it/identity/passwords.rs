//! An address and a password as a way in.

use std::time::Duration;

use chrono::TimeDelta;
use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::identity::password::Tried;
use freehold::identity::sessions::Asking;
use freehold::identity::settings::{PasswordSettings, Settings};
use freehold::product::Current;
use freehold::testkit::{AppOptions, Browser, TestApp, eventually};
use reqwest::{Method, Url};
use secrecy::SecretString;

use super::password_fixture::{
    BASE, PASSWORD, ask, choose, count, fill, letter, letters, link_in, services, settings, sign_in, sign_up,
    site, with,
};

const ACCOUNTS: &str = "SELECT count(*) FROM account";
const SESSIONS: &str = "SELECT count(*) FROM session";

/// Shown to fail: `acceptable` taken out of `password_choose`; `expires_at > $2` taken out of `good_link`; `link_is_good`
/// giving `true`. That a link works once is held by two guards, of which one is enough: see `password_takeover`.
#[tokio::test]
async fn nothing_is_made_before_the_address_is_proven() {
    let app = site(vec![]).await;
    let (world, browser) = (&app.world, Browser::new(&app));
    let page = ask(&browser, "/sign-in/password/new", " Ada@Example.com ").await;
    assert!(page.body.contains("Check your e-mail"), "{}", page.body);
    assert_eq!((count(world, ACCOUNTS).await, count(world, SESSIONS).await), (0, 0));
    let mail = letter(world).await;
    assert_eq!(mail.to, "ada@example.com");
    let link = link_in(&mail);

    // Mailboxes look at links; whoever has only a part of one has nothing.
    for _ in 0..3 {
        assert_eq!(Browser::new(&app).open(&link).await.status, 200);
    }
    assert_eq!(count(world, ACCOUNTS).await, 0);
    let (front, secret) = link.split_once("secret=").unwrap();
    for forged in ["", "x", &secret.to_uppercase(), &secret[1..]] {
        assert_eq!(Browser::new(&app).open(&format!("{front}secret={forged}")).await.status, 404, "{forged}");
    }
    for weak in ["too short", "ada@example.com", "password1234"] {
        let page = choose(&browser, &link, weak).await;
        assert_eq!(page.status, 422, "{weak}: {}", page.body);
    }
    assert_eq!(count(world, ACCOUNTS).await, 0);

    // Another letter that is still out dies with the first that is used.
    ask(&browser, "/sign-in/password/new", "ada@example.com").await;
    let second = link_in(&letter(world).await);
    let page = choose(&browser, &link, PASSWORD).await;
    assert_eq!((page.status, page.url.path()), (200, "/"), "{}", page.body);
    assert!(browser.cookie("localhost", SESSION_COOKIE).is_some());
    let known: (String, String, String, bool) =
        sqlx::query_as("SELECT i.issuer, i.provider, a.email, a.email_verified FROM account a JOIN account_identity i ON i.account = a.id")
            .fetch_one(world.db())
            .await
            .unwrap();
    assert_eq!(known, (BASE.to_owned(), "password".to_owned(), "ada@example.com".to_owned(), true));
    for dead in [&link, &second] {
        assert_eq!(Browser::new(&app).open(dead).await.status, 404);
    }
    let method: String =
        sqlx::query_scalar("SELECT method FROM session").fetch_one(world.db()).await.unwrap();
    assert_eq!(method, "password");

    // Too late is too late.
    ask(&browser, "/sign-in/password/new", "late@example.com").await;
    let late = link_in(&letter(world).await);
    world.hands.cp.clock.advance(TimeDelta::minutes(61));
    assert_eq!(Browser::new(&app).open(&late).await.status, 404);
    let lines: Vec<String> = sqlx::query_scalar("SELECT action FROM audit WHERE actor LIKE 'acc_%'")
        .fetch_all(world.db())
        .await
        .unwrap();
    assert_eq!(lines, ["session.start"]);
}

/// The same answer, the same rows, the same hashes: nobody learns who has an account here. What differs is in the mail.
///
/// Shown to fail: `verify` returning before its work when there is no hash; a sign-up of a known address refused at once.
#[tokio::test]
async fn a_stranger_does_not_learn_who_is_known() {
    let app = site(vec![]).await;
    let world = &app.world;
    sign_up(&app, "ada@example.com").await;
    letters(world).await;
    let plain = |body: &str, email: &str| body.replace(email, "<address>");
    for path in ["/sign-in/password/new", "/sign-in/password/forgotten"] {
        let mut seen = Vec::new();
        let browser = Browser::new(&app);
        for email in ["ada@example.com", "bob@example.com"] {
            let rows = count(world, "SELECT count(*) FROM password_link").await;
            let page = ask(&browser, path, email).await;
            let made = count(world, "SELECT count(*) FROM password_link").await - rows;
            let mails = letters(world).await;
            assert_eq!((made, mails.len()), (1, 1), "{path} {email}");
            seen.push((page.status, plain(&page.body, email)));
        }
        assert_eq!(seen[0], seen[1], "{path}");
    }
    // The letters say what the pages do not; a stranger's forgotten password is no letter at all.
    let browser = Browser::new(&app);
    world.hands.cp.clock.advance(TimeDelta::hours(2));
    ask(&browser, "/sign-in/password/new", "ada@example.com").await;
    let mail = letter(world).await;
    assert!(mail.subject.contains("already") && !mail.text.contains("secret="), "{mail:?}");
    ask(&browser, "/sign-in/password/forgotten", "carol@example.com").await;
    assert_eq!(letters(world).await, [None]);

    let mut seen = Vec::new();
    for email in ["ada@example.com", "bob@example.com"] {
        let page = sign_in(&browser, email, "not the password at all").await;
        seen.push((page.status, plain(&page.body, email)));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].0, 400);
    let services = services(world);
    for email in ["ada@example.com", "bob@example.com"] {
        let before = services.passwords.done();
        assert!(
            services
                .password_enter(&tried(email, "not the password at all"), None, &Asking::default())
                .await
                .is_err()
        );
        assert_eq!(services.passwords.done() - before, 1, "{email}: as much work");
    }
}

fn tried<'a>(email: &'a str, password: &str) -> Tried<'a> {
    let password = SecretString::from(password.to_owned());
    Tried { email, password, known: None, return_to: "/", browser_hash: [7; 32] }
}

/// Shown to fail: `session_revoke_others` taken out of `password_replace`.
#[tokio::test]
async fn a_forgotten_password_is_replaced_and_everybody_is_out() {
    let app = site(vec![]).await;
    let world = &app.world;
    let thief = sign_up(&app, "ada@example.com").await;
    let page = thief.open(&format!("{BASE}/account")).await;
    assert_eq!((page.status, page.url.path()), (200, "/account"));
    letters(world).await;
    let browser = Browser::new(&app);
    ask(&browser, "/sign-in/password/forgotten", "ADA@example.com").await;
    let older = link_in(&letter(world).await);
    ask(&browser, "/sign-in/password/forgotten", "ada@example.com").await;
    let link = link_in(&letter(world).await);
    let page = choose(&browser, &link, "another horse battery").await;
    assert!(page.body.contains("signed out everywhere"), "{}", page.body);
    assert_eq!(browser.cookie("localhost", SESSION_COOKIE), None, "a link alone is no session");
    eventually(Duration::from_secs(5), "the old session is over", async || {
        match thief.open(&format!("{BASE}/account")).await.url.path() {
            "/sign-in" => Ok(()),
            path => Err(path.to_owned()),
        }
    })
    .await;
    for dead in [&link, &older] {
        assert_eq!(Browser::new(&app).open(dead).await.status, 404);
    }
    let notice = letter(world).await;
    assert!(notice.subject.contains("reset"), "{notice:?}");
    assert_eq!(sign_in(&browser, "ada@example.com", PASSWORD).await.status, 400, "the old one");
    let page = sign_in(&browser, "ada@example.com", "another horse battery").await;
    assert_eq!((page.status, page.url.path()), (200, "/account"));
}

/// Shown to fail: `right_here` taking a wrong password.
#[tokio::test]
async fn a_password_is_changed_by_who_knows_it() {
    let app = site(vec![]).await;
    let world = &app.world;
    let laptop = sign_up(&app, "ada@example.com").await;
    let phone = Browser::new(&app);
    sign_in(&phone, "ada@example.com", PASSWORD).await;
    letters(world).await;
    let change = async |current: &str, new: &str| {
        let page = laptop.open(&format!("{BASE}/account")).await;
        fill(&laptop, &page, "/account/password", &[("current", current), ("password", new)]).await
    };
    assert_eq!(change("not what it is", "another horse battery").await.status, 400);
    assert_eq!(change(PASSWORD, "short").await.status, 422);
    assert_eq!(change(PASSWORD, "another horse battery").await.url.path(), "/account");
    eventually(Duration::from_secs(5), "the phone is out", async || {
        match phone.open(&format!("{BASE}/account")).await.url.path() {
            "/sign-in" => Ok(()),
            path => Err(path.to_owned()),
        }
    })
    .await;
    assert_eq!(laptop.open(&format!("{BASE}/account")).await.url.path(), "/account");
    assert!(letter(world).await.subject.contains("changed"));
    assert_eq!(sign_in(&phone, "ada@example.com", PASSWORD).await.status, 400);

    // What is grave wants it again after five minutes.
    world.hands.cp.clock.advance(TimeDelta::seconds(301));
    let page = laptop.open(&format!("{BASE}/account/second-factor")).await;
    let page = fill(&laptop, &page, "/account/second-factor/begin", &[]).await;
    assert_eq!(page.url.path(), "/account/confirm", "{}", page.body);
    let wrong = fill(&laptop, &page, "/account/confirm/password", &[("password", PASSWORD)]).await;
    assert_eq!(wrong.status, 400);
    let page =
        fill(&laptop, &page, "/account/confirm/password", &[("password", "another horse battery")]).await;
    assert_eq!(page.url.path(), "/account/second-factor");
    let page = fill(&laptop, &page, "/account/second-factor/begin", &[]).await;
    assert!(page.body.contains("<svg"), "{}", page.body);
}

/// Shown to fail: `hash_anew` taken out.
#[tokio::test]
async fn a_hash_grows_with_the_settings() {
    let app = site(vec![]).await;
    let world = &app.world;
    sign_up(&app, "ada@example.com").await;
    let stronger = with(
        world,
        Settings { password: PasswordSettings { memory_kib: 20_480, ..settings().password }, ..settings() },
    );
    let hash = async || -> String {
        sqlx::query_scalar("SELECT hash FROM account_password").fetch_one(world.db()).await.unwrap()
    };
    assert!(hash().await.contains("m=19456,t=2,p=1"));
    for hashes in [2, 1] {
        let before = stronger.passwords.done();
        stronger.password_enter(&tried("ada@example.com", PASSWORD), None, &Asking::default()).await.unwrap();
        assert_eq!(stronger.passwords.done() - before, hashes);
        assert!(hash().await.contains("m=20480,t=2,p=1"));
    }
    // A wrong one changes nothing.
    let kept = hash().await;
    let wrong = tried("ada@example.com", "not the password");
    assert!(stronger.password_enter(&wrong, None, &Asking::default()).await.is_err());
    assert_eq!(hash().await, kept);
}

/// Shown to fail: `passwords_are_on` giving `Ok`.
#[tokio::test]
async fn it_is_off_unless_it_is_switched_on() {
    let app = TestApp::start::<Current>(AppOptions { worker: false, ..AppOptions::of::<Current>() }).await;
    let browser = Browser::new(&app);
    for path in ["/sign-in/password/new", "/sign-in/password/forgotten"] {
        assert_eq!(browser.open(&format!("{BASE}{path}")).await.status, 404, "{path}");
    }
    let page = browser.open(&format!("{BASE}/sign-in")).await;
    assert!(!page.body.contains("type=\"password\""), "{}", page.body);
    // Also for who brings the form along.
    let mark = data_encoding::BASE64URL_NOPAD.encode(&[7; 32]);
    browser.plant("localhost", "__Host-freehold-flow", &mark);
    let proof = freehold::data_plane::tenancy::cookie::csrf_proof(&mark);
    for path in ["/sign-in/password", "/sign-in/password/new", "/sign-in/password/forgotten"] {
        let url: Url = format!("{BASE}{path}").parse().unwrap();
        let fields = [("csrf", proof.as_str()), ("email", "ada@example.com"), ("password", PASSWORD)];
        let page = browser.ask(Method::POST, &url, Some(BASE), Some(&fields)).await;
        assert_eq!(page.status, 404, "{path}: {}", page.body);
    }
}

/// Login CSRF: another site signs a visitor in as somebody else, who then reads what the visitor does.
///
/// Shown to fail: `meant_form` taken out of `mark::read`.
#[tokio::test]
async fn another_site_signs_nobody_in() {
    let app = site(vec![]).await;
    sign_up(&app, "mallory@example.com").await;
    let victim = Browser::new(&app);
    let page = victim.open(&format!("{BASE}/sign-in")).await;
    let forms = page.forms();
    let form = forms.iter().find(|form| form.action.path() == "/sign-in/password").unwrap();
    let own = form.fields.iter().find(|(name, _)| name == "csrf").unwrap().1.clone();
    let other = {
        let page = Browser::new(&app).open(&format!("{BASE}/sign-in")).await;
        let forms = page.forms();
        forms[0].fields.iter().find(|(name, _)| name == "csrf").unwrap().1.clone()
    };
    let send = async |origin: Option<&str>, proof: &str| {
        let fields = [("csrf", proof), ("email", "mallory@example.com"), ("password", PASSWORD)];
        let url: Url = format!("{BASE}/sign-in/password").parse().unwrap();
        victim.ask(Method::POST, &url, origin, Some(&fields)).await.status
    };
    for origin in [None, Some("null"), Some("https://evil.example"), Some("http://acme.localhost")] {
        assert_eq!(send(origin, &own).await, 403, "{origin:?}");
    }
    for proof in ["", other.as_str()] {
        assert_eq!(send(Some(BASE), proof).await, 403);
    }
    assert_eq!(victim.cookie("localhost", SESSION_COOKIE), None);
    assert_eq!(send(Some(BASE), &own).await, 303, "and its own page does");
}
