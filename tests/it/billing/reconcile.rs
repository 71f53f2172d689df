//! Differences that are planted are named, and only what is proven absent is put right.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use freehold::billing::ledger::{Fact, months, record_many, sealer};
use freehold::billing::reconcile::{
    Ask, Class, Level, RunDetail, RunState, is_red, last_run, reconcile_run, regular,
};
use freehold::testkit::tester;

use super::till::{Till, WORK_EVENT};

/// A till with facts: what is sealed of them is delivered, and long enough ago that Stripe's count holds it.
struct Books {
    till: Till,
    /// The beginning of a window, some hours ago.
    base: DateTime<Utc>,
}

impl Books {
    async fn new(tenants: usize) -> Self {
        let till = Till::new(tenants).await;
        months::months_make(&till.billing.cp).await.unwrap();
        let base = (till.now() - TimeDelta::days(4)).duration_trunc(TimeDelta::days(1)).unwrap();
        Self { till, base }
    }

    /// A fact of the n-th tenant, that many days and windows after the beginning.
    async fn fact(&self, tenant: usize, quantity: i64, day: i64, window: i64) {
        let at = self.base + TimeDelta::days(day) + TimeDelta::minutes(5 * window + 1);
        let fact = Fact {
            tenant: self.till.tenants[tenant].0,
            meter: "work".into(),
            source: "test".into(),
            key: format!("{tenant}:{day}:{window}:{quantity}"),
            quantity,
            occurred_at: at,
            received_at: at,
        };
        record_many(&mut self.till.db().acquire().await.unwrap(), &[fact]).await.unwrap();
    }

    /// Everything is sealed and delivered, three hours ago.
    async fn deliver(&self) {
        while sealer::seal(&self.till.billing.cp).await.unwrap().batches > 0 {}
        self.till.send_all(TimeDelta::minutes(1)).await;
        self.till.clock().advance(TimeDelta::hours(3));
        self.till.stripe.settle();
    }

    async fn compare(&self) -> RunDetail {
        reconcile_run(&self.till.billing, &tester(), &Ask::default()).await.unwrap()
    }

    async fn identifier(&self, tenant: usize, quantity: i64) -> String {
        sqlx::query_scalar("SELECT identifier FROM usage_batch WHERE tenant = $1 AND quantity = $2")
            .bind(self.till.tenants[tenant].0)
            .bind(quantity)
            .fetch_one(self.till.db())
            .await
            .unwrap()
    }

    /// All batches as they are, to see that nothing changed.
    async fn all(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT b::text FROM usage_batch b ORDER BY id")
            .fetch_all(self.till.db())
            .await
            .unwrap()
    }
}

fn classes(run: &RunDetail, level: Level) -> Vec<Class> {
    let mut all: Vec<Class> =
        run.differences.iter().filter(|one| one.level == level).map(|one| one.class).collect();
    all.sort();
    all
}

#[tokio::test]
async fn where_nothing_differs_nothing_is_found() {
    let books = Books::new(2).await;
    for window in 0..5 {
        books.fact(0, 3, 0, window).await;
        books.fact(1, 4, 1, window).await;
    }
    books.deliver().await;
    let run = books.compare().await;
    assert_eq!((run.run.state, run.run.checked, run.run.fixed), (RunState::Green, 2, 0), "{run:?}");
    assert!(run.differences.is_empty() && !run.differs(), "{run:?}");
}

/// Shown to fail: with `requeue` not asking for `requeued_at IS NULL` the last run sends again; without the
/// day that Stripe knows an identifier, the one try is spent on "delivered earlier" and nothing is counted.
#[tokio::test]
async fn what_is_proven_absent_goes_back_once_and_a_second_run_changes_nothing() {
    let books = Books::new(1).await;
    for (window, quantity) in [(0, 1), (10, 2), (20, 4), (30, 8), (250, 16)] {
        books.fact(0, quantity, 0, window).await;
    }
    books.fact(0, 32, 1, 0).await;
    books.deliver().await;
    let (customer, lost) = (books.till.tenants[0].1.clone(), books.identifier(0, 4).await);
    assert!(books.till.stripe.lose_count(&lost));
    assert_eq!(books.till.counted(0), 59);

    // Stripe knows its identifier still.
    let before = books.all().await;
    let early = books.compare().await;
    assert_eq!(
        (early.run.state, early.run.fixed, books.all().await),
        (RunState::Green, 0, before),
        "{early:?}"
    );
    assert_eq!(classes(&early, Level::L3), [Class::Pending], "{early:?}");
    assert!(early.differences[0].detail.contains("forgotten"), "{early:?}");
    books.till.clock().advance(TimeDelta::hours(22));

    let first = books.compare().await;
    assert_eq!((first.run.state, first.run.fixed), (RunState::Red, 1), "{first:?}");
    assert_eq!(classes(&first, Level::L3), [Class::MissingAtStripe], "{first:?}");
    let found = &first.differences[0];
    assert_eq!((found.ours, found.theirs, found.fixed), (31, 27, true), "{found:?}");
    let waiting: Vec<String> = sqlx::query_scalar("SELECT identifier FROM usage_batch WHERE state = 'ready'")
        .fetch_all(books.till.db())
        .await
        .unwrap();
    assert_eq!(waiting, std::slice::from_ref(&lost));

    // Before it is sent again, and after.
    let before = books.all().await;
    let second = books.compare().await;
    assert_eq!((second.run.fixed, books.all().await), (0, before), "{second:?}");
    assert_eq!(classes(&second, Level::L2), [Class::Pending], "{second:?}");
    books.deliver().await;
    let third = books.compare().await;
    assert_eq!((third.run.state, third.run.fixed), (RunState::Green, 0), "{third:?}");
    assert_eq!(books.till.counted(0), 63);
    assert_eq!(books.till.stripe.usage(&customer, WORK_EVENT).len(), 6);

    // Lost a second time, it is for a person.
    assert!(books.till.stripe.lose_count(&lost));
    let before = books.all().await;
    let fourth = books.compare().await;
    assert_eq!((fourth.run.state, fourth.run.fixed), (RunState::Red, 0), "{fourth:?}");
    assert_eq!(classes(&fourth, Level::L3), [Class::MissingAtStripe]);
    assert_eq!(books.all().await, before);
}

/// Shown to fail: with the first answer taken in `absent`, of two equal batches perhaps the one that is there is sent again.
#[tokio::test]
async fn nothing_is_reduced_and_nothing_is_sent_on_a_guess() {
    let books = Books::new(1).await;
    books.fact(0, 5, 0, 0).await;
    books.deliver().await;
    // Late for the same window: the same minute at Stripe, and the same quantity.
    let late = Fact {
        tenant: books.till.tenants[0].0,
        meter: "work".into(),
        source: "test".into(),
        key: "late".to_owned(),
        quantity: 5,
        occurred_at: books.base + TimeDelta::minutes(2),
        received_at: books.till.now(),
    };
    record_many(&mut books.till.db().acquire().await.unwrap(), &[late]).await.unwrap();
    books.deliver().await;
    let both: Vec<String> = sqlx::query_scalar("SELECT identifier FROM usage_batch ORDER BY seq")
        .fetch_all(books.till.db())
        .await
        .unwrap();
    assert_eq!(both.len(), 2);
    books.till.stripe.lose_usage(&both[0]);
    let run = books.compare().await;
    assert_eq!(classes(&run, Level::L3), [Class::MissingAtStripe], "{run:?}");
    assert_eq!((run.run.fixed, run.differences[0].fixed), (0, false), "which of the two?");
    // More than we sent stays.
    let (customer, at) = (&books.till.tenants[0].1, books.base + TimeDelta::days(1));
    books.till.stripe.plant_usage(customer, WORK_EVENT, 100, at.timestamp());
    let run = books.compare().await;
    assert_eq!(classes(&run, Level::L3), [Class::MissingAtStripe, Class::ExtraAtStripe], "{run:?}");
    assert_eq!(books.till.counted(0), 105, "nothing is taken back");
}

#[tokio::test]
async fn every_difference_of_our_own_books_has_its_name() {
    let books = Books::new(3).await;
    books.fact(0, 3, 0, 0).await;
    books.fact(0, 9, 0, 5).await;
    books.fact(1, 4, 0, 0).await;
    books.deliver().await;
    // Somebody changes the ledger by hand.
    let tampered = books.identifier(0, 3).await;
    sqlx::query("UPDATE usage_event SET quantity = 2 WHERE quantity = 3")
        .execute(books.till.db())
        .await
        .unwrap();
    // Stripe refuses one of another tenant; one more is on its way.
    books.fact(1, 7, 1, 0).await;
    books.fact(2, 8, 1, 0).await;
    while sealer::seal(&books.till.billing.cp).await.unwrap().batches > 0 {}
    let refused = books.identifier(1, 7).await;
    sqlx::query(
        "UPDATE usage_batch SET state = 'rejected', error = 'no such customer' WHERE identifier = $1",
    )
    .bind(&refused)
    .execute(books.till.db())
    .await
    .unwrap();
    let run = books.compare().await;
    let mut found: Vec<(Level, Class, &str)> =
        run.differences.iter().map(|one| (one.level, one.class, one.subject.as_str())).collect();
    found.sort();
    let pending = books.identifier(2, 8).await;
    let mut wanted = vec![
        (Level::L1, Class::LedgerMismatch, tampered.as_str()),
        (Level::L2, Class::Pending, pending.as_str()),
        (Level::L2, Class::Rejected, refused.as_str()),
    ];
    wanted.sort();
    assert_eq!(found, wanted, "{run:?}");
    assert!(run.differs() && run.run.fixed == 0);
    let mut conn = books.till.db().acquire().await.unwrap();
    for (tenant, red) in [(0, true), (1, true), (2, false)] {
        assert_eq!(is_red(&mut conn, false, books.till.tenants[tenant].0).await.unwrap(), red, "{tenant}");
    }
    let open = books.till.incidents().await;
    assert!(open.iter().any(|(kind, _)| kind == "reconcile_differs"), "{open:?}");
}

#[tokio::test]
async fn what_was_just_delivered_is_pending_and_stripe_s_silence_is_no_difference() {
    let books = Books::new(1).await;
    books.fact(0, 5, 0, 0).await;
    while sealer::seal(&books.till.billing.cp).await.unwrap().batches > 0 {}
    books.till.stripe.summary_lag(std::time::Duration::from_secs(3600));
    books.till.send_all(TimeDelta::minutes(1)).await;
    let run = books.compare().await;
    assert_eq!((run.run.state, classes(&run, Level::L3)), (RunState::Green, vec![Class::Pending]), "{run:?}");
    books.till.stripe.faults().always("", freehold::testkit::stripe::Fault::Html502 { done: false });
    let run = books.compare().await;
    assert_eq!(run.run.state, RunState::Failed, "{run:?}");
    assert!(run.run.error.is_some() && run.differs());
}

/// Guards, not yet seen to fail: with the usual days alone looked at, what was refused is forgotten after 35 of them, and the
/// comparison is green.
#[tokio::test]
async fn what_waits_for_a_person_is_found_however_old_it_is() {
    let books = Books::new(1).await;
    books.fact(0, 5, 0, 0).await;
    while sealer::seal(&books.till.billing.cp).await.unwrap().batches > 0 {}
    sqlx::query("UPDATE usage_batch SET state = 'rejected', error = 'no such customer'")
        .execute(books.till.db())
        .await
        .unwrap();
    books.till.clock().advance(TimeDelta::days(60));
    let run = books.compare().await;
    assert_eq!((run.run.state, classes(&run, Level::L2)), (RunState::Red, vec![Class::Rejected]), "{run:?}");
}

#[tokio::test]
async fn only_to_look_changes_nothing() {
    let books = Books::new(1).await;
    books.fact(0, 5, 0, 0).await;
    books.deliver().await;
    books.till.stripe.lose_usage(&books.identifier(0, 5).await);
    let before = books.all().await;
    let wish = Ask { look_only: true, ..Ask::default() };
    let run = reconcile_run(&books.till.billing, &tester(), &wish).await.unwrap();
    assert_eq!((run.run.state, run.run.fixed), (RunState::Red, 0));
    assert_eq!(books.all().await, before);
}

/// Shown to fail: with any answer of Stripe's ending the run, nobody after this tenant is compared, tonight or ever.
#[tokio::test]
async fn one_tenant_that_stripe_refuses_does_not_keep_the_others_from_being_compared() {
    let books = Books::new(2).await;
    books.fact(0, 3, 0, 0).await;
    books.fact(1, 4, 0, 0).await;
    books.deliver().await;
    sqlx::query("UPDATE billing_account SET customer = 'cus_gone' WHERE tenant = $1")
        .bind(books.till.tenants[0].0)
        .execute(books.till.db())
        .await
        .unwrap();
    let run = books.compare().await;
    assert_eq!((run.run.state, run.run.checked), (RunState::Red, 2), "{run:?}");
    assert_eq!(run.differences.len(), 1, "{run:?}");
    let found = &run.differences[0];
    assert_eq!((found.class, found.tenant), (Class::NotCompared, Some(books.till.tenants[0].0)), "{run:?}");
}

/// Shown to fail: with a nightly run that fails at once, it begins again at the first tenant each hour.
#[tokio::test]
async fn a_nightly_run_waits_for_stripe_where_it_is() {
    let books = Books::new(1).await;
    books.till.clock().advance(TimeDelta::days(2));
    let faults = books.till.stripe.faults();
    faults.always("", freehold::testkit::stripe::Fault::Html502 { done: false });
    regular::nightly(books.till.billing.clone()).await.unwrap();
    let (state, error): (String, Option<String>) =
        sqlx::query_as("SELECT state, error FROM reconcile_run").fetch_one(books.till.db()).await.unwrap();
    assert_eq!((state.as_str(), error.is_some()), ("running", true));
    faults.clear();
    // The minutes that it waits.
    sqlx::query("UPDATE reconcile_run SET leased_until = NULL").execute(books.till.db()).await.unwrap();
    regular::nightly(books.till.billing.clone()).await.unwrap();
    let run = last_run(&mut books.till.db().acquire().await.unwrap(), false).await.unwrap().expect("a run");
    assert_eq!((run.state, run.checked, run.error), (RunState::Green, 1, None));
}
