//! Usage that Stripe took and, as it says minutes later in a thin event, could not count: marked, shown to finance, sent again.

use chrono::{DurationRound, TimeDelta};
use freehold::billing::finance::quarantine::{Settle, SettleAs, quarantine_settle};
use freehold::billing::finance::standing::standing;
use freehold::billing::inbox::{Taken, replay, work_off};
use freehold::billing::reconcile::{Ask, Class, Level, reconcile_run};
use freehold::identity::operators::OperatorRole;
use freehold::testkit::stripe::{Held, Shape};
use freehold::testkit::tester;
use http::StatusCode;
use serde_json::json;

use super::office::{Api, Office};

const TASKS: &str = "freehold_tasks_created";

/// State, how it was delivered, and the error of the only batch of tasks.
async fn batch(office: &Office) -> (String, Option<String>, Option<String>) {
    sqlx::query_as("SELECT state, delivered_via, error FROM usage_batch WHERE meter = 'tasks_created'")
        .fetch_one(office.shop.db())
        .await
        .unwrap()
}

async fn identifier(office: &Office) -> String {
    sqlx::query_scalar("SELECT identifier FROM usage_batch WHERE meter = 'tasks_created'")
        .fetch_one(office.shop.db())
        .await
        .unwrap()
}

async fn meter_at_stripe(office: &Office) -> String {
    sqlx::query_scalar(
        "SELECT stripe_id FROM stripe_object WHERE kind = 'meter' AND name = 'meter:tasks_created'",
    )
    .fetch_one(office.shop.db())
    .await
    .unwrap()
}

/// Seven tasks are told, and Stripe says 200.
async fn tell(office: &Office) {
    let begin = office.shop.now().duration_trunc(TimeDelta::minutes(5)).unwrap();
    office.shop.pass(TimeDelta::hours(1));
    office.tasks(7, begin + TimeDelta::minutes(20)).await;
    office.deliver().await;
    assert_eq!(batch(office).await, ("delivered".to_owned(), Some("http_200".to_owned()), None));
    // What it says to that, it says a moment later.
    office.shop.pass(TimeDelta::minutes(1));
}

/// What is on its way, the thin events apart.
fn come(office: &Office) -> (Vec<Held>, Vec<Held>) {
    office.shop.stripe.take_held().into_iter().partition(|held| held.shape == Shape::Thin)
}

/// Somebody deletes the customer in the dashboard, and usage is told before we have heard of it. Sent again, it is told for the
/// customer that was made in its place, as another event: Stripe knows the first one's identifier, and would call it a copy.
///
/// Shown to fail: the `UPDATE` of `meters::report` that finds nothing; `customer`, and `identifier`, left as it was by
/// `quarantine::by_hand`.
#[tokio::test]
async fn usage_of_a_deleted_customer_is_marked_shown_and_told_again() {
    let office = Office::new().await;
    let shop = &office.shop;
    shop.hear().await;
    shop.billing.stripe.customer_delete(&office.customer).await.unwrap();
    tell(&office).await;
    assert_eq!(shop.stripe.event_sum(&office.customer, TASKS), 0, "taken, and not counted");
    let (thin, others) = come(&office);
    assert_eq!(thin.len(), 1, "{thin:?}");
    assert_eq!(thin[0].kind, "v1.billing.meter.error_report_triggered");
    assert!(!thin[0].body.contains("tasks_created"), "it says that something happened, not what");

    for taken in [Taken::Stored, Taken::Repeated] {
        assert_eq!(shop.deliver(&thin[0]).await.unwrap(), taken);
    }
    assert_eq!(work_off(&shop.billing).await.unwrap(), 1);
    let (state, via, error) = batch(&office).await;
    assert_eq!((state.as_str(), via), ("rejected", None));
    assert!(
        error.as_ref().is_some_and(|error| error.starts_with("meter_event_customer_not_found")),
        "{error:?}"
    );

    // What finance sees: numbers, the batch with its reason, what somebody has to look at, the comparison.
    let now = standing(&mut shop.db().acquire().await.unwrap(), false).await.unwrap();
    assert_eq!((now.rejected, now.undelivered), (1, 0), "{now:?}");
    let api = Api::of(&office);
    let finance = Api::key(&office, "ada", OperatorRole::Finance).await;
    let (first, meter) = (identifier(&office).await, meter_at_stripe(&office).await);
    let (status, waiting) = api.send(&finance, "GET", "/operator/v1/billing/quarantine", None).await;
    assert_eq!((status, waiting["items"][0]["identifier"].as_str()), (StatusCode::OK, Some(first.as_str())));
    assert_eq!(waiting["items"][0]["error"].as_str(), error.as_deref());
    let (_, open) = api.send(&finance, "GET", "/operator/v1/billing/incidents", None).await;
    let incident = open["items"].as_array().unwrap().iter().find(|one| one["kind"] == "meter_error");
    let incident = incident.unwrap_or_else(|| panic!("{open}"));
    assert_eq!(
        (incident["subject"].as_str(), &incident["detail"]["errors"]),
        (Some(meter.as_str()), &json!(1))
    );
    assert_eq!(incident["detail"]["marked"][0].as_str(), Some(first.as_str()), "{incident}");

    // Now it is heard that the customer is gone: there is another.
    for held in others {
        shop.deliver(&held).await.unwrap();
    }
    work_off(&shop.billing).await.unwrap();
    let customer: String = sqlx::query_scalar("SELECT customer FROM billing_account WHERE tenant = $1")
        .bind(office.tenant)
        .fetch_one(shop.db())
        .await
        .unwrap();
    assert_ne!(customer, office.customer);
    let run = reconcile_run(&shop.billing, &tester(), &Ask::default()).await.unwrap();
    let found =
        run.differences.iter().find(|one| one.level == Level::L2).unwrap_or_else(|| panic!("{run:?}"));
    assert_eq!((found.class, found.subject.as_str(), found.ours), (Class::Rejected, first.as_str(), 7));

    let how = Settle { r#as: SettleAs::Resend, reason: "the customer was made again".to_owned() };
    let again = quarantine_settle(&shop.billing, &tester(), &first, &how).await.unwrap();
    assert_eq!((again.batch.state.as_str(), again.batch.customer.as_deref()), ("ready", None));
    assert_eq!(again.batch.identifier, format!("{first}:r1"));
    office.deliver().await;
    assert_eq!(batch(&office).await.1.as_deref(), Some("http_200"));
    assert_eq!(
        (shop.stripe.event_sum(&customer, TASKS), shop.stripe.event_sum(&office.customer, TASKS)),
        (7, 0)
    );

    // The report comes once more: it is about what was, not about what is.
    replay(&shop.billing, &tester(), &thin[0].event).await.unwrap();
    assert_eq!(work_off(&shop.billing).await.unwrap(), 1);
    assert_eq!(batch(&office).await.0, "delivered");
}

/// Somebody renames the meter's events at Stripe: the report names no meter at all.
///
/// Shown to fail: the `UPDATE` of `meters::report` that finds nothing.
#[tokio::test]
async fn usage_of_a_meter_that_stripe_does_not_find_is_marked() {
    let office = Office::new().await;
    let shop = &office.shop;
    shop.hear().await;
    let meter = meter_at_stripe(&office).await;
    shop.stripe.edit(&meter, &json!({ "event_name": "something_else" }));
    tell(&office).await;
    let (thin, _) = come(&office);
    assert_eq!((thin.len(), thin[0].kind.as_str()), (1, "v1.billing.meter.no_meter_found"));
    shop.deliver(&thin[0]).await.unwrap();
    assert_eq!(work_off(&shop.billing).await.unwrap(), 1);
    let (state, _, error) = batch(&office).await;
    assert_eq!(state, "rejected");
    assert!(error.is_some_and(|error| error.starts_with("no_meter")));
    assert!(shop.incidents().await.contains(&("meter_error".to_owned(), "no meter".to_owned())));
}
