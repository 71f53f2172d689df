//! What is left over when a period is closed: periods that begin within a minute, what is owed to a customer, what nobody bills.

use chrono::{DurationRound, TimeDelta};
use freehold::billing::customers;
use freehold::billing::finance::report::{ReportFilter, ReportRow, report};
use freehold::billing::incidents::{self, IncidentId};
use freehold::billing::ledger::{NewCorrection, correction_ask, correction_decide};
use freehold::billing::reconcile::duties::{Accept, accept};
use freehold::billing::reconcile::{Ask, Class, Difference, Level, RunDetail, RunState, reconcile_run};
use freehold::control_plane::audit::Caller;
use freehold::identity::operators::{OperatorRole, actor_of};
use freehold::testkit::tester;

use super::closing::House;
use super::shop::Shop;

const MINUTE: TimeDelta = TimeDelta::minutes(1);

async fn compare(house: &House) -> RunDetail {
    reconcile_run(&house.shop.billing, &tester(), &Ask::default()).await.unwrap()
}

fn of_class(run: &RunDetail, class: Class) -> Vec<&Difference> {
    run.differences.iter().filter(|one| one.class == class).collect()
}

async fn incident(house: &House, kind: &str) -> Option<(IncidentId, String)> {
    let mut conn = house.shop.db().acquire().await.unwrap();
    let open = incidents::list(&mut conn, false, 100).await.unwrap();
    open.into_iter().find(|one| one.kind == kind).map(|one| (one.id, one.subject))
}

async fn row(house: &House, invoice: &str, meter: &str) -> ReportRow {
    let filter = ReportFilter {
        tenant: Some("acme".to_owned()),
        from: Some(house.begin.date_naive()),
        to: Some(house.shop.now().date_naive()),
        ..ReportFilter::default()
    };
    let mut conn = house.shop.db().acquire().await.unwrap();
    let rows = report(&mut conn, false, &filter, house.shop.now()).await.unwrap().items;
    let is =
        |row: &&ReportRow| row.invoice.as_deref() == Some(invoice) && row.meter.as_deref() == Some(meter);
    rows.iter().find(is).cloned().unwrap_or_else(|| panic!("{rows:?}"))
}

/// Stripe says what it counted by whole minutes, and a period may begin and end within one: the first hours of a subscription
/// do. Shown to fail: with the end cut to the minute in `period_at_home`, what was used at the end is not in the period, and a
/// sound draft is held. Guards the days at the edges in the report, not yet seen to fail.
#[tokio::test]
async fn a_period_that_begins_within_a_minute_is_compared_to_the_second() {
    let shop = Shop::open().await;
    let next = shop.now().duration_trunc(MINUTE * 5).unwrap() + MINUTE * 5 + TimeDelta::seconds(8);
    shop.pass(next - shop.now());
    let house = House::in_shop(shop).await;
    let minute = house.begin.duration_trunc(MINUTE * 5).unwrap();
    assert!(house.begin > minute + TimeDelta::seconds(5) && house.begin < minute + MINUTE, "{}", house.begin);
    house.at(house.begin + TimeDelta::hours(2) - house.end);
    house.tasks(2, house.begin - TimeDelta::seconds(5)).await;
    house.tasks(3, house.begin + MINUTE * 60).await;
    house.deliver().await;
    house.at(MINUTE);
    house.tasks(4, house.end - TimeDelta::seconds(5)).await;
    house.at(MINUTE * 12);
    house.deliver().await;
    house.at(MINUTE * 20);
    let invoice = house.draft().await;
    house.relay().await;
    house.close().await;
    assert_eq!(house.stands(&invoice).await, (true, false), "{:?}", compare(&house).await);
    house.at(TimeDelta::hours(4));
    compare(&house).await;
    let row = row(&house, &invoice, "tasks_created").await;
    assert_eq!((row.ledger_qty, row.stripe_qty, row.invoiced_qty), (7, Some(7), Some(7)), "{row:?}");
}

/// 1,500 tasks are billed: 500 beyond what is included, for 10.00. A month later 600 of them are taken away, and none is used:
/// gives the second invoice.
async fn owing() -> (House, String) {
    let mut house = House::new().await;
    house.tasks(1_500, house.end - MINUTE * 60).await;
    house.deliver().await;
    house.at(MINUTE * 12);
    let first = house.draft().await;
    house.relay().await;
    house.close().await;
    assert_eq!(house.stands(&first).await, (true, false), "{:?}", house.pending().await);
    house.at(TimeDelta::hours(3));
    customers::refresh_invoice(&house.shop.billing, &first).await.unwrap();
    let cp = &house.shop.billing.cp;
    let ada = house.shop.operator("ada", OperatorRole::Finance).await.0;
    let bob = house.shop.operator("bob", OperatorRole::Finance).await.0;
    let as_operator = |id| Caller { actor: actor_of(id), request_id: None };
    let new = NewCorrection {
        tenant: house.tenant,
        meter: "tasks_created".to_owned(),
        quantity: -600,
        occurred_at: Some(house.end - MINUTE * 59),
        corrects: None,
        reason: "imported twice".to_owned(),
        reference: None,
    };
    let asked = correction_ask(cp, &as_operator(ada.id), &new).await.unwrap();
    correction_decide(cp, &as_operator(bob.id), asked.id, true).await.unwrap();
    house.deliver().await;
    let next = house.shop.billing.stripe.subscription(&house.subscription).await.unwrap();
    (house.begin, house.end) = (next.period_start, next.period_end);
    house.at(MINUTE * 12);
    let second = house.draft().await;
    house.relay().await;
    house.close().await;
    // Stripe takes no credit note for a draft: what is owed does not hold it.
    assert_eq!(house.stands(&second).await, (true, false));
    assert!(incident(&house, "credit_due").await.is_some());
    house.at(TimeDelta::hours(3));
    customers::refresh_invoice(&house.shop.billing, &second).await.unwrap();
    (house, second)
}

/// Shown to fail: with the invoices that owe left out of `stored`, it is forgotten after 35 days. Guards `is_credited` and the class in
/// the report, not yet seen to fail: with any credit note taken for enough, one of a cent ends it.
#[tokio::test]
async fn what_is_owed_to_a_customer_stands_until_credit_notes_cover_it() {
    let (house, invoice) = owing().await;
    let subject = format!("{invoice}:tasks_created:{}", house.begin.date_naive());
    let owed = async || {
        let run = compare(&house).await;
        let found = of_class(&run, Class::CreditDue).into_iter().map(|one| (one.subject.clone(), one.ours));
        (found.collect::<Vec<_>>(), run)
    };
    let (found, run) = owed().await;
    assert_eq!(found, [(subject.clone(), -600)], "{run:?}");
    let detail = &of_class(&run, Class::CreditDue)[0].detail;
    assert!(detail.contains("worth 1000 eur"), "no more than was charged: {detail}");
    assert_eq!(row(&house, &invoice, "tasks_created").await.diff_class, Some(Class::CreditDue));
    let (_, about) = incident(&house, "credit_due").await.expect("somebody is told");
    assert_eq!(about, subject);

    let credit = async |minor: i64| {
        let minor = minor.to_string();
        let fields = [("invoice", invoice.as_str()), ("amount", &minor), ("out_of_band_amount", &minor)];
        let note = house.shop.at_stripe("/v1/credit_notes", &fields).await;
        assert_eq!(note["object"], "credit_note", "{note}");
        customers::refresh_invoice(&house.shop.billing, &invoice).await.unwrap();
    };
    credit(10).await;
    assert_eq!(owed().await.0.len(), 1, "a little is not all");
    house.shop.pass(TimeDelta::days(50));
    assert_eq!(owed().await.0.len(), 1, "however long ago");
    credit(990).await;
    let (found, run) = owed().await;
    assert!(found.is_empty(), "{run:?}");
    assert_eq!(of_class(&run, Class::Settled).len(), 1, "{run:?}");
    assert_eq!(incident(&house, "credit_due").await, None);
    assert_eq!(row(&house, &invoice, "tasks_created").await.diff_class, Some(Class::Settled));
}

/// Shown to fail: with `decisions` that finds none, it stands although finance has decided.
#[tokio::test]
async fn finance_decides_about_what_is_owed_and_is_asked_again_about_more() {
    let (house, invoice) = owing().await;
    compare(&house).await;
    let (id, subject) = incident(&house, "credit_due").await.expect("an incident");
    let cp = &house.shop.billing.cp;
    incidents::settle(
        &mut house.shop.db().acquire().await.unwrap(),
        "credit_due",
        &subject,
        "ada",
        cp.clock.now(),
    )
    .await
    .unwrap();
    assert_eq!(of_class(&compare(&house).await, Class::CreditDue).len(), 1);
    let how = Accept { reason: "paid back by bank transfer".to_owned() };
    assert!(accept(cp, &tester(), id, &how).await.is_err(), "it is not open any more");
    let (id, _) = incident(&house, "credit_due").await.expect("it is open again");
    let accepted = accept(cp, &tester(), id, &how).await.unwrap();
    assert!(accepted.settled_at.is_some());
    let run = compare(&house).await;
    assert!(of_class(&run, Class::CreditDue).is_empty(), "{run:?}");
    assert!(of_class(&run, Class::Settled)[0].detail.contains("finance decided"), "{run:?}");
    assert_eq!(row(&house, &invoice, "tasks_created").await.diff_class, Some(Class::Settled));
    let lines: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM audit WHERE action = 'billing.incident.accept' AND detail ->> 'reason' = $1",
    )
    .bind(&how.reason)
    .fetch_one(house.shop.db())
    .await
    .unwrap();
    assert_eq!(lines, 1);
    // It was about fewer.
    sqlx::query("UPDATE reconcile_decision SET units = 599").execute(house.shop.db()).await.unwrap();
    assert_eq!(of_class(&compare(&house).await, Class::CreditDue).len(), 1);
    // What is no such duty is put right, not accepted.
    let held = sqlx::query_scalar(
        "SELECT id FROM billing_incident WHERE kind = 'reconcile_differs' AND settled_at IS NULL",
    )
    .fetch_one(house.shop.db())
    .await
    .unwrap();
    assert_eq!(accept(cp, &tester(), held, &how).await.unwrap_err().code().name, "state_conflict");
}

/// A subscription ends, its last invoice is final, and then comes use of before. Shown to fail: with a
/// `for_no_invoice` that finds nothing, it is "on the next invoice", and there is none.
#[tokio::test]
async fn what_comes_after_the_last_invoice_is_billed_by_nobody_and_shown() {
    let house = House::new().await;
    let billing = &house.shop.billing;
    billing.stripe.subscription_cancel(&house.subscription, false, "cancel".to_owned()).await.unwrap();
    house.tasks(3, house.end - MINUTE * 60).await;
    house.deliver().await;
    house.at(TimeDelta::hours(3));
    customers::refresh_subscription(billing, &house.subscription).await.unwrap();
    customers::refresh_invoices_of(billing, &house.customer).await.unwrap();
    assert_eq!(of_class(&compare(&house).await, Class::Unbilled).len(), 0);
    house.tasks(5, house.end - MINUTE * 59).await;
    house.deliver().await;
    house.at(TimeDelta::hours(6));
    let run = compare(&house).await;
    let found = of_class(&run, Class::Unbilled);
    assert_eq!((run.run.state, found.len()), (RunState::Red, 1), "{run:?}");
    assert_eq!((found[0].level, found[0].ours, found[0].theirs), (Level::L4, 5, 0), "{run:?}");
    let (id, subject) = incident(&house, "usage_unbilled").await.expect("somebody is told");
    assert_eq!(subject, found[0].subject);
    let how = Accept { reason: "five tasks: waived".to_owned() };
    accept(&billing.cp, &tester(), id, &how).await.unwrap();
    let run = compare(&house).await;
    assert!(of_class(&run, Class::Unbilled).is_empty(), "{run:?}");
    assert_eq!(of_class(&run, Class::Settled).len(), 1, "{run:?}");
}
