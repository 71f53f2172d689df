//! B4: after signing in a person goes to a page of ours, whatever an address says.

use freehold::kernel::Role;
use freehold::testkit::Browser;
use reqwest::Method;

use super::fixture::{BASE, post, seat_for, signed_in, with_rogue};

const EVIL: [&str; 22] = [
    "//evil.example",
    "///evil.example",
    "////evil.example/x",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "https://evil.example",
    "http:evil.example",
    "https:/evil.example",
    "http://localhost@evil.example",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,x",
    "/\t/evil.example",
    "/\n//evil.example",
    "\t//evil.example",
    " //evil.example",
    "/%09/evil.example",
    "/.//evil.example",
    "/x/..//evil.example",
    "http://globex.localhost/tasks",
    "//globex.localhost/tasks",
];

/// Each address through each door: nobody leaves the host that was meant, and the address is not repeated.
///
/// Shown to fail: `return_to::path_of` giving back what it gets.
#[tokio::test]
async fn there_is_no_open_redirect() {
    let (app, rogue) = with_rogue().await;
    let (acme, _globex) = (app.world.tenant("acme").await, app.world.tenant("globex").await);
    let insider = signed_in(&app, &rogue, "rogue", "ada").await;
    seat_for(&app, &rogue, "ada", &acme, Role::Owner).await;
    let mut tried = 0;
    for evil in EVIL {
        for encoded in [encode(evil), encode(&encode(evil))] {
            let doors = [
                (Browser::new(&app), format!("{BASE}/sign-in/rogue?return_to={encoded}"), "localhost"),
                // Without a session: by way of the sign-in page, which carries it on.
                (Browser::new(&app), format!("{BASE}/go/acme?return_to={encoded}"), "localhost"),
            ];
            for (browser, door, home) in &doors {
                check(&browser.open(door).await, home, &rogue.issuer, evil);
                tried += 1;
            }
            for door in [
                format!("{BASE}/go/acme?return_to={encoded}"),
                format!("http://acme.localhost/enter?return_to={encoded}"),
            ] {
                check(&insider.open(&door).await, "acme.localhost", &rogue.issuer, evil);
                tried += 1;
            }
        }
        // Forms that lead to the provider and back.
        let sent = post(&insider, "/account/confirm", &[("provider", "rogue"), ("return_to", evil)]).await;
        assert_eq!(sent.status, 200, "{}", sent.body);
        check(&insider.follow(sent, |_| true).await, "localhost", &rogue.issuer, evil);
        tried += 1;
    }
    assert_eq!(tried, EVIL.len() * 9);

    // The double of an address of ours does come through, whole.
    let page =
        Browser::new(&app).open(&format!("{BASE}/sign-in/rogue?return_to=%2Ftasks%3Fq%3Da%2526b")).await;
    assert_eq!(page.url.as_str(), "http://localhost/tasks?q=a%26b");
    // And nothing but the start page is offered to who names no way back.
    let page =
        Browser::new(&app).ask(Method::GET, &"http://localhost/go/acme".parse().unwrap(), None, None).await;
    assert_eq!(page.leads_to().unwrap().path(), "/sign-in");
}

fn check(page: &freehold::testkit::Page, home: &str, issuer: &str, evil: &str) {
    for url in &page.visited {
        let ours = matches!(url.host_str(), Some("localhost" | "acme.localhost"));
        assert!(ours || url.as_str().starts_with(issuer), "{evil:?} led to {url}");
    }
    assert_eq!(page.url.host_str(), Some(home), "{evil:?} ended at {}", page.url);
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
