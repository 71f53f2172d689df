//! Webhooks: at the door, in the inbox, and what never came.

use chrono::TimeDelta;
use freehold::billing::Billing;
use freehold::billing::inbox::{Door, MAX_ATTEMPTS, Shape, Taken, replay, signature, sweep, watch, work_off};
use freehold::billing::settings::{Settings, Webhooks};
use freehold::kernel::codes;
use freehold::testkit::stripe::{Fault, Held};
use freehold::testkit::tester;
use secrecy::SecretString;
use serde_json::json;
use std::sync::Arc;

use super::shop::Shop;

const BODY: &str = r#"{"id":"evt_door","object":"event","livemode":false,"type":"customer.updated","created":1,"data":{"object":{"id":"cus_x"}}}"#;

/// A door whose snapshot endpoint has these secrets.
fn door(shop: &Shop, secrets: &[&str]) -> Door {
    let secrets = secrets.iter().map(|secret| SecretString::from((*secret).to_owned())).collect();
    let webhooks = Webhooks { snapshot: secrets, thin: Vec::new() };
    let settings = Settings { webhooks, ..(*shop.billing.settings).clone() };
    Door::new(Billing { settings: Arc::new(settings), ..shop.billing.clone() })
}

async fn rows(shop: &Shop) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM webhook_inbox").fetch_one(shop.db()).await.unwrap()
}

/// A webhook repeated has one effect; replayed after 300 seconds it is refused. Wrong, previous and rotated secrets, two
/// signatures, an old scheme alone.
///
/// Shown to fail: the comparison with the time taken out of `signature::check`.
#[tokio::test]
async fn the_door_takes_what_stripe_signed_lately_and_nothing_else() {
    let shop = Shop::open().await;
    let at = shop.now().timestamp();
    let sign = |secret: &str, at: i64| signature::sign(secret, at, BODY.as_bytes());
    let take =
        async |door: &Door, header: &str| door.take(Shape::Snapshot, Some(header), BODY.as_bytes()).await;
    let only = door(&shop, &["whsec_new"]);

    assert_eq!(take(&only, &sign("whsec_new", at)).await.unwrap(), Taken::Stored);
    assert_eq!(take(&only, &sign("whsec_new", at)).await.unwrap(), Taken::Repeated);
    assert_eq!(shop.inbox("evt_door").await, ("ready".to_owned(), 0, 2));
    for refused in [
        sign("whsec_new", at - 301),
        sign("whsec_new", at + 400),
        sign("whsec_old", at),
        sign("whsec_new", at).replace("v1=", "v0="),
        format!("t={at}"),
        String::new(),
    ] {
        let error = take(&only, &refused).await.unwrap_err();
        assert!(error.is(&codes::BAD_REQUEST), "{refused}: {error:?}");
        assert!(!error.to_string().contains("old"), "whoever knocks learns nothing: {error}");
    }
    let thin = only.take(Shape::Thin, Some(&sign("whsec_new", at)), BODY.as_bytes()).await;
    assert!(thin.unwrap_err().is(&codes::BAD_REQUEST), "each endpoint has secrets of its own");
    assert_eq!(shop.inbox("evt_door").await.2, 2, "nothing refused was counted");
    assert_eq!(shop.incidents().await, [("webhook_signature".to_owned(), "snapshot".to_owned())]);

    // While the secret changes, both are good; the old one in use is worth a word.
    let both = door(&shop, &["whsec_new", "whsec_old"]);
    let (new, old) = (sign("whsec_new", at), sign("whsec_old", at));
    let two = format!("{old},{}", new.split_once(',').unwrap().1);
    assert_eq!(take(&both, &two).await.unwrap(), Taken::Repeated);
    assert_eq!(shop.incidents().await.len(), 1, "the new one was there too");
    assert_eq!(take(&both, &old).await.unwrap(), Taken::Repeated);
    let kinds: Vec<String> = shop.incidents().await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["webhook_previous_secret", "webhook_signature"]);
    let found = watch::findings(&mut shop.db().acquire().await.unwrap(), shop.now()).await.unwrap();
    let checks: Vec<&str> = found.iter().map(|finding| finding.check.as_str()).collect();
    assert_eq!(checks, ["webhook_previous_secret", "webhook_signature"]);
}

/// Shown to fail: the comparison with `settings.livemode()` taken out of `Door::take`.
#[tokio::test]
async fn an_event_of_the_other_mode_is_refused_and_somebody_is_told() {
    let shop = Shop::open().await;
    let door = door(&shop, &["whsec_x"]);
    let body = BODY.replace("\"livemode\":false", "\"livemode\":true");
    let header = signature::sign("whsec_x", shop.now().timestamp(), body.as_bytes());
    let refused = door.take(Shape::Snapshot, Some(&header), body.as_bytes()).await.unwrap_err();
    assert!(refused.is(&codes::BAD_REQUEST));
    assert_eq!(rows(&shop).await, 0);
    assert_eq!(shop.incidents().await, [("livemode_mismatch".to_owned(), "snapshot".to_owned())]);
}

/// Authentic and unreadable: kept as it came, alarmed, never worked on, and counted once.
#[tokio::test]
async fn what_cannot_be_read_is_kept_as_it_came() {
    let shop = Shop::open().await;
    let door = door(&shop, &["whsec_x"]);
    let bodies: [&[u8]; 4] = [
        b"\xff\xfe not text",
        b"{\"id\":\"evt_1\"",
        br#"{"id":"evt_1","livemode":false,"type":"x","data":{"object":{"id":"cus_1","name":"\u0000"}}}"#,
        // JSON for us, and none for PostgreSQL: half a character.
        br#"{"id":"evt_2","livemode":false,"type":"x","name":"\ud800"}"#,
    ];
    for body in bodies {
        let header = signature::sign("whsec_x", shop.now().timestamp(), body);
        for _ in 0..2 {
            let taken = door.take(Shape::Snapshot, Some(&header), body).await.unwrap();
            assert_eq!(taken, Taken::Unreadable, "{}", String::from_utf8_lossy(body));
        }
    }
    let kept: Vec<(String, Vec<u8>, i32)> =
        sqlx::query_as("SELECT state, unreadable, deliveries FROM webhook_inbox")
            .fetch_all(shop.db())
            .await
            .unwrap();
    assert_eq!(kept.len(), bodies.len());
    for (state, unreadable, deliveries) in kept {
        assert_eq!((state.as_str(), deliveries), ("dead", 2));
        assert!(bodies.contains(&unreadable.as_slice()));
    }
    assert_eq!(
        shop.incidents().await.iter().filter(|(kind, _)| kind == "webhook_unreadable").count(),
        bodies.len()
    );
    assert_eq!(work_off(&shop.billing).await.unwrap(), 0);
}

/// The control database is away: 503, so that Stripe comes again.
#[tokio::test]
async fn without_a_database_stripe_is_asked_to_come_again() {
    let shop = Shop::open().await;
    let door = door(&shop, &["whsec_x"]);
    let header = signature::sign("whsec_x", shop.now().timestamp(), BODY.as_bytes());
    shop.db().close().await;
    let error = door.take(Shape::Snapshot, Some(&header), BODY.as_bytes()).await.unwrap_err();
    assert_eq!(error.code().status, 503, "{error:?}");
}

/// Eight attempts, then dead and alarmed; put back by hand, it is worked off. Stripe being away counts as no attempt.
#[tokio::test]
async fn what_fails_eight_times_waits_for_a_person_and_stripe_away_is_no_failure() {
    let shop = Shop::open().await;
    let (tenant, _, subscription) = shop.paying("acme", "team").await;
    let held = shop.stripe.take_held();
    let event = held.iter().find(|held| held.kind == "customer.subscription.created").expect("the event");
    shop.deliver(event).await.unwrap();

    shop.stripe.faults().times(20, "Subscriptions.retrieve", Fault::Html502 { done: false });
    for _ in 0..10 {
        assert_eq!(work_off(&shop.billing).await.unwrap(), 0);
        shop.billing.cp.clock.advance(TimeDelta::minutes(1));
    }
    let (state, attempts, _) = shop.inbox(&event.event).await;
    assert_eq!((state.as_str(), attempts), ("ready", 0), "Stripe was away");
    shop.stripe.faults().clear();

    // What does not pass: the object is of the other mode.
    shop.stripe.edit(&subscription.id, &json!({ "livemode": true }));
    for attempt in 1..=MAX_ATTEMPTS {
        work_off(&shop.billing).await.unwrap();
        let (state, attempts, _) = shop.inbox(&event.event).await;
        assert_eq!(attempts, attempt);
        assert_eq!(state == "dead", attempt == MAX_ATTEMPTS, "attempt {attempt}");
        shop.billing.cp.clock.advance(TimeDelta::minutes(10));
    }
    assert_eq!(work_off(&shop.billing).await.unwrap(), 0);
    let kinds: Vec<String> = shop.incidents().await.into_iter().map(|(kind, _)| kind).collect();
    assert!(
        kinds.contains(&"webhook_dead".to_owned()) && kinds.contains(&"livemode_mismatch".to_owned()),
        "{kinds:?}"
    );

    shop.stripe.edit(&subscription.id, &json!({ "livemode": false }));
    replay(&shop.billing, &tester(), &event.event).await.unwrap();
    assert_eq!(work_off(&shop.billing).await.unwrap(), 1);
    assert_eq!(shop.inbox(&event.event).await.0, "done");
    let known: i64 = sqlx::query_scalar("SELECT count(*) FROM subscription WHERE tenant = $1")
        .bind(tenant)
        .fetch_one(shop.db())
        .await
        .unwrap();
    assert_eq!(known, 1);
    assert!(!shop.incidents().await.iter().any(|(kind, _)| kind == "webhook_dead"));
}

/// Many workers at once: one event is worked on by one, and the object is asked for once.
///
/// Not proof of the lane by itself: that is `once::an_object_that_another_works_on_is_left_alone`.
#[tokio::test]
async fn one_object_is_worked_on_by_one() {
    let shop = Shop::open().await;
    let (_, _, subscription) = shop.known("acme", "team").await;
    shop.stripe.take_held();
    for _ in 0..5 {
        shop.stripe.emit("customer.subscription.updated", &subscription.id);
    }
    for held in shop.stripe.take_held() {
        shop.deliver(&held).await.unwrap();
    }
    let before = shop.stripe.asked("Subscriptions.retrieve").len();
    let all = futures_util::future::join_all((0..4).map(|_| work_off(&shop.billing))).await;
    let done: usize = all.into_iter().map(|done| done.unwrap()).sum();
    assert_eq!(done, 5);
    assert_eq!(shop.stripe.asked("Subscriptions.retrieve").len() - before, 1, "five events, one question");
    let lanes: i64 =
        sqlx::query_scalar("SELECT count(*) FROM webhook_lane").fetch_one(shop.db()).await.unwrap();
    assert_eq!(lanes, 0, "lanes are given back");
}

/// What never came is found in Stripe's lists, filled in, and alarmed; what came is left alone.
#[tokio::test]
async fn the_sweep_finds_what_never_came() {
    let shop = Shop::open().await;
    // The first look finds what was before there was an endpoint: no alarm.
    sweep(&shop.billing).await.unwrap();
    let (tenant, _, _) = shop.paying("acme", "team").await;
    let held = shop.stripe.take_held();
    let (lost, came): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|held| held.kind.starts_with("customer.subscription"));
    assert!(!lost.is_empty());
    for held in &came {
        shop.deliver(held).await.unwrap();
    }
    assert_eq!(sweep(&shop.billing).await.unwrap(), 0, "it may still be on its way");
    assert!(shop.incidents().await.is_empty());

    shop.pass(TimeDelta::minutes(15));
    assert_eq!(sweep(&shop.billing).await.unwrap(), lost.len());
    assert_eq!(shop.incidents().await, [("webhook_gap".to_owned(), "snapshot".to_owned())]);
    work_off(&shop.billing).await.unwrap();
    assert_eq!(shop.access(tenant).await.as_str(), "active");
    let by: String = sqlx::query_scalar("SELECT found_by FROM webhook_inbox WHERE event_id = $1")
        .bind(&lost[0].event)
        .fetch_one(shop.db())
        .await
        .unwrap();
    assert_eq!(by, "sweep");
    // It comes after all, signed anew: one more delivery, no more work.
    let at = shop.now().timestamp();
    let signed = signature::sign(&shop.stripe.snapshot_secret, at, lost[0].body.as_bytes());
    let late = Held { signature: signed, ..lost[0].clone() };
    assert_eq!(shop.deliver(&late).await.unwrap(), Taken::Repeated);
    assert_eq!(sweep(&shop.billing).await.unwrap(), 0, "a second sweep finds nothing");
}

/// An inbox that is behind is said so, in figures, as an incident and by the doctor; and it settles by itself.
#[tokio::test]
async fn an_inbox_that_is_behind_says_so() {
    let shop = Shop::open().await;
    let door = door(&shop, &["whsec_x"]);
    let header = signature::sign("whsec_x", shop.now().timestamp(), BODY.as_bytes());
    door.take(Shape::Snapshot, Some(&header), BODY.as_bytes()).await.unwrap();
    shop.billing.cp.clock.advance(TimeDelta::minutes(16));
    watch::watch(&shop.billing).await.unwrap();
    assert_eq!(shop.incidents().await, [("webhook_lag".to_owned(), "inbox".to_owned())]);
    let mut conn = shop.db().acquire().await.unwrap();
    let found = watch::findings(&mut conn, shop.now()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].check, "webhook_lag");
    sqlx::query("UPDATE webhook_inbox SET state = 'done'").execute(&mut *conn).await.unwrap();
    drop(conn);
    watch::watch(&shop.billing).await.unwrap();
    assert!(shop.incidents().await.is_empty());
}
