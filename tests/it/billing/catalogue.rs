//! Plans, prices and meters at Stripe: once each, never changed in place, and nothing by halves.

use freehold::billing::catalogue::{Action, Kind, prices_of, sync};
use freehold::control_plane::plans::{self, Plan};
use freehold::testkit::stripe::Fault;
use freehold::testkit::tester;

use super::till::Till;

async fn plans(till: &Till) -> Vec<Plan> {
    plans::plan_list(&mut till.db().acquire().await.unwrap()).await.unwrap()
}

/// Shown to fail: without the record of what is there, the second run makes everything again.
#[tokio::test]
async fn what_is_sold_is_brought_to_stripe_once() {
    let till = Till::empty().await;
    let (cp, stripe) = (&till.billing.cp, &till.billing.stripe);
    let shown = sync(cp, stripe, true).await.unwrap();
    assert!(till.stripe.objects("price").is_empty(), "a dry run does nothing");
    assert!(shown.to_string().contains("49.00 EUR a month"), "{shown}");
    let done = sync(cp, stripe, false).await.unwrap();
    assert_eq!(done.steps, shown.steps, "what was shown is what is done");
    let prices = till.stripe.objects("price").len();
    assert_eq!(prices, done.steps.iter().filter(|step| step.kind == Kind::Price).count());
    let again = sync(cp, stripe, false).await.unwrap();
    assert!(again.is_empty() && again.unchanged == done.steps.len(), "{again}");
    assert_eq!(till.stripe.objects("price").len(), prices);

    let mut conn = till.db().acquire().await.unwrap();
    let team = prices_of(&mut conn, false, "team").await.unwrap();
    let plan = plans(&till).await.into_iter().find(|plan| plan.id == "team").unwrap();
    assert_eq!(team.len(), 1 + plan.meters.len());
    assert!(!team[0].metered && team[1..].iter().all(|item| item.metered));
    assert_eq!(prices_of(&mut conn, false, "free").await.unwrap(), []);
    assert!(prices_of(&mut conn, false, "nothing").await.is_err());
    assert!(prices_of(&mut conn, true, "team").await.is_err(), "the modes never mix");
}

/// Shown to fail: with the amount left out of a price's name, the old price would be sold on.
#[tokio::test]
async fn another_amount_is_another_price() {
    let till = Till::empty().await;
    let (cp, stripe) = (&till.billing.cp, &till.billing.stripe);
    sync(cp, stripe, false).await.unwrap();
    let mut conn = till.db().acquire().await.unwrap();
    let before = prices_of(&mut conn, false, "team").await.unwrap();
    let mut changed = plans(&till).await;
    let team = changed.iter_mut().find(|plan| plan.id == "team").unwrap();
    team.price.as_mut().unwrap().monthly_minor = 5900;
    plans::apply(cp, &tester(), &changed, false).await.unwrap();
    assert!(
        prices_of(&mut conn, false, "team").await.is_err(),
        "nothing is sold at a price that Stripe does not have"
    );
    let diff = sync(cp, stripe, false).await.unwrap();
    let [step] = diff.steps.as_slice() else { panic!("{diff}") };
    assert_eq!(
        (step.action, step.kind, step.says.as_str()),
        (Action::Create, Kind::Price, "59.00 EUR a month")
    );
    let after = prices_of(&mut conn, false, "team").await.unwrap();
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1..], after[1..]);
    let at_stripe = |id: &str| till.stripe.object(id).unwrap();
    assert_eq!(at_stripe(&after[0].price)["lookup_key"], "freehold:team:monthly");
    assert!(at_stripe(&before[0].price)["lookup_key"].is_null(), "handed over");
    assert_eq!(at_stripe(&before[0].price)["unit_amount"], 4900, "who has it keeps it");
}

/// Trouble in the middle: what was done stays, and the next run goes on. No two of anything.
#[tokio::test]
async fn it_goes_on_where_it_stopped() {
    let till = Till::empty().await;
    let (cp, stripe) = (&till.billing.cp, &till.billing.stripe);
    let all = sync(cp, stripe, true).await.unwrap().steps.len();
    let faults = till.stripe.faults();
    for (operation, fault) in [
        ("Billing.Meters.create", Fault::Reset { done: true }),
        ("Products.create", Fault::Reset { done: true }),
        ("Prices.create", Fault::Reset { done: true }),
        ("Prices.create", Fault::Html502 { done: true }),
    ] {
        faults.once(operation, fault);
        assert!(sync(cp, stripe, false).await.is_err(), "{operation} {fault:?}");
    }
    sync(cp, stripe, false).await.unwrap();
    let objects = |kind: &str| till.stripe.objects(kind).len();
    assert_eq!(objects("billing.meter") + objects("product") + objects("price"), all);
}
