//! Every order in which what Stripe says of a subscription can become known: the end is the same.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use freehold::billing::access::decide::Subscription as Known;
use freehold::billing::access::{Access, Facts, Sky, decide, settle_fresh};
use freehold::billing::catalogue::prices_of;
use freehold::billing::customers::subscription_keep;
use freehold::billing::settings::AccessDays;
use freehold::billing::stripe::Subscription;
use freehold::kernel::ids::TenantId;

use super::shop::Shop;

/// Every order of `0..count`, beginning with the plain one.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for next in 0..count {
        let put = |order: &Vec<usize>| {
            (0..=order.len())
                .rev()
                .map(|at| {
                    let mut order = order.clone();
                    order.insert(at, next);
                    order
                })
                .collect::<Vec<_>>()
        };
        all = all.iter().flat_map(put).collect();
    }
    all
}

#[test]
fn orders_are_all_of_them_once() {
    let all = orders(6);
    let distinct: BTreeSet<&Vec<usize>> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (720, 720));
}

fn day(day: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::days(day)
}

/// What was so, one after the other: chosen and not paid, a trial, paid, owed, owed and for longer, paid again, ended.
fn life() -> Vec<Facts> {
    let known = |status: &str, period: i64| Known {
        status: status.to_owned(),
        period_start: day(period),
        period_end: day(period + 30),
        trial_end: Some(day(14)),
        cancel_at: None,
        canceled_at: None,
    };
    let facts = |subscription: Option<Known>, owed_since: Option<DateTime<Utc>>| Facts {
        paid_plan: true,
        payable_since: Some(day(0)),
        subscription,
        owed_since,
    };
    let ended = Known { cancel_at: Some(day(104)), canceled_at: Some(day(80)), ..known("canceled", 74) };
    vec![
        facts(None, None),
        facts(Some(known("trialing", 0)), None),
        facts(Some(known("active", 14)), None),
        facts(Some(known("past_due", 44)), Some(day(44))),
        facts(Some(known("unpaid", 44)), Some(day(44))),
        facts(Some(known("active", 74)), None),
        facts(Some(ended), None),
    ]
}

/// The rule, over all 5,040 orders of seven moments of a life, three times each: each moment decided about as it comes,
/// whatever is seen of Stripe, the inbox and the reconciliation meanwhile, some of them twice. In between nobody is brought
/// nearer to suspension under a clouded sky; at the end, under a clear one, everybody is where the last moment says.
///
/// Shown to fail: `&& !sky.is_clear()` taken out of `decide`.
#[test]
fn every_order_of_a_life_is_decided_alike_at_the_end() {
    let (life, days, now) = (life(), AccessDays::default(), day(110));
    let last = life.last().unwrap();
    let end = decide(last, now, Access::Active, None, &days, Sky::CLEAR);
    assert_eq!((end.access, end.unpaid_since), (Access::Canceled, None));
    let orders = orders(life.len());
    assert_eq!(orders.len(), 5_040);
    for (number, order) in orders.iter().enumerate() {
        for clouds in 0..3 {
            let mut current = Access::Trialing;
            for (step, moment) in order.iter().enumerate() {
                let sky = Sky {
                    stripe: (number + step) % 3 != clouds,
                    inbox: (number + step) % 5 != clouds,
                    reconcile: (number + step) % 7 != clouds,
                };
                for _ in 0..=(number + step) % 2 {
                    let decided = decide(&life[*moment], now, current, None, &days, sky);
                    assert!(
                        sky.is_clear() || decided.access.rank() <= current.rank(),
                        "{order:?} at {step}: {decided:?}"
                    );
                    current = decided.access;
                }
            }
            let decided = decide(last, now, current, None, &days, Sky::CLEAR);
            assert_eq!(decided, end, "{order:?} under clouds {clouds}");
            assert_eq!(decide(last, now, decided.access, None, &days, Sky::CLEAR), end, "said twice");
        }
    }
}

/// What is kept of a tenant.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
struct Kept {
    status: String,
    of: String,
    period_start: DateTime<Utc>,
    cancel_at: Option<DateTime<Utc>>,
    access: Access,
    unpaid_since: Option<DateTime<Utc>>,
    plan: String,
}

async fn kept(shop: &Shop, tenant: TenantId) -> Kept {
    sqlx::query_as(
        "SELECT s.status, s.plan AS of, s.period_start, s.cancel_at, a.access, a.unpaid_since, t.plan
           FROM subscription s JOIN billing_account a ON a.tenant = s.tenant JOIN tenant t ON t.id = s.tenant
          WHERE s.tenant = $1",
    )
    .bind(tenant)
    .fetch_one(shop.db())
    .await
    .unwrap()
}

/// As if nothing had ever been heard.
async fn forget(shop: &Shop, tenant: TenantId) {
    for statement in [
        "DELETE FROM subscription WHERE tenant = $1",
        "UPDATE billing_account SET access = 'active', unpaid_since = NULL WHERE tenant = $1",
        "UPDATE tenant SET plan = 'team' WHERE id = $1",
        "DELETE FROM billing_effect WHERE $1::uuid IS NOT NULL AND starts_with(object, 'ten_')",
    ] {
        sqlx::query(statement).bind(tenant).execute(shop.db()).await.unwrap();
    }
}

/// Answers arrive in every order; each was asked for a second after the one before.
async fn told_in_every_order(shop: &Shop, tenant: TenantId, answers: &[Subscription]) -> Kept {
    let asked_at = |number: usize| day(0) + TimeDelta::seconds(i64::try_from(number).unwrap());
    let mut first: Option<Kept> = None;
    for order in orders(answers.len()) {
        forget(shop, tenant).await;
        for number in &order {
            subscription_keep(&shop.billing, tenant, &answers[*number], asked_at(*number)).await.unwrap();
            settle_fresh(&shop.billing, tenant).await.unwrap();
        }
        let end = kept(shop, tenant).await;
        match &first {
            // In the order in which they were asked for.
            None => first = Some(end),
            Some(first) => assert_eq!(&end, first, "{order:?}"),
        }
    }
    first.expect("at least one order")
}

/// Answers overtake one another on their way: workers, servers and the sweep all ask. Every order of five (120), and of four
/// with a change of plan in them (24), through the database.
///
/// Shown to fail: `subscription.fetched_at <= EXCLUDED.fetched_at` taken out of `subscriptions::keep`.
#[tokio::test]
async fn answers_that_overtake_one_another_leave_the_last_one() {
    let shop = Shop::open().await;
    let (tenant, _, active) = shop.known("acme", "team").await;
    let now = shop.now();
    let is = |status: &str| Subscription { status: status.to_owned(), ..active.clone() };
    let trial = Subscription { trial_end: Some(now), ..is("trialing") };
    let owed = Subscription { period_start: now - TimeDelta::days(2), ..is("past_due") };
    let ending = Subscription { cancel_at: Some(active.period_end), ..is("active") };
    let ended = Subscription {
        cancel_at: Some(now - TimeDelta::hours(1)),
        canceled_at: Some(now - TimeDelta::days(3)),
        ..is("canceled")
    };
    let end = told_in_every_order(&shop, tenant, &[trial, is("active"), owed.clone(), ending, ended]).await;
    assert_eq!((end.status.as_str(), end.access, end.plan.as_str()), ("canceled", Access::Canceled, "team"));

    let mut conn = shop.db().acquire().await.unwrap();
    let business: Vec<String> =
        prices_of(&mut conn, false, "business").await.unwrap().into_iter().map(|item| item.price).collect();
    drop(conn);
    let larger = |one: &Subscription| Subscription {
        plan: Some("business".to_owned()),
        prices: business.clone(),
        ..one.clone()
    };
    let answers = [owed.clone(), is("active"), larger(&owed), larger(&is("active"))];
    let end = told_in_every_order(&shop, tenant, &answers).await;
    assert_eq!((end.status.as_str(), end.of.as_str(), end.plan.as_str()), ("active", "business", "business"));
    assert_eq!((end.access, end.unpaid_since), (Access::Active, None));
}
