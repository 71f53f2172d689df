//! A workspace's own provider: a way in for its people, and for nobody anywhere else.

use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::identity::domains::{Joinable, joinable};
use freehold::identity::members::By;
use freehold::identity::sso::{NewSso, sso_connect, sso_method};
use freehold::kernel::ids::{AccountId, TenantId};
use freehold::kernel::{Clock, Role};
use freehold::testkit::rogue_idp::{Forgery, Orders};
use freehold::testkit::{Browser, Idp, Page, RogueIdp, TestApp, tester};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use super::fixture::{
    BASE, account_in, account_of, assert_refused, callback_of, claims, count, parameter, post, seat_for,
    signed_in, site,
};
use crate::identity::fixture::{Browser as Door, enter, identity, person, seat, sign_in};
use crate::identity::refresh::form;

/// Gives a workspace this provider.
pub async fn provide(app: &TestApp, tenant: TenantId, issuer: &str, secret: &str, join_role: Option<Role>) {
    let new = NewSso {
        issuer: issuer.to_owned(),
        client_id: "freehold".to_owned(),
        client_secret: secret.to_owned().into(),
        join_role,
    };
    let by = By { account: None, role: Role::Owner };
    sso_connect(&identity(&app.world), &tester(), by, tenant, &new).await.unwrap();
}

/// A domain that a workspace has proven.
pub async fn prove(app: &TestApp, tenant: TenantId, domain: &str, join_role: Option<Role>) {
    sqlx::query("INSERT INTO email_domain VALUES ($1, $2, 'x', now(), now(), $3)")
        .bind(tenant)
        .bind(domain)
        .bind(join_role)
        .execute(app.world.db())
        .await
        .unwrap();
}

/// How the browser's session at a host was begun.
pub async fn method_in(app: &TestApp, browser: &Browser, host: &str) -> String {
    let token = browser.cookie(host, SESSION_COOKIE).expect("a session");
    sqlx::query_scalar("SELECT method FROM session WHERE token_hash = $1 AND revoked_at IS NULL")
        .bind(&freehold::kernel::credentials::hash(&token)[..])
        .fetch_one(app.world.db())
        .await
        .unwrap()
}

pub fn at(path: &str) -> String {
    format!("{BASE}{path}")
}

async fn own_account(app: &TestApp, tenant: TenantId, subject: &str) -> Option<AccountId> {
    sqlx::query_scalar("SELECT account FROM account_identity WHERE tenant = $1 AND subject = $2")
        .bind(tenant)
        .bind(subject)
        .fetch_optional(app.world.db())
        .await
        .unwrap()
}

/// Set up by its owner over the API, tried by its people at a real, certified provider: by the workspace's address, and by
/// a mail address of its proven domain.
///
/// Shown to fail: `join_role` not asked in `sso_seat`; the tenant taken out of `callback_url`.
#[tokio::test]
async fn people_come_by_their_companys_provider() {
    let app = site(Vec::new()).await;
    let acme = app.world.tenant("acme").await;
    let tenant = acme.tenant.id;
    let idp = Idp::start(&format!("sso/{tenant}")).await;
    let settings = idp.settings();
    let secret = secrecy::ExposeSecret::expose_secret(&settings.client_secret.read().unwrap()).to_owned();
    let boss = person(&app.world, "boss").await;
    seat(&app.world, &acme, boss, Role::Owner).await;
    let owner = enter(&app.world, sign_in(&app.world, boss).await.id, &acme).await;
    let ask = async |method: Method, body: Option<Value>| {
        let request = owner.ask(&app, method, "/api/v1/sso");
        app.send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    };
    let (status, before) = ask(Method::GET, None).await;
    assert_eq!((status, &before["provider"]), (200, &Value::Null), "{before}");
    assert_eq!(before["redirect_uri"], format!("http://localhost/sign-in/sso/{tenant}/callback"));
    let unknown = Browser::new(&app).open(&at("/sign-in/sso/acme")).await;
    assert_eq!(unknown.status, 404, "none is set up");

    // What is no provider is not taken for one.
    for (issuer, field) in [
        (format!("{}/elsewhere", idp.issuer), "issuer"),
        (format!("{}/", idp.issuer), "issuer"),
        ("http://id.example.com".to_owned(), "issuer"),
        (String::new(), "issuer"),
    ] {
        let body = json!({ "issuer": issuer, "client_id": "freehold", "client_secret": secret });
        let (status, body) = ask(Method::PUT, Some(body)).await;
        assert_eq!((status, &body["errors"][0]["field"]), (422, &field.into()), "{issuer}: {body}");
    }
    let body = json!({ "issuer": idp.issuer, "client_id": "freehold", "client_secret": secret, "join_role": "member" });
    let (status, set) = ask(Method::PUT, Some(body)).await;
    assert_eq!((status, &set["provider"]["issuer"]), (200, &idp.issuer.as_str().into()), "{set}");
    let everything: String = sqlx::query_scalar(
        "SELECT (SELECT string_agg(to_jsonb(s)::text, '') FROM tenant_sso s)
             || (SELECT string_agg(to_jsonb(a)::text, '') FROM audit a)",
    )
    .fetch_one(app.world.db())
    .await
    .unwrap();
    let shown = ask(Method::GET, None).await.1.to_string() + &set.to_string() + &everything;
    assert!(!shown.contains(&secret), "the secret is shown, or kept in the open");

    let ada = Browser::new(&app);
    let page = idp.sign_in(&ada, &at("/sign-in/sso/acme"), "ada").await;
    assert_eq!(
        (page.status, page.url.host_str()),
        (200, Some("acme.localhost")),
        "{} {}",
        page.url,
        page.body
    );
    assert_eq!(method_in(&app, &ada, "localhost").await, sso_method(tenant));
    assert_eq!(method_in(&app, &ada, "acme.localhost").await, sso_method(tenant));
    let account = own_account(&app, tenant, "ada").await.unwrap();
    let (role, verified): (Role, bool) = sqlx::query_as(
        "SELECT m.role, a.email_verified FROM membership m JOIN account a ON a.id = m.account WHERE m.account = $1",
    )
    .bind(account)
    .fetch_one(app.world.db())
    .await
    .unwrap();
    assert_eq!((role, verified), (Role::Member, false), "her address is in no domain that is proven");

    // By mail address, once the domain is proven. The address counts then.
    let find = |at: &str| {
        let url = Url::parse_with_params("http://localhost/sign-in/sso", [("at", at), ("return_to", "/")]);
        url.unwrap().to_string()
    };
    for unknown in ["grace@example.com", "nobody-has-this", "", "@", "a@b@example.com"] {
        assert_eq!(Browser::new(&app).open(&find(unknown)).await.status, 404, "{unknown}");
    }
    prove(&app, tenant, "example.com", None).await;
    for (name, login) in
        [("Grace@Example.com", "grace"), ("ACME", "grace"), ("https://acme.localhost/x", "ada")]
    {
        let browser = Browser::new(&app);
        let found = browser.ask(Method::GET, &find(name).parse().unwrap(), None, None).await;
        let begun = browser.follow(found, |url| url.host_str() == Some("localhost")).await;
        let back = idp.through(&browser, begun, login).await;
        let page = browser.follow(back, |_| true).await;
        assert_eq!((page.status, page.url.host_str()), (200, Some("acme.localhost")), "{name}: {}", page.url);
    }
    let addresses: Vec<(String, bool)> =
        sqlx::query_as("SELECT email, email_verified FROM account WHERE id <> $1 ORDER BY email")
            .bind(boss)
            .fetch_all(app.world.db())
            .await
            .unwrap();
    assert_eq!(addresses, [("ada@example.com".to_owned(), true), ("grace@example.com".to_owned(), true)]);
    let lines: i64 =
        sqlx::query_scalar("SELECT count(*) FROM audit WHERE action = 'session.start' AND tenant = $1")
            .bind(tenant)
            .fetch_one(app.world.db())
            .await
            .unwrap();
    assert_eq!(lines, 4, "one line for each sign-in, in the workspace's own log");

    // Taken away: all that it began has ended.
    assert_eq!(ask(Method::DELETE, None).await.0, 204);
    let live: i64 =
        sqlx::query_scalar("SELECT count(*) FROM session WHERE method LIKE 'sso:%' AND revoked_at IS NULL")
            .fetch_one(app.world.db())
            .await
            .unwrap();
    assert_eq!(live, 0);
    assert_eq!(Browser::new(&app).open(&at("/sign-in/sso/acme")).await.status, 404);
}

/// Who has no seat and none offered is no account; who is invited comes in and accepts, there and nowhere else.
///
/// Shown to fail: `sso_seat` returning `Ok` at once.
#[tokio::test]
async fn a_stranger_from_the_provider_stays_outside() {
    let own = RogueIdp::start(Clock::System).await;
    let app = site(Vec::new()).await;
    let acme = app.world.tenant("acme").await;
    provide(&app, acme.tenant.id, &own.issuer, "secret", None).await;
    let page = Browser::new(&app).open(&at("/sign-in/sso/acme")).await;
    assert_eq!(page.status, 403, "{}", page.body);
    assert!(page.body.contains("no seat"), "{}", page.body);
    assert_eq!((count(&app, "account").await, count(&app, "session").await), (0, 0));
}

/// A workspace with a provider that says whatever its owner likes, and a person with a seat there and elsewhere.
struct Plot {
    app: TestApp,
    /// What people use.
    rogue: RogueIdp,
    /// What the hostile workspace runs.
    hostile: RogueIdp,
    evil: TenantId,
    ada: AccountId,
}

async fn plot() -> Plot {
    let (rogue, hostile) = (RogueIdp::start(Clock::System).await, RogueIdp::start(Clock::System).await);
    let app = site(vec![rogue.settings("rogue")]).await;
    let (evil, globex) = (app.world.tenant("evil").await, app.world.tenant("globex").await);
    signed_in(&app, &rogue, "rogue", "ada").await;
    let ada = seat_for(&app, &rogue, "ada", &globex, Role::Owner).await;
    seat(&app.world, &evil, ada, Role::Viewer).await;
    // Globex is open to its own people.
    prove(&app, globex.tenant.id, "example.com", Some(Role::Member)).await;
    Plot { app, rogue, hostile, evil: evil.tenant.id, ada }
}

/// Nothing of anybody's account, and of no workspace but `evil`, is reached from this browser.
async fn reaches_its_own_only(plot: &Plot, browser: &Browser, what: &str) {
    let app = &plot.app;
    assert_eq!(method_in(app, browser, "localhost").await, sso_method(plot.evil), "{what}");
    let home = browser.open(&at("/")).await;
    assert!(home.status == 200 && !home.body.contains("globex"), "{what}: {}", home.body);
    for path in ["/account", "/new", "/go/globex", "/new/slug?slug=abc"] {
        let page = browser.open(&at(path)).await;
        assert!([403, 404].contains(&page.status), "{what}: {path}: {} {}", page.status, page.url);
        assert_eq!(page.url.host_str(), Some("localhost"), "{what}: {path}");
    }
    for (path, fields) in [
        ("/account/name", vec![("name", "Mallory")]),
        ("/account/links", vec![("provider", "rogue")]),
        ("/account/confirm", vec![("provider", "rogue")]),
        ("/account/links/remove", vec![("issuer", plot.rogue.issuer.as_str()), ("subject", "ada")]),
        ("/account/sessions/revoke-others", vec![]),
        ("/join", vec![("tenant", "x")]),
        ("/sign-in/sso/evil/connect", vec![]),
        ("/new", vec![("name", "x"), ("slug", "x-y-z"), ("plan", "free"), ("token", "t")]),
    ] {
        assert_eq!(post(browser, path, &fields).await.status, 403, "{what}: {path}");
    }
    assert_eq!(browser.cookie("globex.localhost", SESSION_COOKIE), None, "{what}");
    // A terminal that is let in from here enters what this browser enters.
    let client = ("client_id", "freehold-cli");
    let (_, device) = form(app, 0, "/oauth/device", &[client, ("client_name", "x")]).await;
    let said = [("user_code", device["user_code"].as_str().unwrap()), ("answer", "yes")];
    assert_eq!(post(browser, "/device", &said).await.status, 200, "{what}");
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let code = device["device_code"].as_str().unwrap();
    let (status, granted) =
        form(app, 0, "/oauth/token", &[client, ("grant_type", grant), ("device_code", code)]).await;
    assert_eq!(status, 200, "{what}: {granted}");
    let info = app.client.get(app.replicas[0].url("/oauth/userinfo")).header("host", "localhost");
    let (_, info) = app.send(info.bearer_auth(granted["access_token"].as_str().unwrap())).await;
    assert!(info["sub"].is_string() && !info.to_string().contains("globex"), "{what}: {info}");
    let refresh = granted["refresh_token"].as_str().unwrap();
    let again = [client, ("grant_type", "refresh_token"), ("refresh_token", refresh), ("tenant", "globex")];
    let (status, body) = form(app, 0, "/oauth/token", &again).await;
    assert_eq!(status, 400, "{what}: {body}");
}

/// The provider is the workspace's own, so it says what the workspace likes: somebody else's subject and address, with
/// another issuer or the very issuer that people use elsewhere. What it gets is its own workspace.
///
/// Shown to fail, each alone: `tenant` taken out of the look-ups of `account_identity` (the same issuer leads into Ada's
/// account); `within` believing every address (what is open to the address is joined); the rule on other workspaces'
/// sessions in `sso_allows` and `LiveSession::enters`; `by_own_means` letting everybody through.
#[tokio::test]
async fn a_hostile_provider_reaches_its_own_workspace_only() {
    let plot = plot().await;
    let Plot { app, rogue, hostile, evil, ada } = &plot;
    for (what, idp) in [("its own issuer", hostile), ("the issuer that people use", rogue)] {
        provide(app, *evil, &idp.issuer, "secret", Some(Role::Member)).await;
        let word = json!({ "sub": "ada", "email": "ada@example.com", "email_verified": true, "name": "Ada" });
        idp.order(Orders { claims: claims(word), ..Orders::default() });
        let browser = Browser::new(app);
        let page = browser.open(&at("/sign-in/sso/evil")).await;
        assert_eq!(
            (page.status, page.url.host_str()),
            (200, Some("evil.localhost")),
            "{what}: {}",
            page.body
        );
        let theirs = account_in(app, &browser).await.unwrap();
        assert_ne!(theirs, *ada, "{what}: another person's account");
        assert_eq!(account_of_global(app, &rogue.issuer).await, Some(*ada), "{what}");
        let verified: bool = sqlx::query_scalar("SELECT email_verified FROM account WHERE id = $1")
            .bind(theirs)
            .fetch_one(app.world.db())
            .await
            .unwrap();
        assert!(!verified, "{what}: an address in a domain that this workspace has not proven");
        let open: Vec<Joinable> =
            joinable(&mut app.world.db().acquire().await.unwrap(), theirs).await.unwrap();
        assert_eq!(open, [], "{what}");
        reaches_its_own_only(&plot, &browser, what).await;
        sqlx::query("DELETE FROM throttle").execute(app.world.db()).await.unwrap();
    }
}

async fn account_of_global(app: &TestApp, issuer: &str) -> Option<AccountId> {
    sqlx::query_scalar(
        "SELECT account FROM account_identity WHERE issuer = $1 AND subject = 'ada' AND tenant IS NULL",
    )
    .bind(issuer)
    .fetch_optional(app.world.db())
    .await
    .unwrap()
}

/// Ada connected her account with the workspace's sign-in, as its people do. The provider may now say "Ada" at any time:
/// that opens this workspace in her name, and nothing else of hers.
///
/// Shown to fail: as above; and `session_confined` giving none (her other devices are shown, and ended).
#[tokio::test]
async fn a_connected_account_is_not_the_providers() {
    let plot = plot().await;
    let Plot { app, rogue, hostile, evil, ada } = &plot;
    provide(app, *evil, &hostile.issuer, "secret", None).await;
    let hers = signed_in(app, rogue, "rogue", "ada").await;
    connect(&hers, "evil").await;
    assert_eq!(own_account(app, *evil, "ada").await, Some(*ada));

    let browser = Browser::new(app);
    let page = browser.open(&at("/sign-in/sso/evil")).await;
    assert_eq!((page.status, page.url.host_str()), (200, Some("evil.localhost")), "{}", page.body);
    assert_eq!(account_in(app, &browser).await, Some(*ada), "in her name");
    reaches_its_own_only(&plot, &browser, "connected").await;
    // Not her devices either, from within the workspace.
    let token = browser.cookie("evil.localhost", SESSION_COOKIE).unwrap();
    let door = Door { slug: "evil".to_owned(), token };
    let (_, listed) = app.send(door.ask(app, Method::GET, "/api/v1/sessions")).await;
    let methods: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|one| one["method"].as_str().unwrap()).collect();
    assert!(!methods.is_empty() && methods.iter().all(|method| *method == sso_method(*evil)), "{listed}");
    let personal: String =
        sqlx::query_scalar("SELECT id::text FROM session WHERE method = 'oidc:rogue' LIMIT 1")
            .fetch_one(app.world.db())
            .await
            .unwrap();
    let personal = freehold::kernel::ids::SessionId(personal.parse().unwrap());
    let gone = app.send(door.ask(app, Method::DELETE, &format!("/api/v1/sessions/{personal}"))).await;
    assert_eq!(gone.0, 404);
    // Nor is a session that is there by mistake let through the door of another workspace.
    let base: uuid::Uuid =
        sqlx::query_scalar("SELECT id FROM session WHERE method LIKE 'sso:%' AND kind = 'base' LIMIT 1")
            .fetch_one(app.world.db())
            .await
            .unwrap();
    let globex = app.world.show("globex").await;
    let stray = enter(&app.world, freehold::kernel::ids::SessionId(base), &globex).await;
    assert_eq!(app.send(stray.ask(app, Method::GET, "/api/v1/me")).await.0, 401, "at the door");
    let personal = "SELECT count(*) FROM session WHERE method = 'oidc:rogue' AND revoked_at IS NULL";
    let before: i64 = sqlx::query_scalar(personal).fetch_one(app.world.db()).await.unwrap();
    assert_eq!(app.send(door.ask(app, Method::POST, "/api/v1/sessions/revoke-others")).await.0, 200);
    let after: i64 = sqlx::query_scalar(personal).fetch_one(app.world.db()).await.unwrap();
    assert!(before > 0 && before == after, "{before} {after}");
}

/// Presses the button of the page that connects a seat with the workspace's sign-in, and follows.
pub async fn connect(browser: &Browser, slug: &str) -> Page {
    let page = browser.open(&at(&format!("/sign-in/sso/{slug}/connect"))).await;
    let forms = page.forms();
    let form = forms.iter().find(|form| form.action.path().ends_with("/connect"));
    let form = form.unwrap_or_else(|| panic!("no button: {} {}", page.status, page.body));
    browser.submit(&page, form, &[]).await
}

/// B1 and B3 for a workspace's provider: the same code, so the same refusals; and an answer counts for the workspace whose
/// provider was asked, in the browser that asked.
///
/// Shown to fail: `provider = $3` taken out of `Identity::returned`.
#[tokio::test]
async fn forgeries_and_mix_ups_are_refused_there_too() {
    let (own, rogue) = (RogueIdp::start(Clock::System).await, RogueIdp::start(Clock::System).await);
    let app = site(vec![rogue.settings("rogue")]).await;
    let (acme, globex) = (app.world.tenant("acme").await, app.world.tenant("globex").await);
    for tenant in [&acme, &globex] {
        provide(&app, tenant.tenant.id, &own.issuer, "secret", Some(Role::Member)).await;
    }
    for forgery in Forgery::ALL {
        own.order(Orders { forgery: Some(forgery), ..Orders::default() });
        let browser = Browser::new(&app);
        let page = browser.open(&at("/sign-in/sso/acme")).await;
        assert_refused(&format!("{forgery:?}"), &browser, &page, 400);
    }
    own.order(Orders::default());
    // One provider serves two workspaces: what was begun for one is nothing to the other, nor to another provider.
    let browser = Browser::new(&app);
    let callback = callback_of(&browser, &at("/sign-in/sso/acme")).await;
    assert_eq!(callback.path(), format!("/sign-in/sso/{}/callback", acme.tenant.id));
    for other in [format!("/sign-in/sso/{}/callback", globex.tenant.id), "/sign-in/rogue/callback".to_owned()]
    {
        let mut mixed = callback.clone();
        mixed.set_path(&other);
        assert_refused(&other, &browser, &browser.open(mixed.as_str()).await, 400);
    }
    assert_refused("another browser", &browser, &Browser::new(&app).open(callback.as_str()).await, 400);
    let mut forged = callback.clone();
    forged
        .query_pairs_mut()
        .clear()
        .append_pair("state", "x")
        .append_pair("code", &parameter(&callback, "code"));
    assert_refused("no such state", &browser, &browser.open(forged.as_str()).await, 400);
    assert_eq!((count(&app, "account").await, count(&app, "session").await), (0, 0));
    let page = browser.open(callback.as_str()).await;
    assert_eq!((page.status, page.url.host_str()), (200, Some("acme.localhost")), "{}", page.body);
    assert_eq!(browser.open(callback.as_str()).await.status, 400, "used");
    assert_eq!(account_of(&app, &own.issuer, "ada").await, own_account(&app, acme.tenant.id, "ada").await);
}
