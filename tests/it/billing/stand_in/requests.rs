//! What is asked how: keys, paths, parameters, idempotency, limits, faults.

use std::time::Duration;

use freehold::testkit::stripe::{Fault, Options, Rates};
use reqwest::Method;

use super::{DAY, Shop, code, event};

const EVENTS: &str = "/v1/billing/meter_events";

/// Shown to fail, one after the other: paths, parameters, types, what Stripe has and this does not, live keys let through.
#[tokio::test]
async fn what_is_not_stripes_is_refused() {
    let shop = Shop::open().await;
    for (path, parameters, wanted) in [
        ("/v1/billing/meter_event", &[("event_name", "x")][..], (404, "")),
        (EVENTS, &[("event_name", "x")], (400, "parameter_missing")),
        (EVENTS, &[("event_name", "x"), ("payload[value]", "1"), ("value", "1")], (400, "parameter_unknown")),
        (
            EVENTS,
            &[("event_name", "x"), ("payload[value]", "1"), ("timestamp", "now")],
            (400, "parameter_invalid_integer"),
        ),
        (
            "/v1/subscriptions",
            &[("customer", "cus_none"), ("items[0][price]", "p")],
            (400, "resource_missing"),
        ),
        ("/v1/billing/alerts", &[("title", "x")], (501, "")),
    ] {
        let said = shop.post(path, parameters).await;
        assert_eq!(code(&said), wanted, "{path} {parameters:?}: {}", said.1);
    }
    assert_eq!(shop.get("/v1/customers/cus_none", &[]).await.0, 404);
    assert_eq!(shop.stripe.refused().len(), 5, "what was no request of Stripe's is remembered");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for key in ["sk_live_abc", "rk_live_abc", "sk_test_another", ""] {
        let url = format!("{}/v1/customers", shop.stripe.base_url);
        let answer = client.get(url).bearer_auth(key).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{key}");
        // Not for being unknown: whoever sends a live key here is told that this is the wrong place.
        let said = answer.text().await.unwrap();
        assert_eq!(said.contains("it takes no live key"), key.contains("_live_"), "{key}: {said}");
    }
}

#[tokio::test]
async fn an_answer_is_kept_for_its_key_a_500_too() {
    let shop = Shop::open().await;
    let ask = async |key: &str, name: &str| {
        shop.ask(Method::POST, "/v1/customers", Some(key), &[("name", name)]).await.unwrap()
    };
    let first = ask("k1", "Ada").await;
    assert_eq!(ask("k1", "Ada").await, first, "the same customer, not another one");
    assert_eq!(shop.stripe.objects("customer").len(), 1);
    let other = ask("k1", "Bob").await;
    assert_eq!((other.0, other.1["error"]["type"].as_str()), (400, Some("idempotency_error")));
    // Done, and answered with a 500: the same key says 500 for a day, another key does it again.
    shop.stripe.faults().once("Customers.create", Fault::Error500 { done: true });
    assert_eq!(ask("k2", "Eve").await.0, 500);
    assert_eq!(ask("k2", "Eve").await.0, 500);
    assert_eq!(shop.stripe.objects("customer").len(), 2, "it was done, once");
    shop.stripe.clock_advance(DAY + Duration::from_secs(1));
    assert_eq!(ask("k2", "Eve").await.0, 200, "after a day the key is new");
    // What was refused before it began is not kept.
    assert_eq!(shop.ask(Method::POST, "/v1/customers", Some("k3"), &[("nome", "x")]).await.unwrap().0, 400);
    assert_eq!(ask("k3", "Zoe").await.0, 200);
}

#[tokio::test]
async fn a_key_in_use_and_a_lane_in_use_are_refused() {
    let shop = Shop::open().await;
    let customer = shop.customer().await;
    shop.meter("tasks").await;
    shop.stripe.faults().latency(Duration::from_millis(300));
    let asked = event(&customer, "1", "a");
    let same = |key: &'static str| shop.ask(Method::POST, EVENTS, Some(key), &asked);
    let (one, two) = tokio::join!(same("k"), same("k"));
    let mut codes = [one.unwrap(), two.unwrap()].map(|said| said.0);
    codes.sort_unstable();
    assert_eq!(codes, [200, 409]);
    let others = event(&customer, "1", "b");
    let (one, two) = tokio::join!(shop.ask(Method::POST, EVENTS, Some("l"), &others), async {
        tokio::task::yield_now().await;
        shop.ask(Method::POST, EVENTS, Some("m"), &event(&customer, "1", "c")).await
    });
    let mut codes = [one.unwrap(), two.unwrap()].map(|said| said.0);
    codes.sort_unstable();
    assert_eq!(codes, [200, 429], "one call in flight for a customer and a meter");
    // Another customer is another lane.
    let other = shop.customer().await;
    let (one, two) = tokio::join!(shop.event(&customer, "1", "d"), shop.event(&other, "1", "e"));
    assert_eq!((one.0, two.0), (200, 200));
}

#[tokio::test]
async fn a_second_has_room_for_so_many() {
    let shop =
        Shop::with(Options { rates: Rates { meter_events: 5, others: 3 }, ..Options::default() }).await;
    let mut refused = 0;
    for _ in 0..4 {
        refused += usize::from(shop.post("/v1/customers", &[]).await.0 == 429);
    }
    assert!(refused >= 1, "the fourth within a second");
}

#[tokio::test]
async fn each_fault_is_as_it_is_called() {
    let shop = Shop::open().await;
    let faults = shop.stripe.faults();
    faults.silence(Duration::from_millis(50));
    let create = "Customers.create";
    let ask = || shop.ask(Method::POST, "/v1/customers", None, &[]);
    let made = || shop.stripe.objects("customer").len();
    for (fault, status, done) in [
        (Fault::Error500 { done: false }, Some(500), 0),
        (Fault::Error500 { done: true }, Some(500), 1),
        (Fault::Html502 { done: false }, Some(502), 0),
        (Fault::Html502 { done: true }, Some(502), 1),
        (Fault::Truncated, None, 1),
        (Fault::Reset { done: false }, None, 0),
        (Fault::Reset { done: true }, None, 1),
        (Fault::Silence { done: true }, None, 1),
        (Fault::TooMany { after: Some(7) }, Some(429), 0),
        (Fault::Unauthorized, Some(401), 0),
        (Fault::Conflict, Some(409), 0),
    ] {
        let before = made();
        faults.once(create, fault);
        let said = ask().await;
        assert_eq!(said.as_ref().ok().map(|said| said.0), status, "{fault:?}: {said:?}");
        assert_eq!(made() - before, done, "{fault:?}");
    }
    assert_eq!(faults.injected(), 11);
    faults.down(true);
    assert!(ask().await.is_err());
    faults.down(false);
    assert_eq!(ask().await.unwrap().0, 200);
}

#[tokio::test]
async fn lists_have_pages_and_ids_become_objects() {
    let shop = Shop::open().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(shop.customer().await);
    }
    made.reverse();
    let (_, first) = shop.get("/v1/customers", &[("limit", "2")]).await;
    assert_eq!((super::ids(&first), first["has_more"].as_bool()), (made[..2].to_vec(), Some(true)));
    let (_, rest) = shop.get("/v1/customers", &[("limit", "10"), ("starting_after", made[1].as_str())]).await;
    assert_eq!((super::ids(&rest), rest["has_more"].as_bool()), (made[2..].to_vec(), Some(false)));
    let prices = shop.prices(None).await;
    let (_, price) = shop.get(&format!("/v1/prices/{}", prices[0]), &[("expand[]", "product")]).await;
    assert_eq!(price["product"]["name"], "Team");
    let (status, _) = shop.get(&format!("/v1/prices/{}", prices[0]), &[("expand[]", "produkt")]).await;
    assert_eq!(status, 400);
}

/// What was there is there again, at the same time of the same clock.
#[tokio::test]
async fn its_state_outlives_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("stripe.json");
    let options = || Options { file: Some(file.clone()), ..Options::default() };
    let shop = Shop::with(options()).await;
    shop.meter("tasks").await;
    let customer = shop.customer().await;
    shop.stripe.clock_advance(DAY * 40);
    assert_eq!(shop.event(&customer, "7", "a").await.0, 200);
    freehold::testkit::eventually(Duration::from_secs(10), "the state is written", async || {
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        if kept.contains("\"tasks\"") && kept.contains("\"identifiers\":{\"a\"") {
            Ok(())
        } else {
            Err(kept.len())
        }
    })
    .await;
    drop(shop);
    let shop = Shop::with(options()).await;
    assert_eq!(shop.stripe.event_sum(&customer, "tasks"), 7);
    let said = shop.event(&customer, "7", "a").await;
    assert_eq!(said.0, 400, "the identifier is known: {}", said.1);
}
