//! A site with a provider, and a browser in front of it.

use std::time::Duration;

use freehold::product::Current;
use freehold::testkit::chromium::{Chromium, Tab};
use freehold::testkit::{AppOptions, Idp, TestApp, eventually};

pub const BASE: &str = "http://localhost";

pub struct Place {
    pub app: TestApp,
    pub chromium: Chromium,
    idp: Idp,
}

impl Place {
    pub async fn with(mut options: AppOptions<'_>) -> Self {
        let idp = Idp::start("local").await;
        options.identity.providers.push(idp.settings());
        let app = TestApp::start::<Current>(options).await;
        let chromium = Chromium::start(Some(app.replicas[0].addr)).await;
        Self { app, chromium, idp }
    }

    /// The provider's.
    pub fn issuer(&self) -> String {
        self.idp.issuer.clone()
    }

    /// A person in front of the sign-in page, signed in.
    pub async fn signed_in(&self, who: &str) -> Tab {
        let tab = self.chromium.person().await;
        tab.open(&format!("{BASE}/sign-in")).await;
        tab.click("Continue with Provider local").await;
        say_who(&tab, who).await;
        tab.arrive(&format!("{BASE}/")).await;
        tab
    }
}

/// To a workspace where the person was given a seat a moment ago: every server knows within a second.
pub async fn enter(tab: &Tab, slug: &str) {
    eventually(Duration::from_secs(20), &format!("{slug} lets them in"), async || {
        tab.open(&format!("{BASE}/go/{slug}")).await;
        tab.see("runs on Freehold").await;
        match tab.url().await {
            url if url.starts_with(&format!("http://{slug}.localhost/")) => Ok(()),
            url => Err(url),
        }
    })
    .await;
    tab.complaints();
}

/// At the provider's page.
pub async fn say_who(tab: &Tab, who: &str) {
    tab.see("Who are you this time?").await;
    tab.fill("Any e-mail address", who).await;
    tab.click("Continue").await;
}
