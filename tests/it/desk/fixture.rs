//! A site with a way in for operators, apart from its customers'.

use freehold::identity::operators::{NewOperator, Operator, OperatorRole, operator_add};
use freehold::identity::settings::Settings;
use freehold::kernel::Clock;
use freehold::product::Current;
use freehold::testkit::rogue_idp::{Orders, person};
use freehold::testkit::{AppOptions, Browser, Page, RogueIdp, TestApp, tester};
use reqwest::Method;

pub const DESK: &str = "http://localhost/operator";

/// A site whose customers sign in by `rogue` and whose operators by `corp`, which is the same provider.
pub async fn site() -> (TestApp, RogueIdp) {
    let rogue = RogueIdp::start(Clock::System).await;
    let identity = Settings {
        providers: vec![rogue.settings("rogue")],
        operator_providers: vec![rogue.settings("corp")],
        ..Settings::default()
    };
    let options = AppOptions { identity, worker: false, ..AppOptions::of::<Current>() };
    (TestApp::start::<Current>(options).await, rogue)
}

pub async fn hire(app: &TestApp, name: &str, role: OperatorRole) -> Operator {
    let new = NewOperator { email: format!("{name}@example.com"), name: name.to_owned(), role };
    operator_add(&app.world.hands.cp, &tester(), &new).await.unwrap()
}

/// Signs this browser in at the operators' door, as whom the provider takes for `subject`.
pub async fn arrive(browser: &Browser, rogue: &RogueIdp, subject: &str) -> Page {
    rogue.order(Orders { claims: person(subject), ..Orders::default() });
    browser.open(&format!("{DESK}/sign-in/corp?return_to=/operator")).await
}

/// An operator who is signed in.
pub async fn on_duty(app: &TestApp, rogue: &RogueIdp, name: &str, role: OperatorRole) -> Browser {
    hire(app, name, role).await;
    let browser = Browser::new(app);
    let page = arrive(&browser, rogue, name).await;
    assert_eq!((page.status, page.url.path()), (200, "/operator"), "{}", page.body);
    browser
}

/// A page, not followed.
pub async fn get(browser: &Browser, url: &str) -> Page {
    browser.ask(Method::GET, &url.parse().unwrap(), None, None).await
}
