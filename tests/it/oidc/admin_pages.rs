//! The pages for API keys and single sign-on, as a browser uses them.

use freehold::adapters::dns::txt_lookup_at;
use freehold::identity::settings::Settings;
use freehold::kernel::{Clock, Role};
use freehold::product::Current;
use freehold::testkit::rogue_idp::CANARY;
use freehold::testkit::{AppOptions, Browser, DnsAnswer, DnsServer, Form, Page, RogueIdp, TestApp};
use reqwest::Method;

use super::fixture::{seat_for, signed_in};

const KEYS: &str = "http://acme.localhost/api-keys";
const SIGN_ON: &str = "http://acme.localhost/sign-on";

struct Office {
    app: TestApp,
    rogue: RogueIdp,
    dns: DnsServer,
}

/// A site, a workspace, and a name server.
async fn office() -> Office {
    let (rogue, dns) = (RogueIdp::start(Clock::System).await, DnsServer::start().await);
    let identity = Settings { providers: vec![rogue.settings("rogue")], ..Settings::default() };
    let txt = Some(txt_lookup_at(&[dns.addr]));
    let options = AppOptions { identity, worker: false, txt, ..AppOptions::of::<Current>() };
    let app = TestApp::start::<Current>(options).await;
    app.world.tenant("acme").await;
    Office { app, rogue, dns }
}

impl Office {
    /// Somebody with this role, in the workspace.
    async fn inside(&self, name: &str, role: Role) -> Browser {
        let browser = signed_in(&self.app, &self.rogue, "rogue", name).await;
        seat_for(&self.app, &self.rogue, name, &self.app.world.show("acme").await, role).await;
        assert_eq!(browser.open("http://localhost/go/acme").await.status, 200);
        browser
    }
}

/// The form that leads to this path; of several, the one with this field.
fn form<'a>(forms: &'a [Form], path: &str, field: Option<(&str, &str)>) -> &'a Form {
    let has = |form: &&Form| {
        field.is_none_or(|(name, value)| form.fields.iter().any(|(n, v)| n == name && v == value))
    };
    let mut fitting = forms.iter().filter(|form| form.action.path() == path);
    fitting.find(has).unwrap_or_else(|| panic!("no form to {path}: {forms:?}"))
}

async fn send(browser: &Browser, page: &Page, path: &str, fill: &[(&str, &str)]) -> Page {
    let forms = page.forms();
    browser.submit(page, form(&forms, path, None), fill).await
}

/// Shown to fail: `repeats::once` taken out of the page's routes (a form that is sent twice makes two keys).
#[tokio::test]
async fn keys_are_made_shown_once_and_revoked() {
    let office = office().await;
    let app = &office.app;
    let admin = office.inside("ada", Role::Admin).await;
    let page = admin.open(KEYS).await;
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains("href=\"/api-keys\"") && page.body.contains("aria-current=\"page\">API keys"));
    assert!(page.body.contains("value=\"tasks:read\"") && !page.body.contains("<option value=\"owner\""));
    let forms = page.forms();
    let make = form(&forms, "/api-keys", None);
    // The page's boxes are all in the form; a browser sends the ones that are ticked.
    let plain = Form {
        action: make.action.clone(),
        fields: make.fields.iter().filter(|(name, _)| name != "scope").cloned().collect(),
    };
    let fill = [("name", "<ci> & co"), ("role", "member"), ("days", "90"), ("scope", "tasks:read")];
    let made = admin.submit(&page, &plain, &fill).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let key = made.body.split("class=\"secret\">").nth(1).and_then(|rest| rest.split('<').next()).unwrap();
    assert!(key.starts_with("fhk_") && !made.body.contains("<ci>"), "{key}");
    assert_eq!(app.send(app.request(Method::GET, "acme", key, "/api/v1/tasks")).await.0, 200);
    assert_eq!(app.send(app.request(Method::GET, "acme", key, "/api/v1/members")).await.0, 403, "its scopes");
    let twice = admin.submit(&page, &plain, &fill).await;
    assert!(twice.status == 200 && twice.body.contains(key), "sent again, the same key is shown");
    let many: i64 = sqlx::query_scalar("SELECT count(*) FROM api_key WHERE name LIKE '<ci>%'")
        .fetch_one(app.world.db())
        .await
        .unwrap();
    assert_eq!(many, 1);

    let listed = admin.open(KEYS).await;
    assert!(!listed.body.contains(key) && listed.body.contains("tasks:read"), "shown once");
    for (fill, says) in [
        ([("name", ""), ("role", "member"), ("days", "90")], "Name"),
        ([("name", "x"), ("role", "owner"), ("days", "90")], "above"),
        ([("name", "x"), ("role", "member"), ("days", "1")], "Days"),
    ] {
        let forms = listed.forms();
        let again = Form {
            action: form(&forms, "/api-keys", None).action.clone(),
            fields: form(&forms, "/api-keys", None)
                .fields
                .iter()
                .filter(|f| f.0 != "scope")
                .cloned()
                .collect(),
        };
        let refused = admin.submit(&listed, &again, &fill).await;
        assert!((400..500).contains(&refused.status), "{fill:?}: {}", refused.status);
        assert!(
            refused.body.contains("role=\"alert\"") && refused.body.contains(says),
            "{fill:?}: {}",
            refused.body
        );
    }
    let gone = send(&admin, &listed, "/api-keys/revoke", &[]).await;
    assert!(gone.status == 200 && gone.body.contains("revoked"), "{}", gone.body);
    freehold::testkit::eventually(
        std::time::Duration::from_secs(1),
        "the key is refused",
        async || match app.send(app.request(Method::GET, "acme", key, "/api/v1/tasks")).await.0 {
            401 => Ok(()),
            status => Err(status),
        },
    )
    .await;

    let member = office.inside("grace", Role::Member).await;
    for url in [KEYS, SIGN_ON] {
        assert_eq!(member.open(url).await.status, 403, "{url}");
    }
    let home = member.open("http://acme.localhost/projects").await;
    assert!(!home.body.contains("/api-keys") && !home.body.contains("/sign-on"), "not theirs, so not shown");
}

/// From nothing to a required sign-in, on one page; and what goes wrong is said there.
#[tokio::test]
async fn single_sign_on_is_set_up_on_one_page() {
    let office = office().await;
    let own = RogueIdp::start(Clock::System).await;
    let owner = office.inside("ada", Role::Owner).await;
    let page = owner.open(SIGN_ON).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let redirect = format!("/sign-in/sso/{}/callback", office.app.world.show("acme").await.tenant.id);
    assert!(page.body.contains(&redirect), "what to register");
    let bad = send(&owner, &page, "/sign-on/domains", &[("domain", "gmail.com")]).await;
    assert!(bad.status == 422 && bad.body.contains("public mail service"), "{}", bad.body);
    let page = send(&owner, &page, "/sign-on/domains", &[("domain", "example.com")]).await;
    assert!(
        page.body.contains("_freehold.example.com") && page.body.contains("not proven yet"),
        "{}",
        page.body
    );
    let not_yet = send(&owner, &page, "/sign-on/domains/verify", &[]).await;
    assert!(not_yet.status == 409 && not_yet.body.contains("There is no TXT record"), "{}", not_yet.body);
    let challenge =
        page.body.split("freehold-verification=").nth(1).and_then(|rest| rest.split('<').next()).unwrap();
    office.dns.set("_freehold.example.com", DnsAnswer::txt(&format!("freehold-verification={challenge}")));
    let page = send(&owner, &page, "/sign-on/domains/verify", &[]).await;
    assert!(page.status == 200 && page.body.contains(">proven<"), "{}", page.body);
    let page = send(&owner, &page, "/sign-on/domains/join", &[("join_role", "viewer")]).await;
    assert!(page.body.contains("<option value=\"viewer\" selected"), "{}", page.body);

    let fill = [
        ("issuer", "https://127.0.0.1:1"),
        ("client_id", "freehold"),
        ("client_secret", "hush-hush-hush"),
        ("join_role", ""),
    ];
    let wrong = send(&owner, &page, "/sign-on/provider", &fill).await;
    assert!(wrong.status == 422 && wrong.body.contains("role=\"alert\""), "{}", wrong.body);
    let fill = [
        ("issuer", own.issuer.as_str()),
        ("client_id", "freehold"),
        ("client_secret", "hush-hush-hush"),
        ("join_role", ""),
    ];
    let page = send(&owner, &page, "/sign-on/provider", &fill).await;
    assert!(page.status == 200 && page.body.contains(&own.issuer), "{}", page.body);
    assert!(!page.body.contains("hush-hush") && !page.body.contains(CANARY));
    let too_soon = send(&owner, &page, "/sign-on/require", &[]).await;
    assert!(
        too_soon.status == 409 && too_soon.body.contains("You have not just signed in"),
        "{}",
        too_soon.body
    );

    // The link on the page leads through the provider and back here.
    let link = page
        .body
        .split("<a href=\"")
        .find(|rest| rest.contains("/connect?"))
        .and_then(|rest| rest.split('"').next());
    let connect = owner.open(&link.unwrap().replace("&#38;", "&").replace("&amp;", "&")).await;
    let page = send(&owner, &connect, "/sign-in/sso/acme/connect", &[]).await;
    assert_eq!((page.status, page.url.as_str()), (200, SIGN_ON), "{}", page.body);
    let page = send(&owner, &page, "/sign-on/require", &[]).await;
    assert!(page.status == 200 && page.body.contains(">required<"), "{}", page.body);
    let page = send(&owner, &page, "/sign-on/require", &[]).await;
    assert!(page.status == 200 && !page.body.contains(">required<"), "{}", page.body);

    // An admin sees it all, and changes domains only.
    let admin = office.inside("grace", Role::Admin).await;
    let seen = admin.open(SIGN_ON).await;
    assert!(
        seen.body.contains(&own.issuer) && !seen.body.contains("name=\"client_secret\""),
        "{}",
        seen.body
    );
    let forms = seen.forms();
    let form = form(&forms, "/sign-on/domains", None);
    for path in ["/sign-on/provider", "/sign-on/provider/remove", "/sign-on/require"] {
        let forged = Form { action: form.action.join(path).unwrap(), fields: form.fields.clone() };
        let refused = admin.submit_once(&seen, &forged, &[("required", "no")]).await;
        assert_eq!(refused.status, 403, "{path}");
    }
    let page = send(&owner, &owner.open(SIGN_ON).await, "/sign-on/provider/remove", &[]).await;
    assert!(page.url.path() == "/sign-in" || page.status == 200, "{} {}", page.url, page.body);
}
