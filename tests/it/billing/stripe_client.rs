//! Every question of the port, asked of a Stripe that refuses what Stripe does not know.

use std::time::Duration;

use chrono::TimeDelta;
use freehold::app;
use freehold::billing::catalogue::prices_of;
use freehold::billing::sender::link::link;
use freehold::billing::stripe::{MeterEvent, NewCheckout, NewSubscription, Trouble};
use freehold::testkit::stripe::{Card, Fault, Options, StripeStandIn};
use secrecy::SecretString;

use super::till::{Till, WORK_EVENT};

async fn subscription(till: &Till, trial_days: u32) -> (String, NewSubscription) {
    let mut conn = till.db().acquire().await.unwrap();
    let prices = prices_of(&mut conn, false, "team").await.unwrap();
    let customer = till.tenants[0].1.clone();
    let plan = "team".to_owned();
    (customer.clone(), NewSubscription { customer, plan, prices, trial_days, coupon: None })
}

#[tokio::test]
async fn customers_subscriptions_and_invoices() {
    let till = Till::new(1).await;
    let stripe = &till.billing.stripe;
    let (customer, new) = subscription(&till, 0).await;
    let read = stripe.customer(&customer).await.unwrap();
    assert_eq!(read.tenant.as_deref(), Some(till.tenants[0].0.to_string().as_str()));
    assert!(!read.livemode && !read.deleted);

    till.stripe.card(&customer, true);
    let made = stripe.subscription_create(&new, "one".to_owned()).await.unwrap();
    let same = stripe.subscription_create(&new, "one".to_owned()).await.unwrap();
    assert_eq!(made.id, same.id, "one key, one subscription");
    assert_eq!((made.plan.as_deref(), made.status.as_str()), (Some("team"), "active"));
    assert!(made.period_end - made.period_start >= TimeDelta::days(27));
    let all = stripe.subscriptions_of(&customer).await.unwrap();
    assert_eq!(all.len(), 1);

    let mut conn = till.db().acquire().await.unwrap();
    let business = prices_of(&mut conn, false, "business").await.unwrap();
    let changed =
        stripe.subscription_change(&made.id, &business, "business", true, "two".to_owned()).await.unwrap();
    assert_eq!(changed.plan.as_deref(), Some("business"));
    let mut prices = changed.prices.clone();
    let mut wanted: Vec<_> = business.iter().map(|item| item.price.clone()).collect();
    prices.sort();
    wanted.sort();
    assert_eq!(prices, wanted);
    let again =
        stripe.subscription_change(&made.id, &business, "business", true, "two".to_owned()).await.unwrap();
    assert_eq!(again.prices, changed.prices, "what is so already is not asked for");

    let ending = stripe.subscription_cancel(&made.id, false, "three".to_owned()).await.unwrap();
    assert_eq!(ending.cancel_at, Some(ending.period_end));
    let kept = stripe.subscription_keep(&made.id, "four".to_owned()).await.unwrap();
    assert_eq!(kept.cancel_at, None);

    let invoices = stripe.invoices_of(&customer, 10).await.unwrap();
    assert!(!invoices.is_empty());
    let invoice = stripe.invoice(&invoices[0].id).await.unwrap();
    assert_eq!(invoice.subscription.as_deref(), Some(made.id.as_str()));
    assert!(!invoice.lines.is_empty() && invoice.currency == "eur");
    let next = stripe.invoice_preview(&made.id).await.unwrap();
    assert!(!next.lines.is_empty());
    let paid = invoices.iter().find(|invoice| invoice.status == "paid").expect("the first one");
    stripe.credit_note(&paid.id, 100, "a gift", "five".to_owned()).await.unwrap();
    assert_eq!(stripe.invoice(&paid.id).await.unwrap().credited_minor, 100);

    let ended = stripe.subscription_cancel(&made.id, true, "six".to_owned()).await.unwrap();
    assert_eq!(ended.status, "canceled");
    stripe.customer_delete(&customer).await.unwrap();
    assert!(stripe.customer(&customer).await.unwrap().deleted);
    stripe.customer_delete(&customer).await.unwrap();
    assert!(till.stripe.refused().is_empty(), "{:?}", till.stripe.refused());
}

#[tokio::test]
async fn pages_trials_and_drafts() {
    let till = Till::new(1).await;
    let stripe = &till.billing.stripe;
    let (customer, new) = subscription(&till, 14).await;
    let checkout = NewCheckout {
        customer: customer.clone(),
        plan: "team".to_owned(),
        prices: new.prices.clone(),
        trial_days: 14,
        anchor: None,
        expires_at: None,
        promotion_code: None,
        reference: "team:14".to_owned(),
        success_url: "http://localhost/done".to_owned(),
        cancel_url: "http://localhost/back".to_owned(),
    };
    let session = stripe.checkout(&checkout, "one".to_owned()).await.unwrap();
    assert!(session.url.is_some() && session.status == "open" && session.subscription.is_none());
    assert_eq!(session.reference.as_deref(), Some("team:14"));
    let open = stripe.checkouts_open(&customer).await.unwrap();
    assert_eq!(open.iter().map(|one| &one.id).collect::<Vec<_>>(), [&session.id]);
    till.stripe.checkout_complete(&session.id, Card::Works);
    let session = stripe.checkout_by_id(&session.id).await.unwrap();
    assert_eq!(session.status, "complete");
    assert!(stripe.checkouts_open(&customer).await.unwrap().is_empty());
    assert!(!stripe.checkout_expire(&session.id).await.unwrap(), "it is paid");
    let subscription = stripe.subscription(session.subscription.as_deref().unwrap()).await.unwrap();
    assert_eq!((subscription.status.as_str(), subscription.plan.as_deref()), ("trialing", Some("team")));
    let end = subscription.trial_end.unwrap();
    assert_eq!(end.timestamp() % 86_400, 0, "periods begin where days do");
    assert!(stripe.portal(&customer, "http://localhost/").await.unwrap().starts_with("http"));

    // The trial ends: a draft, which finance may hold.
    let past = end - till.now() + TimeDelta::minutes(5);
    till.stripe.clock_advance(past.to_std().unwrap());
    let draft = stripe
        .invoices_of(&customer, 10)
        .await
        .unwrap()
        .into_iter()
        .find(|invoice| invoice.status == "draft");
    let draft = draft.expect("a draft of the first paid period");
    assert!(!stripe.invoice_hold(&draft.id, true).await.unwrap().auto_advance);
    assert!(stripe.invoice_hold(&draft.id, false).await.unwrap().auto_advance);
    assert!(till.stripe.refused().is_empty(), "{:?}", till.stripe.refused());
}

#[tokio::test]
async fn meters_sums_and_events() {
    let till = Till::new(1).await;
    let stripe = &till.billing.stripe;
    let customer = till.tenants[0].1.clone();
    let meters = stripe.meters().await.unwrap();
    let (_, meter) = meters.iter().find(|(name, _)| name == WORK_EVENT).expect("the meter of work");
    let day = till.now().date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc();
    for (n, value) in [3, 4].into_iter().enumerate() {
        let event = MeterEvent {
            event_name: WORK_EVENT.to_owned(),
            customer: customer.clone(),
            value,
            identifier: format!("ub:{n}"),
            timestamp: till.now(),
        };
        stripe.meter_event(&event, format!("key:{n}")).await.unwrap();
        let again = stripe.meter_event(&event, format!("other:{n}")).await;
        assert!(
            matches!(&again, Err(Trouble::Refused { message, .. }) if message.contains("already exists")),
            "{again:?}"
        );
    }
    let sums = stripe.summaries(meter, &customer, day, day + TimeDelta::days(1)).await.unwrap();
    assert_eq!(sums.iter().map(|sum| sum.value).sum::<i64>(), 7);
    stripe.meter_event_cancel(WORK_EVENT, "ub:0").await.unwrap();

    let since = till.now() - TimeDelta::hours(1);
    let events = stripe.events_since(since).await.unwrap();
    assert!(events.iter().any(|event| event["type"] == "customer.created"), "{events:?}");
    let created: Vec<_> = events.iter().map(|event| event["created"].as_i64()).collect();
    assert!(created.is_sorted(), "oldest first");
    let wrong = MeterEvent {
        event_name: "nobody_knows".to_owned(),
        customer,
        value: 1,
        identifier: "ub:9".to_owned(),
        timestamp: till.now(),
    };
    stripe.meter_event(&wrong, "key:9".to_owned()).await.unwrap();
    till.stripe.clock_advance(Duration::from_secs(10));
    let thin = stripe.thin_events_since(since).await.unwrap();
    let id = thin[0]["id"].as_str().unwrap();
    assert_eq!(stripe.thin_event(id).await.unwrap()["id"], id);
    assert!(till.stripe.refused().is_empty(), "{:?}", till.stripe.refused());
}

/// Shown to fail: with reqwest's own errors passed on, the address is in them.
#[tokio::test]
async fn troubles_have_names_and_hold_no_secret() {
    let till = Till::empty().await;
    let stripe = &till.billing.stripe;
    let faults = till.stripe.faults();
    let kind = |answer: Result<Vec<(String, String)>, Trouble>| {
        let trouble = answer.unwrap_err();
        assert!(
            !format!("{trouble} {trouble:?}").contains("127.0.0.1"),
            "an address may name a customer: {trouble}"
        );
        match trouble {
            Trouble::Refused { .. } => "refused",
            Trouble::Key { .. } => "key",
            Trouble::Later { .. } => "later",
            Trouble::Unreached(_) => "unreached",
            Trouble::Silent(_) => "silent",
            Trouble::Broken { .. } => "broken",
        }
    };
    for (fault, expected) in [
        (Fault::Error500 { done: false }, "broken"),
        (Fault::Html502 { done: false }, "broken"),
        (Fault::Truncated, "broken"),
        (Fault::Reset { done: false }, "silent"),
        (Fault::Silence { done: true }, "silent"),
        (Fault::TooMany { after: Some(3) }, "later"),
        (Fault::Conflict, "later"),
        (Fault::Unauthorized, "key"),
    ] {
        faults.once("Billing.Meters.list", fault);
        assert_eq!(kind(stripe.meters().await), expected, "{fault:?}");
    }
    faults.once("Billing.Meters.list", Fault::TooMany { after: Some(3) });
    assert_eq!(
        stripe.meters().await.unwrap_err(),
        Trouble::Later { status: 429, after: Some(Duration::from_secs(3)) }
    );
    assert!(matches!(stripe.customer("cus_1/../x").await, Err(Trouble::Refused { status: 400, .. })));
    assert!(matches!(stripe.customer("cus_nobody").await, Err(Trouble::Refused { status: 404, .. })));

    let cp = &till.billing.cp;
    let mut settings = till.stripe.settings();
    settings.key = Some(SecretString::from("sk_test_wrongsecret"));
    let stranger = app::billing(cp, till.billing.admins.clone(), settings, None).unwrap();
    let trouble = stranger.stripe.meters().await.unwrap_err();
    assert!(matches!(trouble, Trouble::Key { status: 401, .. }), "{trouble:?}");
    assert!(!format!("{trouble} {trouble:?}").contains("wrongsecret"));

    let gone = StripeStandIn::start_with(Options::default()).await;
    let settings = gone.settings();
    drop(gone);
    let nobody = app::billing(cp, till.billing.admins.clone(), settings, None).unwrap();
    let mut last = nobody.stripe.meters().await.unwrap_err();
    for _ in 0..50 {
        if matches!(last, Trouble::Unreached(_)) {
            break;
        }
        last = nobody.stripe.meters().await.unwrap_err();
    }
    assert!(matches!(last, Trouble::Unreached(_)), "{last:?}");

    let mut conn = till.db().acquire().await.unwrap();
    let link = link(&mut conn, false).await.unwrap();
    assert!(link.last_ok_at.is_some() && link.last_error.is_some(), "{link:?}");
    assert_eq!(link.skew_seconds, Some(0));
}
