//! A provider that a workspace names is asked on the open internet only.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use freehold::identity::oidc::web::Web;
use serde_json::Value;
use tokio::net::TcpListener;

/// A door of our own network, and how often somebody knocked.
async fn door() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, knocks) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = knocks.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, knocks)
}

/// Shown to fail: without `dns_resolver` a name that leads here is asked; without `public::may_be_asked` an address is.
#[tokio::test]
async fn nothing_of_our_own_network_is_asked_for_a_workspace() {
    let (port, knocks) = door().await;
    let web = Web::for_strangers(false);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        // Names, as the system knows them.
        "localhost",
        "LOCALHOST",
        "localhost.",
    ] {
        let url = format!("https://{host}:{port}/.well-known/openid-configuration");
        assert!(web.get_json::<Value>(&url, None).await.is_err(), "{host}");
        assert_eq!(knocks.load(Ordering::SeqCst), 0, "{host}");
    }
    // The same door, asked by who may: this test would see a knock.
    for (at, host) in ["127.0.0.1", "localhost"].into_iter().enumerate() {
        let url = format!("https://{host}:{port}/");
        assert!(Web::new(false).get_json::<Value>(&url, None).await.is_err(), "no TLS there");
        assert!(knocks.load(Ordering::SeqCst) > at, "{host}");
    }
}
