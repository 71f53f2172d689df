//! Deliveries: signed, repeated until somebody takes them, twice, in another order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use freehold::billing::inbox::signature::{Good, check};
use freehold::kernel::Clock;
use freehold::testkit::eventually;
use freehold::testkit::stripe::{Manner, Shape};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::Value;

use super::Shop;

const SECRET: &str = "whsec_of-the-tests";

/// What came: signature header and body.
type Came = Arc<Mutex<Vec<(String, Bytes)>>>;

/// Takes deliveries; the first few are answered with 500.
async fn door(refuse: u32) -> (String, Came) {
    let (came, left) = (Came::default(), Arc::new(AtomicU32::new(refuse)));
    let kept = came.clone();
    let app = Router::new().route(
        "/hook",
        post(move |headers: HeaderMap, body: Bytes| async move {
            let signature = headers["stripe-signature"].to_str().unwrap().to_owned();
            kept.lock().push((signature, body));
            let refused =
                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if refused { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
        }),
    );
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, came)
}

async fn all_delivered(shop: &Shop) {
    eventually(Duration::from_secs(20), "everything is delivered", async || {
        let left = shop.stripe.deliveries().into_iter().filter(|one| !one.done).count();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn repeated_until_it_is_taken_and_signed_each_time() {
    let shop = Shop::open().await;
    let (url, came) = door(2).await;
    shop.stripe.deliver_signed(&url, Shape::Snapshot, &["whsec_old", SECRET]);
    let customer = shop.customer().await;
    all_delivered(&shop).await;
    let came = came.lock().clone();
    assert_eq!(came.len(), 3);
    assert_eq!(shop.stripe.deliveries()[0].attempts, 3);
    let secrets = [SecretString::from(SECRET.to_owned())];
    for (header, body) in &came {
        assert_eq!(check(Some(header), body, &secrets, Clock::System.now()), Ok(Good::Current));
        let event: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(
            (event["type"].as_str(), event["data"]["object"]["id"].as_str()),
            (Some("customer.created"), Some(&*customer))
        );
    }
}

#[tokio::test]
async fn twice_and_in_another_order() {
    let shop = Shop::open().await;
    let (url, came) = door(0).await;
    shop.stripe.deliver_to(&url, Shape::Snapshot, SECRET);
    shop.stripe.deliver(Manner { copies: 2, shuffle: Some(7), ..Manner::default() });
    for _ in 0..6 {
        shop.customer().await;
    }
    all_delivered(&shop).await;
    let ids: Vec<String> = came
        .lock()
        .iter()
        .map(|(_, body)| serde_json::from_slice::<Value>(body).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 12);
    let mut sorted = ids.clone();
    sorted.sort();
    assert_ne!(ids, sorted, "the order is another one");
    sorted.dedup();
    assert_eq!(sorted.len(), 6);
    shop.stripe.deliver(Manner { held: true, ..Manner::default() });
    shop.customer().await;
    let held = shop.stripe.take_held();
    assert_eq!((held.len(), held[0].kind.as_str()), (1, "customer.created"));
    assert!(held[0].signature.starts_with("t="));
}

/// A thin event travels without its data.
#[tokio::test]
async fn thin_events_go_to_their_own_door() {
    let shop = Shop::open().await;
    let (thin, came) = door(0).await;
    let (snapshot, others) = door(0).await;
    shop.stripe.deliver_to(&thin, Shape::Thin, SECRET);
    shop.stripe.deliver_to(&snapshot, Shape::Snapshot, SECRET);
    shop.meter("tasks").await;
    shop.event("cus_nobody", "1", "a").await;
    let event: Value = eventually(Duration::from_secs(10), "a thin event", async || {
        came.lock().first().map(|(_, body)| serde_json::from_slice(body).unwrap()).ok_or("none")
    })
    .await;
    assert_eq!(
        (event["object"].as_str(), event["type"].as_str()),
        (Some("v2.core.event"), Some("v1.billing.meter.error_report_triggered"))
    );
    assert!(event.get("data").is_none(), "{event}");
    all_delivered(&shop).await;
    assert!(others.lock().iter().all(|(_, body)| !String::from_utf8_lossy(body).contains("v2.core.event")));
}
