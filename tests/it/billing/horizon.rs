//! What time does to a batch on its way: its invoice becomes final, Stripe forgets its identifier, and what was known of it
//! before says how an answer is read.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use freehold::billing::finance::quarantine::{Settle, SettleAs, quarantine_settle};
use freehold::billing::ledger::finals::credit_warning;
use freehold::billing::ledger::{Fact, record, record_many, sealer};
use freehold::billing::sender::settle::{Settled, settle_unknown};
use freehold::billing::sender::watch;
use freehold::testkit::stripe::Fault;
use freehold::testkit::tester;
use uuid::Uuid;

use super::ledger::Scene;
use super::till::{Till, WORK_EVENT};

const METER_EVENT: &str = "Billing.MeterEvents.create";
const MINUTE: TimeDelta = TimeDelta::minutes(1);

/// An invoice of the n-th tenant for thirty days that ended a day ago.
async fn invoice(till: &Till, tenant: usize, status: &str, held: bool, age: TimeDelta) -> DateTime<Utc> {
    let end = (till.now() - TimeDelta::days(1)).trunc_subsecs(0);
    sqlx::query(
        "INSERT INTO invoice (id, tenant, status, held, currency, total_minor, period_start, period_end, created_at, fetched_at)
         VALUES ('in_' || $1::text, $2, $3, $4, 'eur', 0, $5, $6, $7, $7)",
    )
    .bind(i64::try_from(tenant).unwrap())
    .bind(till.tenants[tenant].0)
    .bind(status)
    .bind(held)
    .bind(end - TimeDelta::days(30))
    .bind(end)
    .bind(till.now() - age)
    .execute(till.db())
    .await
    .unwrap();
    end
}

/// The moment that a batch is told for, and whether it was carried forward.
async fn told(till: &Till, batch: Uuid) -> (DateTime<Utc>, bool) {
    sqlx::query_as("SELECT event_at, carried_forward FROM usage_batch WHERE id = $1")
        .bind(batch)
        .fetch_one(till.db())
        .await
        .unwrap()
}

/// Shown to fail: with what the sealer decided taken for good, Stripe counts the first two and nobody bills them.
#[tokio::test]
async fn what_is_sent_after_its_invoice_is_final_is_on_the_next_one() {
    let till = Till::new(4).await;
    let mut batches = Vec::new();
    for tenant in 0..4 {
        batches.push(till.batch(tenant, 5, TimeDelta::days(2)).await);
    }
    let end = invoice(&till, 0, "open", false, TimeDelta::days(1)).await;
    // Stripe made it final; we have not heard of it.
    invoice(&till, 1, "draft", false, TimeDelta::hours(2)).await;
    invoice(&till, 2, "draft", true, TimeDelta::hours(2)).await;
    invoice(&till, 3, "draft", false, TimeDelta::minutes(20)).await;
    assert_eq!(till.round().await.delivered, 4);
    for (tenant, batch) in batches.into_iter().enumerate() {
        let (at, carried) = told(&till, batch).await;
        assert_eq!((carried, at >= end), (tenant < 2, tenant < 2), "tenant {tenant}");
        let there = till.stripe.usage(&till.tenants[tenant].1, WORK_EVENT);
        assert_eq!(there[0].timestamp, at.timestamp(), "tenant {tenant}");
    }
}

/// Shown to fail: sent again as it is, the second one is counted in a period that is billed already.
#[tokio::test]
async fn what_is_unknown_when_its_invoice_becomes_final_is_settled_by_what_stripe_counted() {
    let till = Till::new(2).await;
    let there = till.batch(0, 5, TimeDelta::days(2)).await;
    let lost = till.batch(1, 6, TimeDelta::days(2)).await;
    till.stripe.faults().always(METER_EVENT, Fault::Reset { done: true });
    while till.state(there).await.1 == 0 || till.state(lost).await.1 == 0 {
        till.round().await;
    }
    till.stripe.faults().clear();
    assert!(till.stripe.lose_usage(&format!("ub:{lost}")));
    let end = invoice(&till, 0, "open", false, TimeDelta::hours(2)).await;
    invoice(&till, 1, "open", false, TimeDelta::hours(2)).await;
    till.clock().advance(MINUTE);
    let sent = till.round().await;
    assert_eq!((sent.attempts, sent.quarantined), (0, 2), "{sent:?}");
    assert_eq!(
        settle_unknown(&till.billing).await.unwrap(),
        Settled::default(),
        "it may be counted in a moment"
    );
    till.clock().advance(MINUTE * 11);
    let settled = settle_unknown(&till.billing).await.unwrap();
    assert_eq!(settled, Settled { delivered: 1, requeued: 1, unexplained: 0 });
    till.send_all(MINUTE).await;
    let ((early, stays), (late, carried)) = (told(&till, there).await, told(&till, lost).await);
    assert_eq!((early < end, stays, late >= end - MINUTE, carried), (true, false, true, true));
    assert_eq!((till.counted(0), till.counted(1)), (5, 6));
}

/// Shown to fail: with "delivered earlier" taken for a delivery, it is done and Stripe counts nothing, for good; with
/// `may_be_sent` not waiting until Stripe has forgotten it.
#[tokio::test]
async fn an_identifier_that_is_known_proves_nothing_of_what_was_seen_to_be_missing() {
    let till = Till::new(1).await;
    let batch = till.batch(0, 9, TimeDelta::hours(1)).await;
    till.send_all(MINUTE).await;
    assert!(till.stripe.lose_count(&format!("ub:{batch}")));
    sqlx::query(
        "UPDATE usage_batch SET state = 'ready', delivered_via = NULL, settled_at = NULL, first_sent_at = NULL,
                requeued_at = $1, salt = salt + 1",
    )
    .bind(till.now())
    .execute(till.db())
    .await
    .unwrap();
    let sent = till.round().await;
    assert_eq!((sent.attempts, sent.delivered, sent.quarantined), (1, 0, 1), "{sent:?}");
    till.clock().advance(MINUTE * 11);
    assert_eq!(settle_unknown(&till.billing).await.unwrap(), Settled::default(), "Stripe knows it still");
    assert_eq!(till.state(batch).await.0, "quarantined");
    till.clock().advance(TimeDelta::hours(25));
    assert_eq!(settle_unknown(&till.billing).await.unwrap().requeued, 1);
    till.send_all(MINUTE).await;
    assert_eq!((till.state(batch).await.0.as_str(), till.counted(0)), ("delivered", 9));
}

/// Shown to fail: with every refusal final, the batch is rejected, and sent by hand a day later it counts twice.
#[tokio::test]
async fn a_refusal_says_nothing_of_an_attempt_before_it() {
    let till = Till::new(1).await;
    let batch = till.batch(0, 7, TimeDelta::hours(1)).await;
    till.stripe.faults().once(METER_EVENT, Fault::Reset { done: true });
    till.stripe.faults().once(METER_EVENT, Fault::Refused);
    assert_eq!(till.round().await.unknown, 1);
    till.clock().advance(MINUTE);
    let sent = till.round().await;
    assert_eq!((sent.rejected, sent.quarantined), (0, 1), "{sent:?}");
    assert!(till.incidents().await.iter().any(|(kind, _)| kind == watch::kind::QUARANTINED));
    till.clock().advance(MINUTE * 11);
    assert_eq!(settle_unknown(&till.billing).await.unwrap().delivered, 1);
    assert_eq!((till.state(batch).await.2.as_deref(), till.counted(0)), (Some("summary_check"), 7));

    // What stands between us and Stripe is not Stripe.
    let batch = till.batch(0, 1, TimeDelta::minutes(30)).await;
    till.stripe.faults().once(METER_EVENT, Fault::Html400);
    let sent = till.round().await;
    assert_eq!((sent.rejected, sent.unknown), (0, 1), "{sent:?}");
    till.clock().advance(MINUTE);
    till.send_all(MINUTE).await;
    assert_eq!((till.state(batch).await.0.as_str(), till.counted(0)), ("delivered", 8));
}

/// What Stripe refused, and nothing else was tried, it does not have: it goes again at once.
#[tokio::test]
async fn what_was_only_refused_is_sent_again_by_hand() {
    let till = Till::new(1).await;
    let batch = till.batch(0, 7, TimeDelta::hours(1)).await;
    till.stripe.faults().once(METER_EVENT, Fault::Refused);
    assert_eq!(till.round().await.rejected, 1);
    let how = Settle { r#as: SettleAs::Resend, reason: "it is put right".to_owned() };
    quarantine_settle(&till.billing, &tester(), &format!("ub:{batch}"), &how).await.unwrap();
    till.send_all(MINUTE).await;
    assert_eq!((till.state(batch).await.0.as_str(), till.counted(0)), ("delivered", 7));
}

/// A correction is made for the moment of the fact that it corrects. Guards against: with only later moments taken for newer,
/// it is void, and nobody is told.
#[tokio::test]
async fn a_correction_of_a_reading_counts_at_the_same_moment() {
    let scene = Scene::new().await;
    let mut conn = scene.world.db().acquire().await.unwrap();
    let reading = |key: &str, source: &str, quantity, seconds| Fact {
        meter: "seats".into(),
        source: source.into(),
        ..scene.fact(key, quantity, scene.window + TimeDelta::seconds(seconds))
    };
    record(&mut conn, &reading("a", "test", 5, 20)).await.unwrap();
    scene.at(scene.window + TimeDelta::seconds(400));
    scene.seal().await;
    record_many(&mut conn, &[reading("cor_same", "correction", 3, 20)]).await.unwrap();
    scene.seal().await;
    record_many(&mut conn, &[reading("cor_older", "correction", 4, 10)]).await.unwrap();
    scene.seal().await;
    let said: Vec<_> = scene.batches().await.into_iter().map(|one| (one.quantity, one.state)).collect();
    let wanted = [(5, "ready"), (3, "ready"), (4, "void")];
    assert_eq!(said, wanted.map(|(quantity, state)| (quantity, state.to_owned())));
    let open: Vec<(String, String)> =
        sqlx::query_as("SELECT kind, subject FROM billing_incident WHERE settled_at IS NULL")
            .fetch_all(scene.world.db())
            .await
            .unwrap();
    assert_eq!(open, [(sealer::CORRECTION_VOID.to_owned(), "cor_older".to_owned())]);
}

#[tokio::test]
async fn taking_away_from_a_final_period_says_that_a_credit_note_is_needed() {
    let till = Till::new(1).await;
    let end = invoice(&till, 0, "paid", false, TimeDelta::days(1)).await;
    let mut conn = till.db().acquire().await.unwrap();
    for (quantity, at, warns) in [(-4, end - MINUTE, true), (4, end - MINUTE, false), (-4, end, false)] {
        let about = (till.tenants[0].0, quantity, at);
        let warning = credit_warning(&mut conn, about, till.now()).await.unwrap();
        assert_eq!(warning.is_some(), warns, "{quantity} at {at}");
    }
}
