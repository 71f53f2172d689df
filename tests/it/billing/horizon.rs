//! What time does to a batch on its way: its invoice becomes final, Stripe forgets its identifier, and what was known of it
//! before says how an answer is read.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use freehold::billing::finance::quarantine::{Settle, SettleAs, quarantine_settle};
use freehold::billing::ledger::finals::credit_warning;
use freehold::billing::ledger::{Fact, months, record, record_many, sealer};
use freehold::billing::reconcile::settle::Fate;
use freehold::billing::reconcile::{Ask, reconcile_run};
use freehold::billing::sender::settle::{Settled, settle_unknown};
use freehold::billing::sender::watch;
use freehold::billing::stripe::NewCustomer;
use freehold::testkit::stripe::Fault;
use freehold::testkit::tester;
use uuid::Uuid;

use super::ledger::Scene;
use super::till::{Till, WORK_EVENT};

const METER_EVENT: &str = "Billing.MeterEvents.create";
const MINUTE: TimeDelta = TimeDelta::minutes(1);
/// After so long Stripe's count is believed.
const COUNTED: TimeDelta = TimeDelta::minutes(121);

/// An invoice of the n-th tenant for thirty days that ended a day ago.
async fn invoice(till: &Till, tenant: usize, status: &str, held: bool, age: TimeDelta) -> DateTime<Utc> {
    let end = (till.now() - TimeDelta::days(1)).trunc_subsecs(0);
    sqlx::query(
        "INSERT INTO invoice (id, tenant, status, held, hold_told_at, currency, total_minor, period_start, period_end, created_at,
                              fetched_at)
         VALUES ('in_' || $1::text, $2, $3, $4, CASE WHEN $4 THEN $7::timestamptz END, 'eur', 0, $5, $6, $7, $7)",
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

/// Guards against: with what the sealer decided taken for good, Stripe counts the first two and nobody bills them. Shown
/// to fail: with `hold_told_at` left out of `is_final`, what is told for a draft that only we hold is never billed either.
#[tokio::test]
async fn what_is_sent_after_its_invoice_is_final_is_on_the_next_one() {
    let till = Till::new(5).await;
    let mut batches = Vec::new();
    for tenant in 0..5 {
        batches.push(till.batch(tenant, 5, TimeDelta::days(2)).await);
    }
    let end = invoice(&till, 0, "open", false, TimeDelta::days(1)).await;
    // Stripe made it final; we have not heard of it.
    invoice(&till, 1, "draft", false, TimeDelta::hours(2)).await;
    // It was to be held, and Stripe has not heard of that.
    invoice(&till, 2, "draft", true, TimeDelta::hours(2)).await;
    sqlx::query("UPDATE invoice SET hold_told_at = NULL").execute(till.db()).await.unwrap();
    invoice(&till, 3, "draft", true, TimeDelta::hours(2)).await;
    invoice(&till, 4, "draft", false, TimeDelta::minutes(20)).await;
    assert_eq!(till.round().await.delivered, 5);
    for (tenant, batch) in batches.into_iter().enumerate() {
        let (at, carried) = told(&till, batch).await;
        assert_eq!((carried, at >= end), (tenant < 3, tenant < 3), "tenant {tenant}");
        let there = till.stripe.usage(&till.tenants[tenant].1, WORK_EVENT);
        assert_eq!(there[0].timestamp, at.timestamp(), "tenant {tenant}");
    }
}

/// The invoice at the end of a trial bills nothing of it. Shown to fail: with the invoice of a trial taken for any
/// other in `is_final`, what is late for the free time is told for the first time that is paid for.
#[tokio::test]
async fn what_is_late_for_a_trial_stays_free() {
    let till = Till::new(1).await;
    months::months_make(&till.billing.cp).await.unwrap();
    let end = invoice(&till, 0, "paid", false, TimeDelta::days(1)).await;
    sqlx::query(
        "INSERT INTO subscription (id, tenant, customer, plan, status, period_start, period_end, trial_end, fetched_at)
         VALUES ('sub_trial', $1, $2, 'team', 'active', $3, $3 + interval '30 days', $3, $3)",
    )
    .bind(till.tenants[0].0)
    .bind(&till.tenants[0].1)
    .bind(end)
    .execute(till.db())
    .await
    .unwrap();
    sqlx::query("UPDATE invoice SET subscription = 'sub_trial'").execute(till.db()).await.unwrap();
    // Sealed in time and sent too late; and sealed too late.
    let sealed = till.batch(0, 5, TimeDelta::days(2)).await;
    let fact = Fact {
        tenant: till.tenants[0].0,
        meter: "work".into(),
        source: "test".into(),
        key: "late".to_owned(),
        quantity: 7,
        occurred_at: end - TimeDelta::hours(3),
        received_at: till.now(),
    };
    record_many(&mut till.db().acquire().await.unwrap(), &[fact]).await.unwrap();
    sealer::seal(&till.billing.cp).await.unwrap();
    till.send_all(MINUTE).await;
    assert!(!told(&till, sealed).await.1);
    let there = till.stripe.usage(&till.tenants[0].1, WORK_EVENT);
    assert_eq!(there.len(), 2);
    assert!(there.iter().all(|one| one.timestamp < end.timestamp()), "{there:?} {end}");
}

/// Guards against: sent again as it is, the second one is counted in a period that is billed already.
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
    till.clock().advance(COUNTED);
    let settled = settle_unknown(&till.billing).await.unwrap();
    assert_eq!(settled, Settled { delivered: 1, requeued: 1, unexplained: 0 });
    till.send_all(MINUTE).await;
    let ((early, stays), (late, carried)) = (told(&till, there).await, told(&till, lost).await);
    assert_eq!((early < end, stays, late >= end - MINUTE, carried), (true, false, true, true));
    assert_eq!((till.counted(0), till.counted(1)), (5, 6));
}

/// A customer is deleted with something on its way. Guards, not yet seen to fail: with its answer ending the round, nothing of
/// anybody's newer days is settled again; kept for the customer that is gone, it is refused again and again.
#[tokio::test]
async fn a_customer_that_is_gone_keeps_nobody_else_s_from_being_settled() {
    let till = Till::new(2).await;
    let gone = till.batch(0, 5, TimeDelta::days(2)).await;
    let other = till.batch(1, 6, TimeDelta::days(1)).await;
    till.stripe.faults().times(2, METER_EVENT, Fault::Reset { done: true });
    assert_eq!(till.round().await.unknown, 2);
    till.billing.stripe.customer_delete(&till.tenants[0].1).await.unwrap();
    let new = NewCustomer { tenant: till.tenants[0].0.to_string(), name: "again".to_owned(), email: None };
    let made = till.billing.stripe.customer_create(&new, "again".to_owned()).await.unwrap().id;
    sqlx::query("UPDATE billing_account SET customer = $2 WHERE tenant = $1")
        .bind(till.tenants[0].0)
        .bind(&made)
        .execute(till.db())
        .await
        .unwrap();
    till.clock().advance(TimeDelta::hours(21));
    assert_eq!(till.round().await.quarantined, 2);
    let settled = settle_unknown(&till.billing).await.unwrap();
    assert_eq!(settled, Settled { delivered: 1, requeued: 1, unexplained: 0 });
    assert_eq!(till.state(other).await.0, "delivered");
    till.send_all(MINUTE).await;
    assert_eq!(till.state(gone).await.0, "delivered");
    assert_eq!(till.stripe.event_sum(&made, WORK_EVENT), 5, "for the customer that it has now");
}

/// With others of the same day counted before the customer went, and before there is another one: nothing is sent for the one that is
/// gone, and nothing is lost; nor is it when a person asks.
///
/// Guards `for_another` in `settle_day`, and its like in `settle_one`.
#[tokio::test]
async fn what_was_told_for_a_customer_that_is_gone_waits_for_the_next_one() {
    let till = Till::new(2).await;
    let mut unknown = Vec::new();
    for tenant in 0..2 {
        till.batch(tenant, 3, TimeDelta::days(2)).await;
    }
    till.send_all(MINUTE).await;
    for tenant in 0..2 {
        unknown.push(till.batch(tenant, 5, TimeDelta::days(2)).await);
    }
    till.stripe.faults().times(2, METER_EVENT, Fault::Reset { done: true });
    assert_eq!(till.round().await.unknown, 2);
    for (_, customer) in &till.tenants {
        till.billing.stripe.customer_delete(customer).await.unwrap();
    }
    till.clock().advance(TimeDelta::hours(21));
    assert_eq!(till.round().await.quarantined, 2);
    let settled = settle_unknown(&till.billing).await.unwrap();
    assert_eq!(settled, Settled { delivered: 0, requeued: 0, unexplained: 2 });
    assert!(till.incidents().await.iter().any(|(kind, _)| kind == watch::kind::UNSETTLED));
    let check = async || {
        let how = Settle { r#as: SettleAs::Check, reason: "a customer asks".to_owned() };
        quarantine_settle(&till.billing, &tester(), &format!("ub:{}", unknown[1]), &how).await.unwrap().fate
    };
    assert_eq!(check().await, Some(Fate::Unclear));
    let mut made = Vec::new();
    for (tenant, _) in &till.tenants {
        let new = NewCustomer { tenant: tenant.to_string(), name: "again".to_owned(), email: None };
        let id = till.billing.stripe.customer_create(&new, format!("again:{tenant}")).await.unwrap().id;
        sqlx::query("UPDATE billing_account SET customer = $2 WHERE tenant = $1")
            .bind(tenant)
            .bind(&id)
            .execute(till.db())
            .await
            .unwrap();
        made.push(id);
    }
    assert_eq!(check().await, Some(Fate::Requeued));
    let settled = settle_unknown(&till.billing).await.unwrap();
    assert_eq!(settled, Settled { delivered: 0, requeued: 1, unexplained: 0 });
    till.send_all(MINUTE).await;
    for customer in &made {
        assert_eq!(till.stripe.event_sum(customer, WORK_EVENT), 5);
    }
}

/// Told in time and counted late; moved past its invoice because it seemed to be missing; sent, and nobody answered; and then
/// Stripe says that it knows it. Shown to fail: with `moved` never true in `next_due`, it is taken for delivered as of the new moment,
/// is missing there, and is sent a second time as soon as Stripe has forgotten its identifier.
#[tokio::test]
async fn what_was_moved_and_is_known_from_before_is_where_stripe_counts_it() {
    let till = Till::new(1).await;
    let batch = till.batch(0, 5, TimeDelta::days(2)).await;
    let (first, _) = told(&till, batch).await;
    till.stripe.faults().once(METER_EVENT, Fault::Reset { done: true });
    assert_eq!(till.round().await.unknown, 1);
    let end = invoice(&till, 0, "open", false, TimeDelta::hours(2)).await;
    till.stripe.summary_lag(std::time::Duration::from_secs(20 * 3600));
    till.clock().advance(MINUTE);
    assert_eq!(till.round().await.quarantined, 1);
    till.clock().advance(COUNTED);
    assert_eq!(
        settle_unknown(&till.billing).await.unwrap().requeued,
        1,
        "Stripe's count does not hold it yet"
    );
    till.stripe.faults().once(METER_EVENT, Fault::Reset { done: false });
    assert_eq!(till.round().await.unknown, 1);
    assert_eq!(told(&till, batch).await, (end, true), "it was moved");
    till.clock().advance(MINUTE);
    let sent = till.round().await;
    assert_eq!((sent.delivered, sent.quarantined), (0, 1), "known, as of nobody knows when: {sent:?}");
    till.stripe.summary_lag(std::time::Duration::ZERO);
    till.clock().advance(COUNTED);
    let settled = settle_unknown(&till.billing).await.unwrap();
    assert_eq!(settled, Settled { delivered: 1, requeued: 0, unexplained: 0 });
    assert_eq!((told(&till, batch).await, till.counted(0)), ((first, false), 5));
    till.clock().advance(TimeDelta::hours(30));
    let run = reconcile_run(&till.billing, &tester(), &Ask::default()).await.unwrap();
    till.send_all(MINUTE).await;
    assert_eq!((run.run.fixed, till.counted(0)), (0, 5), "{run:?}");
}

/// What is sent again by hand is another event: Stripe would count both. Guards against, not yet seen to fail: with the count of
/// a moment ago believed, it is counted twice.
#[tokio::test]
async fn by_hand_nothing_is_sent_again_before_stripe_s_count_can_be_believed() {
    let till = Till::new(1).await;
    let batch = till.batch(0, 7, TimeDelta::hours(1)).await;
    till.send_all(MINUTE).await;
    let aside = async |state: &str| {
        sqlx::query("UPDATE usage_batch SET state = $1, delivered_via = NULL, settled_at = NULL")
            .bind(state)
            .execute(till.db())
            .await
            .unwrap();
    };
    let settle = async |r#as| {
        let how = Settle { r#as, reason: "Stripe says that it could not count it".to_owned() };
        quarantine_settle(&till.billing, &tester(), &format!("ub:{batch}"), &how).await
    };
    till.stripe.summary_lag(std::time::Duration::from_secs(3600));
    aside("quarantined").await;
    assert_eq!(
        settle(SettleAs::Check).await.unwrap().fate,
        Some(Fate::Unclear),
        "it may be counted in a moment"
    );
    aside("rejected").await;
    let refused = settle(SettleAs::Resend).await.unwrap_err();
    assert_eq!(refused.code().name, "state_conflict");
    till.clock().advance(COUNTED);
    let refused = settle(SettleAs::Resend).await.unwrap_err();
    assert_eq!(refused.code().name, "state_conflict", "it is there");
    assert!(till.stripe.lose_count(&format!("ub:{batch}")));
    settle(SettleAs::Resend).await.unwrap();
    till.send_all(MINUTE).await;
    assert_eq!((till.state(batch).await.0.as_str(), till.counted(0)), ("delivered", 7));
}

/// Guards against: with "delivered earlier" taken for a delivery, it is done and Stripe counts nothing, for good.
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
    till.clock().advance(COUNTED);
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
    till.clock().advance(COUNTED);
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
