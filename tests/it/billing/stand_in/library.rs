//! Stripe's own library talks to the stand-in, and signs for our door.

use freehold::billing::inbox::signature::{Bad, Good, check};
use freehold::kernel::Clock;
use freehold::testkit::StripeLibrary;
use freehold::testkit::stripe::{Card, signature};
use secrecy::SecretString;
use serde_json::json;

use super::{DAY, HOUR, Shop};

#[tokio::test]
async fn the_official_library_finds_its_way() {
    let shop = Shop::open().await;
    let library = StripeLibrary::start(&shop.stripe).await;
    let call = async |name: &str, args: serde_json::Value| {
        library.call(name, args).await.unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let customer =
        call("customers.create", json!([{ "email": "ada@example.com", "metadata": { "tenant": "ten_1" } }]))
            .await;
    let customer = customer["id"].as_str().unwrap().to_owned();
    assert_eq!(call("customers.retrieve", json!([customer])).await["metadata"]["tenant"], "ten_1");
    let meter = json!([{ "display_name": "Tasks", "event_name": "tasks", "default_aggregation": { "formula": "sum" },
                         "customer_mapping": { "type": "by_id", "event_payload_key": "stripe_customer_id" },
                         "value_settings": { "event_payload_key": "value" } }]);
    let meter = call("billing.meters.create", meter).await["id"].as_str().unwrap().to_owned();
    call("products.create", json!([{ "id": "team", "name": "Team" }])).await;
    let flat = json!([{ "product": "team", "currency": "eur", "unit_amount": 4900, "recurring": { "interval": "month" }, "lookup_key": "team" }]);
    let flat = call("prices.create", flat).await["id"].as_str().unwrap().to_owned();
    let metered = json!([{ "product": "team", "currency": "eur", "billing_scheme": "tiered", "tiers_mode": "graduated",
                           "tiers": [{ "up_to": 10, "unit_amount": 0 }, { "up_to": "inf", "unit_amount": 5 }],
                           "recurring": { "interval": "month", "usage_type": "metered", "meter": meter } }]);
    let metered = call("prices.create", metered).await["id"].as_str().unwrap().to_owned();
    let found = call("prices.list", json!([{ "lookup_keys": ["team"], "expand": ["data.product"] }])).await;
    assert_eq!(found["data"][0]["product"]["name"], "Team");
    let session = json!([{ "mode": "subscription", "customer": customer, "success_url": "http://localhost/done",
                           "line_items": [{ "price": flat, "quantity": 1 }, { "price": metered }],
                           "subscription_data": { "metadata": { "plan": "team" } } }]);
    let session = call("checkout.sessions.create", session).await;
    let session = shop.stripe.checkout_complete(session["id"].as_str().unwrap(), Card::Works);
    let subscription = session["subscription"].as_str().unwrap();
    let event = json!([{ "event_name": "tasks", "identifier": "ub:1", "payload": { "stripe_customer_id": customer, "value": "12" } },
                       { "idempotencyKey": "k1" }]);
    call("billing.meterEvents.create", event.clone()).await;
    call("billing.meterEvents.create", event).await;
    let again = json!([{ "event_name": "tasks", "identifier": "ub:1", "payload": { "stripe_customer_id": customer, "value": "12" } }]);
    let error = library.call("billing.meterEvents.create", again).await.unwrap_err();
    assert_eq!(error["status"], 400);
    assert!(error["message"].as_str().unwrap().contains("already exists with identifier"), "{error}");
    let today = Clock::System.now().timestamp() / 86_400 * 86_400;
    let range = json!([meter, { "customer": customer, "start_time": today - 86_400, "end_time": today + 172_800, "value_grouping_window": "day" }]);
    assert_eq!(call("billing.meters.listEventSummaries", range).await["data"][0]["aggregated_value"], 12);
    let changed = call("subscriptions.update", json!([subscription, { "cancel_at_period_end": true }])).await;
    assert_eq!(changed["cancel_at_period_end"], true);
    call("subscriptions.update", json!([subscription, { "cancel_at_period_end": false }])).await;
    let preview = call("invoices.createPreview", json!([{ "subscription": subscription }])).await;
    assert_eq!(preview["total"], 4910);
    let events = library.all("events.list", json!([{ "limit": 3 }])).await.unwrap();
    assert_eq!(events.as_array().unwrap().len(), shop.stripe.events().len(), "all pages");
    shop.stripe.clock_advance(DAY * 31 + HOUR * 2);
    let invoices = call(
        "invoices.list",
        json!([{ "customer": customer, "status": "paid", "expand": ["data.customer"] }]),
    )
    .await;
    assert_eq!(invoices["data"][0]["customer"]["email"], "ada@example.com");
    let invoice = invoices["data"][0]["id"].as_str().unwrap();
    call(
        "creditNotes.create",
        json!([{ "invoice": invoice, "amount": 10, "credit_amount": 10, "reason": "order_change" }]),
    )
    .await;
    let portal = call(
        "billingPortal.sessions.create",
        json!([{ "customer": customer, "return_url": "http://localhost" }]),
    )
    .await;
    assert!(portal["url"].as_str().unwrap().starts_with(&shop.stripe.base_url));
    let ended = call("subscriptions.cancel", json!([subscription, { "invoice_now": true }])).await;
    assert_eq!(ended["status"], "canceled");
    assert_eq!(call("customers.del", json!([customer])).await["deleted"], true);
    let missing = library.call("customers.update", json!([customer, { "name": "x" }])).await.unwrap_err();
    assert_eq!((missing["status"].as_u64(), missing["code"].as_str()), (Some(404), Some("resource_missing")));
    assert!(shop.stripe.refused().is_empty(), "{:?}", shop.stripe.refused());
}

#[tokio::test]
async fn a_signature_of_the_library_is_accepted_and_a_changed_one_is_not() {
    let shop = Shop::open().await;
    let library = StripeLibrary::start(&shop.stripe).await;
    let (secret, now) = ("whsec_of-the-tests", Clock::System.now());
    let at = now.timestamp();
    let body = "{\n  \"id\": \"evt_1\",\n  \"object\": \"event\",\n  \"name\": \"Zoë\"\n}";
    let secrets =
        |all: &[&str]| all.iter().map(|one| SecretString::from((*one).to_owned())).collect::<Vec<_>>();
    let ours =
        |header: &str, body: &str, known: &[&str]| check(Some(header), body.as_bytes(), &secrets(known), now);
    let header = library.sign(body, secret, at).await;
    assert_eq!(ours(&header, body, &[secret]), Ok(Good::Current));
    assert_eq!(ours(&header, body, &["whsec_new", secret]), Ok(Good::Previous));
    assert_eq!(ours(&header, body, &["whsec_other"]), Err(Bad::NoMatch));
    assert_eq!(ours(&header, &format!("{body} "), &[secret]), Err(Bad::NoMatch), "one blank more");
    assert_eq!(ours(&header, &body.replace("evt_1", "evt_2"), &[secret]), Err(Bad::NoMatch));
    let later = header.replace(&format!("t={at}"), &format!("t={}", at + 1));
    assert_eq!(ours(&later, body, &[secret]), Err(Bad::NoMatch), "another time");
    let old = library.sign(body, secret, at - 301).await;
    assert_eq!(ours(&old, body, &[secret]), Err(Bad::TooOld));
    let only_v0 = header.replace("v1=", "v0=");
    assert_eq!(ours(&only_v0, body, &[secret]), Err(Bad::NoScheme));
    let mut flipped = header.clone().into_bytes();
    let last = flipped.last_mut().unwrap();
    *last = if *last == b'0' { b'1' } else { b'0' };
    assert_eq!(ours(&String::from_utf8(flipped).unwrap(), body, &[secret]), Err(Bad::NoMatch));
    // And the other way: the library accepts what the stand-in signs.
    let standing = signature(body.as_bytes(), &["whsec_old".to_owned(), secret.to_owned()], at);
    assert_eq!(library.construct(body, &standing, secret).await.unwrap()["id"], "evt_1");
    library.construct(body, &standing, "whsec_other").await.unwrap_err();
}
