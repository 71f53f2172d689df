//! A person's account: a second factor, the pages of passwords, and leaving for good.

use data_encoding::BASE32_NOPAD;
use freehold::identity::settings::{PasswordSettings, Settings};
use freehold::product::Current;
use freehold::testkit::AppOptions;
use totp_rs::{Builder, Secret};

use super::fixture::{BASE, Place};

/// The text after some words, up to the end of its line.
fn after<'a>(text: &'a str, words: &str) -> &'a str {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text}"));
    rest.trim_start().lines().next().unwrap_or_default().trim()
}

/// Turned on with an app, asked for at the next sign-in, answered with a recovery code; then the account is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_factor_is_asked_for_and_an_account_ends() {
    let password = PasswordSettings { enabled: true, ..PasswordSettings::default() };
    let identity = Settings { password, ..Settings::default() };
    let place = Place::with(AppOptions { identity, worker: false, ..AppOptions::of::<Current>() }).await;
    let ada = place.signed_in("ada").await;
    ada.open(&format!("{BASE}/account/second-factor")).await;
    ada.see("one-time codes").await;
    ada.picture("second-factor").await;
    ada.click("Set it up").await;
    ada.see("Type this secret:").await;
    ada.picture("second-factor-begun").await;
    let secret: String = after(&ada.text().await, "Type this secret:").split_whitespace().collect();
    let secret: [u8; 20] = BASE32_NOPAD.decode(secret.as_bytes()).unwrap().try_into().unwrap();
    let now = place.app.world.hands.cp.clock.now().timestamp().try_into().unwrap();
    let code =
        Builder::new().with_secret(Secret::new_stack(secret)).build().unwrap().generate(now).to_string();
    ada.fill("Code", &code).await;
    ada.click("Turn it on").await;
    ada.see("Your recovery codes").await;
    ada.picture("recovery-codes").await;
    let recovery = after(&ada.text().await, "They are not shown again.").to_owned();
    ada.click("Done").await;
    ada.see("Where you are signed in").await;
    ada.picture("account-whole").await;
    ada.open(&format!("{BASE}/account/confirm")).await;
    ada.see("Is it you?").await;
    ada.picture("confirm").await;

    ada.click("Ada Lovelace").await;
    ada.click("Sign out").await;
    ada.see("Forgot your password?").await;
    ada.picture("sign-in-password").await;
    ada.click("Create an account").await;
    ada.see("We will first send a link").await;
    ada.picture("password-new").await;
    ada.open(&format!("{BASE}/sign-in")).await;
    // The provider knows her still in this browser; this site asks for more.
    ada.click("Continue with Provider local").await;
    ada.see("One more step").await;
    ada.picture("second-step").await;
    ada.fill("Code", &recovery).await;
    ada.click("Sign in").await;
    ada.arrive(&format!("{BASE}/")).await;

    ada.open(&format!("{BASE}/account/delete")).await;
    ada.see("Delete your account").await;
    ada.picture("delete").await;
    ada.fill("Type ada@example.com", "ada@example.com").await;
    ada.click("Delete my account").await;
    ada.gone("Delete my account").await;
    ada.picture("left").await;
    ada.open(&format!("{BASE}/account")).await;
    ada.arrive(&format!("{BASE}/sign-in")).await;
    ada.assert_quiet();
    place.chromium.close().await;
}
