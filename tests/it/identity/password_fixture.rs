//! A site where an address and a password are a way in, and people in front of it.

use freehold::identity::Identity;
use freehold::identity::account_letters::{AccountLetter, JOB, account_letter_write};
use freehold::identity::letters::Mail;
use freehold::identity::oidc::settings::ProviderSettings;
use freehold::identity::settings::{PasswordSettings, Settings};
use freehold::identity::sign_in::Providers;
use freehold::product::Current;
use freehold::testkit::{AppOptions, Browser, Page, TestApp, World};
use serde_json::Value;

pub const BASE: &str = "http://localhost";
pub const PASSWORD: &str = "correct horse battery";

pub fn settings() -> Settings {
    Settings {
        password: PasswordSettings { enabled: true, ..PasswordSettings::default() },
        ..Settings::default()
    }
}

/// A site with passwords and these providers. No worker: letters wait until a test takes them.
pub async fn site(providers: Vec<ProviderSettings>) -> TestApp {
    let identity = Settings { providers, ..settings() };
    TestApp::start::<Current>(AppOptions { identity, worker: false, ..AppOptions::of::<Current>() }).await
}

/// The services, as a server of such a site has them.
pub fn services(world: &World) -> Identity {
    with(world, settings())
}

pub fn with(world: &World, settings: Settings) -> Identity {
    Identity::new(&world.hands.cp, &world.hands.master, Providers::default(), settings)
}

/// The letters that wait, as a worker would write them; then they wait no more. None for those that have nobody to go to.
pub async fn letters(world: &World) -> Vec<Option<Mail>> {
    let waiting: Vec<Value> = sqlx::query_scalar(
        "WITH taken AS (DELETE FROM job WHERE kind = $1 RETURNING id, payload)
         SELECT payload FROM taken ORDER BY id",
    )
    .bind(JOB)
    .fetch_all(world.db())
    .await
    .unwrap();
    let mut mails = Vec::new();
    for payload in waiting {
        let letter: AccountLetter = serde_json::from_value(payload).unwrap();
        mails.push(account_letter_write(&services(world), &letter).await.unwrap());
    }
    mails
}

/// The one letter that waits.
pub async fn letter(world: &World) -> Mail {
    let mut all = letters(world).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).expect("somebody to write to")
}

/// The address in a letter.
pub fn link_in(mail: &Mail) -> String {
    let at = mail.text.find("http://").unwrap_or_else(|| panic!("no link: {}", mail.text));
    mail.text[at..].split_whitespace().next().unwrap().to_owned()
}

/// Fills in the form of a page that is sent to this path.
pub async fn fill(browser: &Browser, page: &Page, path: &str, fields: &[(&str, &str)]) -> Page {
    let forms = page.forms();
    let form = forms.iter().find(|form| form.action.path().starts_with(path));
    let form = form.unwrap_or_else(|| panic!("no form for {path}: {} {}", page.status, page.body));
    browser.submit(page, form, fields).await
}

/// Asks for a link.
pub async fn ask(browser: &Browser, path: &str, email: &str) -> Page {
    let page = browser.open(&format!("{BASE}{path}")).await;
    fill(browser, &page, path, &[("email", email)]).await
}

/// Chooses a password with a link.
pub async fn choose(browser: &Browser, link: &str, password: &str) -> Page {
    let page = browser.open(link).await;
    fill(browser, &page, "/sign-in/password/links", &[("name", "Ada Byron"), ("password", password)]).await
}

/// Makes an account; the browser is signed in afterwards.
pub async fn sign_up(app: &TestApp, email: &str) -> Browser {
    let browser = Browser::new(app);
    ask(&browser, "/sign-in/password/new", email).await;
    let link = link_in(&letter(&app.world).await);
    let page = choose(&browser, &link, PASSWORD).await;
    assert_eq!((page.status, page.url.path()), (200, "/"), "{}", page.body);
    browser
}

/// Signs in with a password.
pub async fn sign_in(browser: &Browser, email: &str, password: &str) -> Page {
    let page = browser.open(&format!("{BASE}/sign-in?return_to=/account")).await;
    fill(browser, &page, "/sign-in/password", &[("email", email), ("password", password)]).await
}

/// A count of the control database.
pub async fn count(world: &World, what: &'static str) -> i64 {
    sqlx::query_scalar(what).fetch_one(world.db()).await.unwrap()
}
