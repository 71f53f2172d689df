//! The pages beside the journey: while something is under way, when something is wrong, at the edges.

use freehold::identity::settings::Settings;
use freehold::kernel::Role;
use freehold::product::Current;
use freehold::testkit::{AppOptions, WorldOptions};

use super::fixture::{BASE, Place, enter};
use crate::identity::fixture::{identity, seat};
use crate::oidc::fixture::account_of;

/// A site where nobody makes what people ask for, until the test does.
fn idle() -> AppOptions<'static> {
    let options = AppOptions::of::<Current>();
    AppOptions { worker: false, world: WorldOptions { slots: 0, ..options.world }, ..options }
}

/// A workspace that takes a while: the page follows its run (server-sent events) and leads there when it is ready.
///
/// Shown to fail: `connect-src 'none'` in the pages' policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_followed_to_the_workspace() {
    let place = Place::with(idle()).await;
    let ada = place.signed_in("ada").await;
    ada.see("You are not in any workspace yet").await;
    ada.picture("home-empty").await;
    ada.click("Create your first workspace").await;
    ada.fill("Name", "Slow & Steady").await;
    ada.see("This address is free.").await;
    ada.click("Create workspace").await;
    ada.see("Creating Slow & Steady").await;
    ada.picture("progress").await;
    let run = place.app.world.show("slow-steady").await.tenant.run.expect("a run");
    place.app.world.finish(run).await;
    ada.arrive("http://slow-steady.localhost/projects").await;
    ada.assert_quiet();

    // The same name again: what was typed stays, with what is wrong about it.
    ada.open(&format!("{BASE}/new")).await;
    ada.fill("Name", "Other").await;
    ada.fill("Address", "slow-steady").await;
    ada.see("This address is taken.").await;
    ada.click("Create workspace").await;
    ada.see("Another workspace has this address already.").await;
    ada.picture("new-taken").await;
    ada.open(BASE).await;
    ada.see("slow-steady.localhost").await;
    ada.picture("home").await;
    place.chromium.close().await;
}

/// A terminal is let in; the account lists it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_let_in_and_listed() {
    let place = Place::with(idle()).await;
    let ada = place.signed_in("ada").await;
    let started = identity(&place.app.world).device_start("freehold on ada's laptop").await.unwrap();
    ada.open(&format!("{BASE}/device")).await;
    ada.see("Enter the code").await;
    ada.picture("device").await;
    ada.fill("Code", &started.user_code).await;
    ada.click("Continue").await;
    ada.see("Sign in this device?").await;
    ada.picture("device-ask").await;
    ada.click("Yes, sign it in").await;
    ada.see("The device is signed in").await;
    ada.picture("device-done").await;
    ada.click("devices").await;
    ada.see("Where you are signed in").await;
    ada.picture("account").await;
    ada.fill("Name", "Ada, Countess of Lovelace").await;
    ada.click("Save").await;
    ada.see("Ada, Countess of Lovelace").await;
    ada.click("Workspaces").await;
    ada.see("You are not in any workspace yet").await;
    ada.assert_quiet();
    place.chromium.close().await;
}

/// What is refused is a page too, and says what to do; nothing of development is there; the keyboard gets everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_edges_are_pages_too() {
    let place = Place::with(idle()).await;
    let world = &place.app.world;
    let acme = world.tenant("acme").await;
    let grace = place.signed_in("grace").await;
    grace.open(&format!("{BASE}/invitations/inv_06fqv3k1s9t4m7b2n8c5v0r6e4?secret=x")).await;
    grace.see("Back to the start").await;
    grace.picture("failure").await;
    grace.open(&format!("{BASE}/go/acme")).await;
    grace.see("not one of yours").await;
    // Shown to fail: the mailbox's route among those of `pages::routes`.
    grace.open(&format!("{BASE}/dev/mail")).await;
    grace.see("There is nothing here.").await;
    grace.picture("not-found").await;
    let refused = grace.complaints();
    assert!(refused.iter().all(|what| what.contains("with a status of 4")), "{refused:?}");

    let account = account_of(&place.app, &place.issuer(), "grace").await.expect("her account");
    seat(world, &acme, account, Role::Viewer).await;
    enter(&grace, "acme").await;
    grace.see("A manager can add the first one.").await;
    grace.picture("projects-viewer").await;

    grace.open(BASE).await;
    grace.see("Your workspaces").await;
    grace.press("Tab").await;
    assert_eq!(grace.focus().await, "Skip to content");
    grace.picture("skip-link").await;
    grace.press("Enter").await;
    grace.press("Tab").await;
    assert_eq!(grace.focus().await, "New workspace", "the first thing in the page itself");
    grace.assert_quiet();
    place.chromium.close().await;
}

/// Every page that the navigation leads to, for an owner, found by itself: a new one is looked at too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_of_the_navigation_is_fit_to_be_seen() {
    let place = Place::with(idle()).await;
    let world = &place.app.world;
    let acme = world.tenant("acme").await;
    let ada = place.signed_in("ada").await;
    let account = account_of(&place.app, &place.issuer(), "ada").await.expect("her account");
    seat(world, &acme, account, Role::Owner).await;
    enter(&ada, "acme").await;
    let mut pages = ada.links(".bar").await;
    ada.open(BASE).await;
    ada.see("Your workspaces").await;
    pages.extend(ada.links(".bar").await);
    assert!(pages.len() >= 6, "{pages:?}");
    for page in pages {
        ada.open(&page).await;
        ada.arrive(&page).await;
        let name = page.trim_start_matches("http://").trim_end_matches('/').replace("localhost/", "");
        ada.picture(&format!("nav-{}", name.replace(['/', '.'], "-"))).await;
        ada.assert_quiet();
    }
    place.chromium.close().await;
}

/// A site without any way in says so.
#[tokio::test]
async fn a_site_without_providers_says_so() {
    let app = freehold::testkit::TestApp::start::<Current>(AppOptions {
        identity: Settings { sign_up: false, ..Settings::default() },
        ..idle()
    })
    .await;
    let browser = freehold::testkit::Browser::new(&app);
    let page = browser.open(&format!("{BASE}/sign-in")).await;
    assert!(page.body.contains("No way to sign in has been set up here"), "{}", page.body);
    assert!(page.body.contains("OpsFlow"), "the product's name: {}", page.body);
    let landing = browser.open(BASE).await;
    assert!(!landing.body.contains("/signup"), "{}", landing.body);
}
