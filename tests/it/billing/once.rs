//! Of many that do the same at once, one does it; and what was done is not done again.

use std::time::Duration;

use chrono::TimeDelta;
use freehold::billing::access::{Access, Override, override_clear, override_set, settle_fresh};
use freehold::billing::customers::{self, subscription_keep};
use freehold::billing::inbox::work_off;
use freehold::billing::stripe::Subscription;
use freehold::kernel::ids::TenantId;
use freehold::testkit::stripe::Card;
use freehold::testkit::{eventually, tester};

use super::shop::Shop;

/// An event about this object arrives.
async fn hear_of(shop: &Shop, kind: &str, object: &str) -> String {
    shop.stripe.take_held();
    shop.stripe.emit(kind, object);
    let held = shop.stripe.take_held().pop().expect("the event");
    shop.deliver(&held).await.unwrap();
    held.event
}

/// Waits until somebody waits for a lock in the control database.
async fn somebody_waits(shop: &Shop) {
    eventually(Duration::from_secs(20), "somebody waits for a lock", async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(shop.db())
        .await
        .unwrap();
        if waiting > 0 { Ok(()) } else { Err("nobody") }
    })
    .await;
}

/// Whoever works on an object has its lane: nobody else works on it, or asks Stripe about it, until the lane is given back or has
/// run out.
///
/// Shown to fail: `WHERE l.leased_until < clock_timestamp()` taken out of `enter`.
#[tokio::test]
async fn an_object_that_another_works_on_is_left_alone() {
    let shop = Shop::open().await;
    let (_, _, subscription) = shop.known("acme", "team").await;
    let event = hear_of(&shop, "customer.subscription.updated", &subscription.id).await;
    let asked = || shop.stripe.asked("Subscriptions.retrieve").len();
    let before = asked();
    sqlx::query(
        "INSERT INTO webhook_lane (object, fence, leased_until) VALUES ($1, 0, clock_timestamp() + interval '1 hour')",
    )
    .bind(&subscription.id)
    .execute(shop.db())
    .await
    .unwrap();
    assert_eq!(work_off(&shop.billing).await.unwrap(), 0);
    assert_eq!(shop.inbox(&event).await, ("ready".to_owned(), 0, 1));
    assert_eq!(asked(), before, "nobody asks about it");
    let lanes = async || {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM webhook_lane WHERE fence = 0")
            .fetch_one(shop.db())
            .await
            .unwrap()
    };
    assert_eq!(lanes().await, 1, "the lane is the other's still");
    // The other fell silent.
    sqlx::query("UPDATE webhook_lane SET leased_until = clock_timestamp() - interval '1 second'")
        .execute(shop.db())
        .await
        .unwrap();
    assert_eq!(work_off(&shop.billing).await.unwrap(), 1);
    assert_eq!((shop.inbox(&event).await.0.as_str(), asked() - before), ("done", 1));
    assert_eq!(lanes().await, 0);
}

/// The payment of two days ago failed, as Stripe's answer would say.
async fn owes(shop: &Shop, tenant: TenantId) {
    sqlx::query("UPDATE subscription SET status = 'past_due', period_start = $2 WHERE tenant = $1")
        .bind(tenant)
        .bind(shop.now() - TimeDelta::days(2))
        .execute(shop.db())
        .await
        .unwrap();
}

async fn changes(shop: &Shop, tenant: TenantId) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM audit WHERE action = 'billing.access' AND tenant = $1")
        .bind(tenant)
        .fetch_one(shop.db())
        .await
        .unwrap()
}

/// Two decide about a tenant at once: the second waits for the first, sees what it did, and has nothing left to do.
///
/// Shown to fail: `FOR UPDATE OF a` taken out of `settle_under`: the change is made, and written into the audit log, twice.
#[tokio::test]
async fn two_that_decide_about_a_tenant_do_so_one_after_the_other() {
    let shop = Shop::open().await;
    let (tenant, _, _) = shop.known("acme", "team").await;
    owes(&shop, tenant).await;
    let before = changes(&shop, tenant).await;
    let mut first = shop.db().begin().await.unwrap();
    sqlx::query(
        "UPDATE billing_account a SET access = 'grace', unpaid_since = s.period_start
           FROM subscription s WHERE s.tenant = a.tenant AND a.tenant = $1",
    )
    .bind(tenant)
    .execute(&mut *first)
    .await
    .unwrap();
    let billing = shop.billing.clone();
    let second = tokio::spawn(async move { settle_fresh(&billing, tenant).await });
    somebody_waits(&shop).await;
    first.commit().await.unwrap();
    let decision = second.await.unwrap().unwrap().expect("a decision");
    assert_eq!((decision.access, shop.access(tenant).await), (Access::Grace, Access::Grace));
    assert_eq!(changes(&shop, tenant).await, before, "the first did it");
}

/// Two answers about one tenant are kept one after the other, so that the second sees what the first kept: a second living
/// subscription does not go unnoticed.
///
/// Shown to fail: the lock of the account's row taken out of `subscriptions::keep`.
#[tokio::test]
async fn two_subscriptions_that_are_kept_at_once_are_noticed() {
    let shop = Shop::open().await;
    let (tenant, customer, there) = shop.known("acme", "team").await;
    sqlx::query("DELETE FROM subscription").execute(shop.db()).await.unwrap();
    let mut first = shop.db().begin().await.unwrap();
    sqlx::query("SELECT FROM billing_account WHERE tenant = $1 FOR UPDATE")
        .bind(tenant)
        .execute(&mut *first)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO subscription (id, tenant, customer, plan, status, period_start, period_end, fetched_at)
         VALUES ('sub_other', $1, $2, 'team', 'active', $3, $3, $3)",
    )
    .bind(tenant)
    .bind(&customer)
    .bind(shop.now())
    .execute(&mut *first)
    .await
    .unwrap();
    let (billing, now) = (shop.billing.clone(), shop.now());
    let answer: Subscription = there.clone();
    let second = tokio::spawn(async move { subscription_keep(&billing, tenant, &answer, now).await });
    somebody_waits(&shop).await;
    first.commit().await.unwrap();
    second.await.unwrap().unwrap();
    assert!(shop.incidents().await.contains(&("two_subscriptions".to_owned(), tenant.to_string())));
}

/// A trial that ends, told three times; a failed payment that finance covers with its word for a time: one letter each, and none
/// that thanks for what was not paid.
///
/// Shown to fail: `access::effect` taken for true in `apply::trial_ends`, and in `settle::change`; `unpaid_since.is_some()` taken
/// out of `settle::change`.
#[tokio::test]
async fn a_letter_is_written_once_however_often_it_is_due() {
    let shop = Shop::open().await;
    let tenant = shop.tenant("acme", "team").await;
    let (billing, caller) = (&shop.billing, tester());
    let url = customers::checkout_begin(billing, &caller, tenant, "team", None).await.unwrap();
    let session = url.rsplit('/').next().unwrap().split(['?', '#']).next().unwrap().to_owned();
    shop.stripe.checkout_complete(&session, Card::Works);
    customers::refresh_checkout(billing, &session).await.unwrap();
    assert_eq!(shop.access(tenant).await, Access::Trialing);
    let customer = customers::customer_ensure(billing, tenant).await.unwrap();
    let subscription = shop.stripe.subscriptions(&customer)[0]["id"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        hear_of(&shop, "customer.subscription.trial_will_end", &subscription).await;
        assert_eq!(work_off(billing).await.unwrap(), 1);
    }
    assert_eq!(shop.letters(tenant).await, ["trial_ends"]);

    owes(&shop, tenant).await;
    settle_fresh(billing, tenant).await.unwrap();
    assert_eq!(shop.access(tenant).await, Access::Grace);
    let until = shop.now() + TimeDelta::days(3);
    for _ in 0..2 {
        let word = Override { access: Access::Active, reason: "they pay by wire".to_owned(), until };
        override_set(billing, &caller, tenant, &word).await.unwrap();
        assert_eq!(shop.access(tenant).await, Access::Active);
        override_clear(billing, &caller, tenant).await.unwrap();
        settle_fresh(billing, tenant).await.unwrap();
        assert_eq!(shop.access(tenant).await, Access::Grace, "the same episode");
    }
    assert_eq!(shop.letters(tenant).await, ["trial_ends", "owed"]);
}
