//! Meter events and their sums.

use std::time::Duration;

use freehold::kernel::Clock;
use freehold::testkit::eventually;
use serde_json::Value;

use super::{DAY, HOUR, Shop};

#[tokio::test]
async fn an_identifier_is_unique_for_a_day() {
    let shop = Shop::open().await;
    shop.meter("tasks").await;
    let customer = shop.customer().await;
    assert_eq!(shop.event(&customer, "5", "ub:1").await.0, 200);
    shop.stripe.clock_advance(HOUR * 23);
    let (status, said) = shop.event(&customer, "5", "ub:1").await;
    assert_eq!(status, 400);
    let message = said["error"]["message"].as_str().unwrap();
    assert!(message.contains("already exists with identifier"), "{message}");
    assert_eq!(shop.stripe.event_sum(&customer, "tasks"), 5);
    shop.stripe.clock_advance(HOUR * 2);
    assert_eq!(shop.event(&customer, "5", "ub:1").await.0, 200, "whoever sends it again now is billed twice");
    assert_eq!(shop.stripe.event_sum(&customer, "tasks"), 10);
}

#[tokio::test]
async fn time_has_its_limits() {
    let shop = Shop::open().await;
    shop.meter("tasks").await;
    let customer = shop.customer().await;
    let now = Clock::System.now().timestamp();
    for (at, status) in
        [(now - 36 * 86_400, 400), (now - 34 * 86_400, 200), (now + 290, 200), (now + 360, 400)]
    {
        let (identifier, at) = (format!("at:{at}"), at.to_string());
        let mut asked = super::event(&customer, "1", &identifier);
        asked.push(("timestamp", &at));
        assert_eq!(shop.post("/v1/billing/meter_events", &asked).await.0, status, "{at}");
    }
}

/// Stripe says 200 and tells later.
#[tokio::test]
async fn what_cannot_be_counted_is_told_by_a_thin_event() {
    let shop = Shop::open().await;
    let meter = shop.meter("tasks").await;
    let customer = shop.customer().await;
    assert_eq!(shop.event("cus_nobody", "1", "a").await.0, 200);
    assert_eq!(shop.event(&customer, "half", "b").await.0, 200);
    let unknown =
        [("event_name", "tusks"), ("payload[value]", "1"), ("payload[stripe_customer_id]", &customer)];
    assert_eq!(shop.post("/v1/billing/meter_events", &unknown).await.0, 200);
    let told = eventually(Duration::from_secs(10), "two thin events", async || {
        let told = shop.stripe.thin_events();
        if told.len() == 2 { Ok(told) } else { Err(told.len()) }
    })
    .await;
    let of = |kind: &str| told.iter().find(|event| event["type"] == kind).unwrap().clone();
    let errors = of("v1.billing.meter.error_report_triggered");
    assert_eq!(errors["related_object"]["id"], Value::String(meter));
    assert_eq!(errors["data"]["reason"]["error_count"], 2);
    let kinds = errors["data"]["reason"]["error_types"].as_array().unwrap();
    assert_eq!(kinds[0]["code"], "meter_event_customer_not_found");
    assert_eq!(kinds[0]["sample_errors"][0]["request"]["identifier"], "a");
    assert_eq!(kinds[1]["code"], "meter_event_invalid_value");
    of("v1.billing.meter.no_meter_found");
    assert_eq!(shop.stripe.event_sum(&customer, "tasks"), 0);
    // Listed without its data, fetched with it.
    let (_, list) = shop.get("/v2/core/events", &[("limit", "1")]).await;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert!(list["data"][0].get("data").is_none() && list["next_page_url"].is_string(), "{list}");
    let (_, one) = shop.get(&format!("/v2/core/events/{}", errors["id"].as_str().unwrap()), &[]).await;
    assert_eq!(one["data"], errors["data"]);
}

#[tokio::test]
async fn sums_are_asked_on_whole_hours_and_days() {
    let shop = Shop::open().await;
    let meter = shop.meter("tasks").await;
    let customer = shop.customer().await;
    let path = format!("/v1/billing/meters/{meter}/event_summaries");
    let day = Clock::System.now().timestamp() / 86_400 * 86_400 - 3 * 86_400;
    for (at, value) in [(day, "1"), (day + 86_399, "2"), (day + 86_400, "4"), (day + 2 * 86_400, "8")] {
        let (identifier, at) = (format!("at:{at}"), at.to_string());
        let mut asked = super::event(&customer, value, &identifier);
        asked.push(("timestamp", &at));
        assert_eq!(shop.post("/v1/billing/meter_events", &asked).await.0, 200);
    }
    let sums = async |from: i64, to: i64, window: Option<&str>| {
        let (from, to) = (from.to_string(), to.to_string());
        let mut asked = vec![("customer", customer.as_str()), ("start_time", &from), ("end_time", &to)];
        asked.extend(window.map(|window| ("value_grouping_window", window)));
        let (status, list) = shop.get(&path, &asked).await;
        let rows = list["data"].as_array().cloned().unwrap_or_default();
        (status, rows.iter().map(|row| row["aggregated_value"].as_i64().unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(
        sums(day, day + 2 * 86_400, Some("day")).await,
        (200, vec![4, 3]),
        "newest first; the end is not in it"
    );
    assert_eq!(sums(day, day + 3 * 86_400, None).await, (200, vec![15]));
    assert_eq!(sums(day + 3600, day + 86_400, Some("day")).await.0, 400);
    assert_eq!(sums(day + 60, day + 86_400, Some("hour")).await.0, 400);
    assert_eq!(sums(day + 1, day + 86_400, None).await.0, 400);
    // Taken back within a day.
    let back = [("event_name", "tasks"), ("type", "cancel"), ("cancel[identifier]", &*format!("at:{day}"))];
    assert_eq!(shop.post("/v1/billing/meter_event_adjustments", &back).await.0, 200);
    assert_eq!(sums(day, day + 2 * 86_400, Some("day")).await.1, [4, 2]);
    shop.stripe.clock_advance(DAY + HOUR);
    assert_eq!(shop.post("/v1/billing/meter_event_adjustments", &back).await.0, 400);
}
