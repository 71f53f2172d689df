//! A draft is held by us, by finance, or by Stripe itself: only what we hold is let go by us, and Stripe ends where we want it.

use std::time::Duration;

use chrono::TimeDelta;
use freehold::billing::customers;
use freehold::billing::finance::standing::standing;
use freehold::billing::reconcile::{
    Ask, Class, RunState, close, difference_list, is_red, last_run, reconcile_run, regular,
};
use freehold::billing::sender::settle::{settle_unknown, settle_unknown_of};
use freehold::testkit::{eventually, tester};
use serde_json::json;

use super::closing::House;
use super::office::Office;

const MINUTE: TimeDelta = TimeDelta::minutes(1);
const HELD: &str = "draft_held";

async fn release(house: &House, invoice: &str) {
    let why = close::Release { reason: "agreed with the customer".to_owned() };
    close::invoice_release(&house.shop.billing, &tester(), invoice, &why).await.unwrap();
}

async fn is_open(house: &House, kind: &str) -> bool {
    house.shop.incidents().await.iter().any(|(one, _)| one == kind)
}

/// Whether nothing is left to tell Stripe.
async fn is_told(house: &House, invoice: &str) -> bool {
    sqlx::query_scalar(
        "SELECT held = (hold_told_at IS NOT NULL) AND hold_leased_until IS NULL FROM invoice WHERE id = $1",
    )
    .bind(invoice)
    .fetch_one(house.shop.db())
    .await
    .unwrap()
}

/// Finance holds a draft in Stripe's dashboard. Guards against: with what Stripe holds taken for ours, the worker charges somebody
/// for what finance had stopped.
#[tokio::test]
async fn what_finance_holds_at_stripe_is_not_let_go() {
    let (house, invoice) = House::closed(MINUTE * 12).await;
    house.shop.billing.stripe.invoice_hold(&invoice, true).await.unwrap();
    house.relay().await;
    house.close().await;
    assert_eq!((house.stands(&invoice).await, house.advances(&invoice)), ((true, false), false));
}

/// The same while we hold it, too. Guards `hold_advanced`: with everything that we held let go, it is charged.
#[tokio::test]
async fn what_waited_before_we_held_it_waits_afterwards() {
    let (house, invoice) = House::closed(MINUTE * 31).await;
    house.shop.billing.stripe.invoice_hold(&invoice, true).await.unwrap();
    house.close().await;
    assert_eq!(house.stands(&invoice).await, (false, true));
    release(&house, &invoice).await;
    assert_eq!((house.stands(&invoice).await, house.advances(&invoice)), ((true, false), false));
    assert!(is_told(&house, &invoice).await && !is_open(&house, HELD).await);
}

/// By Stripe's own rule. Guards against: as above; and `take` without its look at the subscription.
#[tokio::test]
async fn a_draft_of_a_subscription_that_is_ended_at_once_is_not_let_go() {
    for held in [false, true] {
        let (house, invoice) = House::closed(if held { MINUTE * 31 } else { MINUTE * 12 }).await;
        if held {
            house.close().await;
            assert_eq!((house.stands(&invoice).await, house.advances(&invoice)), ((false, true), false));
            house.at(MINUTE * 32);
        }
        let billing = &house.shop.billing;
        billing.stripe.subscription_cancel(&house.subscription, true, "end".to_owned()).await.unwrap();
        customers::refresh_subscription(billing, &house.subscription).await.unwrap();
        if held {
            release(&house, &invoice).await;
        } else {
            house.relay().await;
            house.close().await;
        }
        assert_eq!(
            (house.stands(&invoice).await, house.advances(&invoice)),
            ((true, false), false),
            "{held}"
        );
    }
}

/// Finance releases a draft while the worker is about to tell Stripe to hold it. Guards the second turn of `tell`: told once, and
/// in whatever order, Stripe holds what we say is released, and nobody looks again.
#[tokio::test]
async fn what_is_released_while_stripe_is_told_to_hold_it_goes_on() {
    let (house, invoice) = House::closed(MINUTE * 31).await;
    house.shop.stripe.faults().latency(Duration::from_millis(700));
    let billing = house.shop.billing.clone();
    let worker = tokio::spawn(async move { close::close_due(&billing).await.unwrap() });
    let house = &house;
    eventually(Duration::from_secs(20), "the draft is to be held", async || {
        if house.stands(&invoice).await.1 { Ok(()) } else { Err("not yet") }
    })
    .await;
    release(house, &invoice).await;
    worker.await.unwrap();
    house.shop.stripe.faults().latency(Duration::ZERO);
    assert_eq!((house.stands(&invoice).await, house.advances(&invoice)), ((true, false), true));
    assert!(is_told(house, &invoice).await && !is_open(house, HELD).await);
}

/// One worker finds a draft whole while another one is about to hold it. Guards `is_done`, asked after the lock: without it, or in
/// one statement with the lock, the draft is held for good, and nobody looks at it again.
#[tokio::test]
async fn what_is_found_whole_meanwhile_is_not_held() {
    let (house, invoice) = House::closed(MINUTE * 31).await;
    let mut tx = house.shop.db().begin().await.unwrap();
    sqlx::query("SELECT FROM invoice WHERE id = $1 FOR UPDATE")
        .bind(&invoice)
        .execute(&mut *tx)
        .await
        .unwrap();
    let billing = house.shop.billing.clone();
    let other = tokio::spawn(async move { close::close_due(&billing).await.unwrap() });
    let house = &house;
    eventually(Duration::from_secs(20), "the other one waits for the lock", async || {
        let waits: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                             WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%FROM invoice%')",
        )
        .fetch_one(house.shop.db())
        .await
        .unwrap();
        if waits { Ok(()) } else { Err("nobody waits") }
    })
    .await;
    sqlx::query("INSERT INTO billing_effect (object, transition, at) VALUES ($1, 'period_reconciled', $2)")
        .bind(&invoice)
        .bind(house.shop.now())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    other.await.unwrap();
    assert_eq!((house.stands(&invoice).await, house.advances(&invoice)), ((true, false), true));
    assert!(!is_open(house, HELD).await);
}

/// Stripe was told, and nobody wrote it down. Guards the lease: taken for not told, it is not told to let go.
#[tokio::test]
async fn after_a_crash_stripe_is_told_what_is_wanted_then() {
    let (house, invoice) = House::closed(MINUTE * 31).await;
    house.close().await;
    sqlx::query(
        "UPDATE invoice SET hold_told_at = NULL, hold_leased_until = clock_timestamp() + interval '1 minute' WHERE id = $1",
    )
    .bind(&invoice)
    .execute(house.shop.db())
    .await
    .unwrap();
    release(&house, &invoice).await;
    assert!(!house.advances(&invoice), "somebody else may be at it");
    sqlx::query("UPDATE invoice SET hold_leased_until = clock_timestamp() WHERE id = $1")
        .bind(&invoice)
        .execute(house.shop.db())
        .await
        .unwrap();
    house.close().await;
    assert!(house.advances(&invoice) && is_told(&house, &invoice).await);
}

/// The natural thing to do with a held draft. Guards the end of `keep`: without it, the incident stays for ever, and the invoice is
/// not collected.
#[tokio::test]
async fn a_held_draft_that_is_finalized_at_stripe_is_held_no_more() {
    let (house, invoice) = House::closed(MINUTE * 31).await;
    house.close().await;
    assert!(house.hold_told(&invoice).await && is_open(&house, HELD).await);
    house.shop.stripe.card(&house.customer, false);
    house.shop.at_stripe(&format!("/v1/invoices/{invoice}/finalize"), &[]).await;
    house.shop.hear().await;
    assert_eq!(house.stands(&invoice).await, (false, false));
    assert!(!is_open(&house, HELD).await);
    house.close().await;
    assert!(house.advances(&invoice) && is_told(&house, &invoice).await, "it is collected");
}

/// Guards `invoice.deleted`, and the settling in `forget_draft`.
#[tokio::test]
async fn a_held_draft_that_is_deleted_at_stripe_is_forgotten() {
    let (house, invoice) = House::closed(MINUTE * 31).await;
    house.close().await;
    assert!(is_open(&house, HELD).await);
    let stripe = &house.shop.stripe;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = client.delete(format!("{}/v1/invoices/{invoice}", stripe.base_url)).bearer_auth(&stripe.key);
    assert!(asked.send().await.unwrap().status().is_success());
    house.shop.hear().await;
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM invoice WHERE id = $1")
        .bind(&invoice)
        .fetch_one(house.shop.db())
        .await
        .unwrap();
    assert_eq!((there, is_open(&house, HELD).await), (0, false));
}

/// The net under all of it. Guards `left_over`: without it nobody ever looks at a draft that went on.
#[tokio::test]
async fn a_draft_that_went_on_and_does_not_become_final_is_looked_at() {
    let (house, invoice) = House::closed(MINUTE * 31).await;
    house.close().await;
    release(&house, &invoice).await;
    assert!(house.advances(&invoice));
    house.shop.stripe.edit(&invoice, &json!({ "auto_advance": false, "automatically_finalizes_at": null }));
    let look = async || {
        sqlx::query("UPDATE invoice SET fetched_at = fetched_at - interval '2 hours'")
            .execute(house.shop.db())
            .await
            .unwrap();
        house.close().await;
    };
    house.at(TimeDelta::hours(2));
    look().await;
    assert!(!is_open(&house, HELD).await, "it has its time");
    house.at(TimeDelta::hours(3));
    look().await;
    assert!(is_open(&house, HELD).await);
    house.shop.stripe.card(&house.customer, false);
    house.shop.at_stripe(&format!("/v1/invoices/{invoice}/finalize"), &[]).await;
    house.shop.hear().await;
    assert!(!is_open(&house, HELD).await);
}

/// Guards the last condition of `close_due`: two comparisons of each draft are for nothing, while others wait.
#[tokio::test]
async fn nobody_looks_at_a_draft_before_its_last_minutes_can_be_in() {
    let (house, invoice) = House::closed(MINUTE).await;
    let looks = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM reconcile_run WHERE invoice = $1")
            .bind(&invoice)
            .fetch_one(house.shop.db())
            .await
            .unwrap()
    };
    house.at(MINUTE * 6);
    house.relay().await;
    house.close().await;
    assert_eq!(looks().await, 0);
    house.at(MINUTE * 8);
    house.relay().await;
    house.close().await;
    assert_eq!((looks().await, house.stands(&invoice).await), (1, (true, false)));
}

/// Guards `settle_unknown_of`: with everybody's settled in each look, a draft's half hour goes by.
#[tokio::test]
async fn a_look_at_a_draft_settles_what_is_its_tenants() {
    let (house, invoice) = House::closed(MINUTE * 12).await;
    let (other, _, _) = house.shop.known("other", "team").await;
    house.at(MINUTE * 13);
    sqlx::query(
        "INSERT INTO usage_batch (id, tenant, meter, identifier, window_start, seq, event_at, quantity, facts, state, sealed_at,
                                  not_before, livemode, customer, first_sent_at, last_sent_at)
         SELECT gen_random_uuid(), $1, 'tasks_created', 'ub:other', $2, 0, $2, 7, 1, 'quarantined', $2, $2, false,
                (SELECT customer FROM billing_account WHERE tenant = $1), $2, $2",
    )
    .bind(other)
    .bind(house.end - MINUTE * 180)
    .execute(house.shop.db())
    .await
    .unwrap();
    house.relay().await;
    house.close().await;
    assert_eq!(house.stands(&invoice).await, (true, false), "{:?}", house.pending().await);
    let state = async || -> String {
        sqlx::query_scalar("SELECT state FROM usage_batch WHERE identifier = 'ub:other'")
            .fetch_one(house.shop.db())
            .await
            .unwrap()
    };
    assert_eq!(state().await, "quarantined");
    let billing = &house.shop.billing;
    assert_eq!(settle_unknown_of(billing, Some(house.tenant)).await.unwrap().requeued, 0);
    assert_eq!(settle_unknown(billing).await.unwrap().requeued, 1);
    assert_eq!(state().await, "ready");
}

/// Somebody changed an old payment at Stripe. Guards `whole` and `red`: with the newest comparison deciding, however little it looked
/// at, a tenant is suspended over money that finance knows to be wrong; and what is open about one tenant is never settled.
#[tokio::test]
async fn a_narrow_comparison_that_finds_nothing_says_nothing_of_the_rest() {
    let office = Office::new().await;
    let shop = &office.shop;
    let first: String = shop.stripe.invoices(&office.customer)[0]["id"].as_str().unwrap().to_owned();
    let paid = shop.stripe.object(&first).unwrap()["amount_paid"].as_i64().unwrap();
    let set = async |paid: i64| {
        shop.stripe.edit(&first, &json!({ "amount_paid": paid }));
        customers::refresh_invoice(&shop.billing, &first).await.unwrap();
    };
    set(paid - 500).await;
    shop.pass(TimeDelta::days(2));
    let today = || Some(shop.now().date_naive());
    let compare = async |tenant: Option<&str>, from| {
        let wish = Ask { tenant: tenant.map(str::to_owned), from, to: today(), look_only: false };
        reconcile_run(&shop.billing, &tester(), &wish).await.unwrap().run
    };
    let red = async || {
        let mut conn = shop.db().acquire().await.unwrap();
        is_red(&mut conn, false, office.tenant).await.unwrap()
    };
    let about = async || -> Vec<String> {
        let open = shop.incidents().await;
        open.into_iter().filter(|(kind, _)| kind == "reconcile_differs").map(|(_, about)| about).collect()
    };
    let all = compare(None, None).await;
    assert_eq!((all.state, red().await, about().await), (RunState::Red, true, vec!["all".to_owned()]));

    // A day of the tenant, and of all.
    for tenant in [Some("acme"), None] {
        assert_eq!(compare(tenant, today()).await.state, RunState::Green);
        assert_eq!((red().await, about().await), (true, vec!["all".to_owned()]), "{tenant:?}");
    }
    let mut conn = shop.db().acquire().await.unwrap();
    assert_eq!(last_run(&mut conn, false).await.unwrap().unwrap().id, all.id);
    assert_eq!(standing(&mut conn, false).await.unwrap().differences, 1);
    let listed = difference_list(&mut conn, false, &Default::default()).await.unwrap().items;
    assert_eq!(listed.iter().map(|one| one.class).collect::<Vec<_>>(), [Class::ManualStripeEdit]);
    drop(conn);

    // It is put right. A whole comparison of the tenant says so of the tenant, and one of all of all.
    assert_eq!(compare(Some("acme"), None).await.state, RunState::Red);
    let tenant = office.tenant.to_string();
    assert_eq!(about().await, ["all".to_owned(), tenant.clone()]);
    set(paid).await;
    assert_eq!(compare(Some("acme"), None).await.state, RunState::Green);
    assert_eq!((red().await, about().await), (false, vec!["all".to_owned()]));
    assert_eq!(compare(None, None).await.state, RunState::Green);
    assert!(about().await.is_empty());

    // A narrow one says that something is wrong; the worker looks at the whole within the hour, and it ends with what is open
    // about the tenant.
    set(paid - 500).await;
    let few = today().map(|day| day - chrono::Days::new(3));
    assert_eq!(compare(Some("acme"), few).await.state, RunState::Red);
    assert_eq!((red().await, about().await), (true, vec![tenant]));
    set(paid).await;
    shop.pass(TimeDelta::minutes(61));
    regular::nightly(shop.billing.clone()).await.unwrap();
    assert_eq!((red().await, about().await), (false, vec![]));
}
