//! A site with providers, and people in front of it.

use std::io::Write;
use std::sync::Arc;

use freehold::control_plane::tenants::TenantDetail;
use freehold::data_plane::tenancy::cookie::{SESSION_COOKIE, csrf_proof};
use freehold::identity::oidc::settings::ProviderSettings;
use freehold::identity::settings::Settings;
use freehold::kernel::ids::AccountId;
use freehold::kernel::{Clock, Role};
use freehold::product::Current;
use freehold::testkit::rogue_idp::{CANARY, Orders};
use freehold::testkit::{AppOptions, Browser, Page, RogueIdp, TestApp};
use parking_lot::Mutex;
use reqwest::{Method, Url};
use serde_json::json;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;

use crate::identity::fixture::seat;

pub const BASE: &str = "http://localhost";
pub const START: &str = "http://localhost/sign-in/rogue?return_to=/done";

/// A site with these providers.
pub async fn site(providers: Vec<ProviderSettings>) -> TestApp {
    let identity = Settings { providers, ..Settings::default() };
    TestApp::start::<Current>(AppOptions { identity, worker: false, ..AppOptions::of::<Current>() }).await
}

/// A site with one provider, `rogue`.
pub async fn with_rogue() -> (TestApp, RogueIdp) {
    let rogue = RogueIdp::start(Clock::System).await;
    let app = site(vec![rogue.settings("rogue")]).await;
    (app, rogue)
}

pub async fn count(app: &TestApp, table: &'static str) -> i64 {
    let statement = match table {
        "account" => "SELECT count(*) FROM account",
        "account_identity" => "SELECT count(*) FROM account_identity",
        "session" => "SELECT count(*) FROM session",
        "audit" => "SELECT count(*) FROM audit",
        other => panic!("{other}"),
    };
    sqlx::query_scalar(statement).fetch_one(app.world.db()).await.unwrap()
}

/// The account that a subject leads to.
pub async fn account_of(app: &TestApp, issuer: &str, subject: &str) -> Option<AccountId> {
    sqlx::query_scalar("SELECT account FROM account_identity WHERE issuer = $1 AND subject = $2")
        .bind(issuer)
        .bind(subject)
        .fetch_optional(app.world.db())
        .await
        .unwrap()
}

/// The account of the browser's session at the sign-in host, if it is live.
pub async fn account_in(app: &TestApp, browser: &Browser) -> Option<AccountId> {
    let token = browser.cookie("localhost", SESSION_COOKIE)?;
    sqlx::query_scalar("SELECT account FROM session WHERE token_hash = $1 AND revoked_at IS NULL")
        .bind(&freehold::kernel::credentials::hash(&token)[..])
        .fetch_optional(app.world.db())
        .await
        .unwrap()
}

/// A new browser, signed in through the rogue as this subject.
pub async fn signed_in(app: &TestApp, rogue: &RogueIdp, id: &str, subject: &str) -> Browser {
    let browser = Browser::new(app);
    sign_in_again(&browser, rogue, id, subject).await;
    browser
}

pub async fn sign_in_again(browser: &Browser, rogue: &RogueIdp, id: &str, subject: &str) {
    let (clock, claims) = (rogue.orders.lock().clock, freehold::testkit::rogue_idp::person(subject));
    rogue.order(Orders { claims, clock, ..Orders::default() });
    let page = browser.open(&format!("{BASE}/sign-in/{id}?return_to=/done")).await;
    assert_eq!(page.url.as_str(), "http://localhost/done", "{} {}", page.status, page.body);
}

/// A seat for a subject of the rogue's.
pub async fn seat_for(
    app: &TestApp,
    rogue: &RogueIdp,
    subject: &str,
    tenant: &TenantDetail,
    role: Role,
) -> AccountId {
    let account = account_of(app, &rogue.issuer, subject).await.expect("an account");
    seat(&app.world, tenant, account, role).await;
    account
}

/// A form of ours at the sign-in host, as its page would send it; not followed.
pub async fn post(browser: &Browser, path: &str, fields: &[(&str, &str)]) -> Page {
    let proof = csrf_proof(&browser.cookie("localhost", SESSION_COOKIE).unwrap_or_default());
    let mut fields = fields.to_vec();
    fields.push(("csrf", &proof));
    let url = Url::parse(BASE).unwrap().join(path).unwrap();
    browser.ask(Method::POST, &url, Some(BASE), Some(&fields)).await
}

/// The callback address of a sign-in that was begun in this browser and is back from the provider, not opened.
pub async fn callback_of(browser: &Browser, start: &str) -> Url {
    let page = browser.ask(Method::GET, &start.parse().unwrap(), None, None).await;
    let back = browser.follow(page, |url| url.host_str() != Some("localhost")).await;
    back.leads_to().unwrap_or_else(|| panic!("the provider sends nobody back: {} {}", back.status, back.body))
}

pub fn parameter(url: &Url, name: &str) -> String {
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.unwrap_or_else(|| panic!("no {name} in {url}")).1.into_owned()
}

/// The address with one parameter replaced, or taken away.
pub fn with_parameter(url: &Url, name: &str, value: Option<&str>) -> Url {
    let mut pairs: Vec<(String, String)> =
        url.query_pairs().into_owned().filter(|(key, _)| key != name).collect();
    pairs.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    let mut url = url.clone();
    url.query_pairs_mut().clear().extend_pairs(pairs);
    url
}

/// A page that says no, in our words, and lets nobody in.
pub fn assert_refused(what: &str, browser: &Browser, page: &Page, status: u16) {
    let kind = page.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    assert_eq!(page.status, status, "{what}: {}", page.body);
    assert!(kind.starts_with("text/html"), "{what}: {kind}");
    assert!(!page.body.contains(CANARY), "{what}: {}", page.body);
    assert!(page.headers["cache-control"].to_str().unwrap().contains("no-store"), "{what}");
    assert_eq!(browser.cookie("localhost", SESSION_COOKIE), None, "{what}");
}

/// What is logged on this thread, from now until it is dropped.
pub struct Logs {
    lines: Lines,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logs {
    pub fn capture() -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::registry()
            .with(Targets::new().with_target("freehold", LevelFilter::TRACE).with_default(LevelFilter::INFO))
            .with(tracing_subscriber::fmt::layer().json().with_writer(move || writer.clone()));
        Self { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.lines.0.lock().clone()).unwrap()
    }
}

/// Claims in place of the good ones.
pub fn claims(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    let mut all = freehold::testkit::rogue_idp::person("ada");
    for (key, value) in value.as_object().unwrap() {
        all.insert(key.clone(), value.clone());
    }
    all.retain(|_, value| *value != json!("<missing>"));
    all
}
