//! GitHub: no ID token, but an API.

use freehold::testkit::{Browser, GithubStandIn, Octocat};

use super::fixture::{account_of, assert_refused, callback_of, count, parameter, site, with_parameter};

const START: &str = "http://localhost/sign-in/github?return_to=/done";

/// The number is the person; the primary address counts if it was verified, and no other does.
///
/// Shown to fail: `github::vouch` without `verified`, and with `login` for the subject.
#[tokio::test]
async fn the_number_is_the_person_and_only_a_verified_primary_address_counts() {
    let octocat = Octocat { id: 583_231, login: "octocat", emails: vec![("octo@example.com", true, true)] };
    let github = GithubStandIn::start(octocat).await;
    let app = site(vec![github.settings("github")]).await;
    let come = async |user: Octocat| {
        *github.user.lock() = user.clone();
        let browser = Browser::new(&app);
        let page = browser.open(START).await;
        assert_eq!(page.url.path(), "/done", "{user:?}: {}", page.body);
        let account = account_of(&app, &github.url, &user.id.to_string()).await.expect("an account");
        let (name, email): (String, Option<String>) =
            sqlx::query_as("SELECT name, CASE WHEN email_verified THEN email END FROM account WHERE id = $1")
                .bind(account)
                .fetch_one(app.world.db())
                .await
                .unwrap();
        (account, name, email)
    };
    let user =
        |id, login, emails: &[(&'static str, bool, bool)]| Octocat { id, login, emails: emails.to_vec() };
    let (octo, name, email) = come(user(583_231, "octocat", &[("octo@example.com", true, true)])).await;
    assert_eq!((name.as_str(), email.as_deref()), ("octocat", Some("octo@example.com")));
    // The same person under another name; another person under the old one.
    assert_eq!(come(user(583_231, "octo-cat", &[("octo@example.com", true, true)])).await.0, octo);
    assert_ne!(come(user(7, "octocat", &[("octo@example.com", true, true)])).await.0, octo);
    for (id, emails) in [
        (10, &[("octo@example.com", true, false)][..]),
        (11, &[("octo@example.com", false, true), ("new@example.com", true, false)]),
        (12, &[("octo@example.com", false, true)]),
        (13, &[]),
    ] {
        assert_eq!(come(user(id, "someone", emails)).await.2, None, "{emails:?}");
    }
    assert_eq!(count(&app, "account").await, 6);
}

/// It says no with 200, and holds us to PKCE.
#[tokio::test]
async fn a_bad_code_is_refused_although_the_answer_is_200() {
    let octocat = Octocat { id: 1, login: "octocat", emails: vec![] };
    let github = GithubStandIn::start(octocat).await;
    let app = site(vec![github.settings("github")]).await;
    let (browser, thief) = (Browser::new(&app), Browser::new(&app));
    let callback = callback_of(&browser, START).await;
    let own = callback_of(&thief, START).await;
    for code in ["nonsense", &parameter(&callback, "code")] {
        let start = callback_of(&thief, START).await;
        let page = thief.open(with_parameter(&start, "code", Some(code)).as_str()).await;
        assert_refused(code, &thief, &page, 400);
    }
    drop(own);
    assert_eq!(count(&app, "account").await, 0);
}
