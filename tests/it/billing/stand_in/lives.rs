//! Subscriptions and their invoices, driven by the clock.

use freehold::kernel::Clock;
use freehold::testkit::stripe::{AfterRetries, Card};
use serde_json::Value;

use super::{DAY, HOUR, Shop, code};

fn statuses(shop: &Shop, customer: &str) -> Vec<String> {
    shop.stripe.invoices(customer).iter().map(|one| one["status"].as_str().unwrap().to_owned()).collect()
}

fn kinds(shop: &Shop) -> Vec<String> {
    shop.stripe.events().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

/// Days as a calendar month has them at most, so that a period certainly ends.
const MONTH: u32 = 31;

#[tokio::test]
async fn bought_used_and_paid_for() {
    let shop = Shop::open().await;
    let meter = shop.meter("tasks").await;
    let prices = shop.prices(Some(&meter)).await;
    let (customer, subscription) = shop.subscribed(&prices, Card::Works).await;
    assert_eq!(
        (shop.status(&subscription).as_str(), statuses(&shop, &customer)),
        ("active", vec!["paid".to_owned()])
    );
    assert_eq!(shop.stripe.invoices(&customer)[0]["total"], 4900);
    assert_eq!(shop.event(&customer, "13", "a").await.0, 200);
    shop.stripe.clock_advance(DAY * MONTH);
    let invoices = shop.stripe.invoices(&customer);
    // Final an hour after the period's end; that hour may be over.
    shop.stripe.clock_advance(HOUR);
    let invoice = shop.stripe.object(invoices[0]["id"].as_str().unwrap()).unwrap();
    assert_eq!((invoice["status"].as_str(), invoice["total"].as_i64()), (Some("paid"), Some(4900 + 15)));
    let lines = invoice["lines"]["data"].as_array().unwrap();
    let metered: Vec<_> = lines
        .iter()
        .filter(|line| line["pricing"]["price_details"]["price"] == Value::String(prices[1].clone()))
        .map(|line| (line["quantity"].as_i64().unwrap(), line["amount"].as_i64().unwrap()))
        .collect();
    assert_eq!(metered, [(10, 0), (3, 15)], "a line for each tier");
    let kinds = kinds(&shop);
    for kind in [
        "checkout.session.completed",
        "customer.subscription.created",
        "customer.subscription.updated",
        "invoice.upcoming",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
    ] {
        assert!(kinds.iter().any(|one| one == kind), "no {kind} in {kinds:?}");
    }
}

/// A draft counts what comes until it is final.
#[tokio::test]
async fn a_draft_can_be_held_and_goes_on_counting() {
    let shop = Shop::open().await;
    let meter = shop.meter("tasks").await;
    let prices = shop.prices(Some(&meter)).await;
    let (customer, subscription) = shop.subscribed(&prices, Card::Works).await;
    let end = shop.stripe.object(&subscription).unwrap()["items"]["data"][0]["current_period_end"]
        .as_i64()
        .unwrap();
    let now = Clock::System.now().timestamp();
    shop.stripe.clock_advance(std::time::Duration::from_secs(u64::try_from(end - now + 60).unwrap()));
    let draft = shop.stripe.invoices(&customer)[0].clone();
    let id = draft["id"].as_str().unwrap();
    assert_eq!(draft["status"], "draft");
    shop.made(&format!("/v1/invoices/{id}"), &[("auto_advance", "false")]).await;
    let at = (end - 10).to_string();
    let mut late = super::event(&customer, "12", "late");
    late.push(("timestamp", &at));
    assert_eq!(shop.post("/v1/billing/meter_events", &late).await.0, 200);
    shop.stripe.clock_advance(HOUR * 5);
    let (_, held) = shop.get(&format!("/v1/invoices/{id}"), &[]).await;
    assert_eq!((held["status"].as_str(), held["total"].as_i64()), (Some("draft"), Some(4910)));
    shop.made(&format!("/v1/invoices/{id}"), &[("auto_advance", "true")]).await;
    shop.stripe.settle();
    assert_eq!(shop.status(id), "paid");
}

#[tokio::test]
async fn not_paid_and_paid_at_last() {
    let shop = Shop::open().await;
    let prices = shop.prices(None).await;
    let (customer, subscription) = shop.subscribed(&prices, Card::FailsLater).await;
    shop.stripe.clock_advance(DAY * MONTH + HOUR * 2);
    assert_eq!(
        (shop.status(&subscription).as_str(), statuses(&shop, &customer)[0].as_str()),
        ("past_due", "open")
    );
    let owed = shop.stripe.owed(&customer);
    assert_eq!(owed, 4900);
    // Three more attempts: after 3, 5 and 7 days.
    shop.stripe.clock_advance(DAY * 16);
    assert_eq!(shop.status(&subscription), "unpaid");
    let failed = kinds(&shop).iter().filter(|kind| *kind == "invoice.payment_failed").count();
    assert_eq!(failed, 4);
    shop.stripe.card(&customer, true);
    let open = shop.stripe.invoices(&customer).into_iter().find(|one| one["status"] == "open").unwrap();
    assert!(shop.stripe.invoice_pay(open["id"].as_str().unwrap()));
    assert_eq!((shop.status(&subscription).as_str(), shop.stripe.owed(&customer)), ("active", 0));
    let (_, canceled) = shop.subscribed(&prices, Card::FailsLater).await;
    shop.stripe.after_retries(AfterRetries::Cancel);
    shop.stripe.clock_advance(DAY * (MONTH + 17));
    assert_eq!(shop.status(&canceled), "canceled");
}

#[tokio::test]
async fn a_trial_ends_in_a_charge_or_at_once() {
    let shop = Shop::open().await;
    let prices = shop.prices(None).await;
    let customer = shop.customer().await;
    let trial =
        [("customer", customer.as_str()), ("items[0][price]", &prices[0]), ("trial_period_days", "14")];
    let made = shop.made("/v1/subscriptions", &trial).await;
    let subscription = made["id"].as_str().unwrap();
    assert_eq!(
        (made["status"].as_str(), shop.stripe.invoices(&customer)[0]["total"].as_i64()),
        (Some("trialing"), Some(0))
    );
    shop.stripe.clock_advance(DAY * 12);
    assert!(kinds(&shop).contains(&"customer.subscription.trial_will_end".to_owned()));
    shop.stripe.card(&customer, true);
    shop.stripe.clock_advance(DAY * 2 + HOUR * 2);
    let newest = shop.stripe.invoices(&customer)[0].clone();
    assert_eq!(
        (shop.status(subscription).as_str(), newest["status"].as_str(), newest["total"].as_i64()),
        ("active", Some("paid"), Some(4900))
    );
    // Without a card, and without a trial, there is no subscription.
    let bare = shop.customer().await;
    let said = shop.post("/v1/subscriptions", &[("customer", &bare), ("items[0][price]", &prices[0])]).await;
    assert_eq!(code(&said), (400, "resource_missing"), "{}", said.1);
}

#[tokio::test]
async fn a_change_is_settled_on_the_next_invoice_and_an_end_ends() {
    let shop = Shop::open().await;
    let (small, large) = (shop.prices(None).await, shop.prices(None).await);
    let (customer, subscription) = shop.subscribed(&small, Card::Works).await;
    let path = format!("/v1/subscriptions/{subscription}");
    let item =
        shop.stripe.object(&subscription).unwrap()["items"]["data"][0]["id"].as_str().unwrap().to_owned();
    let half = {
        let items = shop.stripe.object(&subscription).unwrap();
        let item = &items["items"]["data"][0];
        (item["current_period_end"].as_i64().unwrap() - item["current_period_start"].as_i64().unwrap()) / 2
    };
    shop.stripe.clock_advance(std::time::Duration::from_secs(u64::try_from(half).unwrap()));
    let change =
        [("items[0][id]", item.as_str()), ("items[0][price]", &large[0]), ("items[0][quantity]", "3")];
    let changed = shop.made(&path, &change).await;
    assert_eq!(changed["items"]["data"][0]["price"]["id"], Value::String(large[0].clone()));
    let (_, next) = (0, shop.made("/v1/invoices/create_preview", &[("subscription", &subscription)]).await);
    let total = next["total"].as_i64().unwrap();
    // Half a month of the old back, half of three new ones, and three for the next month.
    assert!((total - (3 * 4900 + 3 * 2450 - 2450)).abs() <= 5, "{total}");
    assert_eq!(shop.stripe.invoices(&customer).len(), 1, "a preview is no invoice");
    let ending = shop.made(&path, &[("cancel_at_period_end", "true")]).await;
    assert!(ending["cancel_at"].is_number() && ending["status"] == "active");
    shop.made(&path, &[("cancel_at_period_end", "false")]).await;
    shop.made(&path, &[("cancel_at_period_end", "true")]).await;
    shop.stripe.clock_advance(DAY * MONTH);
    assert_eq!(shop.status(&subscription), "canceled");
    assert!(kinds(&shop).contains(&"customer.subscription.deleted".to_owned()));
}

#[tokio::test]
async fn less_is_paid_with_a_coupon_and_given_back_by_a_credit_note() {
    let shop = Shop::open().await;
    let prices = shop.prices(None).await;
    shop.made("/v1/coupons", &[("id", "HALF"), ("percent_off", "50"), ("duration", "once")]).await;
    let customer = shop.customer().await;
    shop.stripe.card(&customer, true);
    let asked =
        [("customer", customer.as_str()), ("items[0][price]", &prices[0]), ("discounts[0][coupon]", "HALF")];
    shop.made("/v1/subscriptions", &asked).await;
    let invoice = shop.stripe.invoices(&customer)[0].clone();
    assert_eq!((invoice["total"].as_i64(), invoice["amount_paid"].as_i64()), (Some(2450), Some(2450)));
    let id = invoice["id"].as_str().unwrap();
    let too_much = [("invoice", id), ("amount", "2451"), ("credit_amount", "2451")];
    assert_eq!(shop.post("/v1/credit_notes", &too_much).await.0, 400);
    let unbalanced = [("invoice", id), ("amount", "450")];
    assert_eq!(shop.post("/v1/credit_notes", &unbalanced).await.0, 400);
    let note =
        shop.made("/v1/credit_notes", &[("invoice", id), ("amount", "450"), ("credit_amount", "450")]).await;
    assert_eq!((note["type"].as_str(), note["total"].as_i64()), (Some("post_payment"), Some(450)));
    assert_eq!(shop.stripe.object(&customer).unwrap()["balance"], -450);
    // The credit is used by the next invoice, and the coupon was for once.
    shop.stripe.clock_advance(DAY * MONTH + HOUR * 2);
    let next = shop.stripe.invoices(&customer)[0].clone();
    assert_eq!((next["total"].as_i64(), next["amount_paid"].as_i64()), (Some(4900), Some(4450)));
}

/// The pages, as a browser without JavaScript sees them.
#[tokio::test]
async fn pages_can_be_clicked() {
    let shop = Shop::open().await;
    let prices = shop.prices(None).await;
    let customer = shop.customer().await;
    let session = shop.checkout(&customer, &prices).await;
    let client =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let url = session["url"].as_str().unwrap();
    let page = client.get(url).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("49.00 EUR") && page.contains("http://localhost/back"), "{page}");
    let pay = async |card: &str| {
        let form = client.post(url).header("content-type", "application/x-www-form-urlencoded");
        form.body(format!("card={card}")).send().await.unwrap()
    };
    assert_eq!(pay("declined").await.status(), 402);
    let paid = pay("works").await;
    let id = session["id"].as_str().unwrap();
    assert_eq!(paid.status(), 303);
    assert_eq!(paid.headers()["location"], format!("http://localhost/done?session={id}"));
    assert_eq!(shop.status(id), "complete");
    let portal = shop
        .made("/v1/billing_portal/sessions", &[("customer", &customer), ("return_url", "http://localhost/x")])
        .await;
    let page = client.get(portal["url"].as_str().unwrap()).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("Visa ending in 4242") && page.contains("http://localhost/x"), "{page}");
    let home = client.get(&shop.stripe.base_url).send().await.unwrap().text().await.unwrap();
    assert!(home.contains("Advance a month") && home.contains(&customer), "{home}");
    let foreign =
        client.post(format!("{}/clock", shop.stripe.base_url)).header("sec-fetch-site", "cross-site");
    assert_eq!(foreign.body("days=1").send().await.unwrap().status(), 403);
}
