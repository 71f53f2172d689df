//! A tenant's customer and subscription: made, changed, ended; and never of the other mode.

use chrono::TimeDelta;
use freehold::app;
use freehold::billing::access::Access;
use freehold::billing::customers::{self, customer_ensure};
use freehold::billing::inbox::work_off;
use freehold::control_plane::access::{tenant_delete, tenant_purge};
use freehold::control_plane::provisioning::NewTenant;
use freehold::control_plane::tenants::TenantRef;
use freehold::jobs::run::RunState;
use freehold::kernel::codes;
use freehold::kernel::ids::TenantId;
use freehold::testkit::stripe::{Card, Fault};
use freehold::testkit::tester;

use super::shop::Shop;

fn session_of(url: &str) -> String {
    url.rsplit('/').next().unwrap().split(['?', '#']).next().unwrap().to_owned()
}

/// Whatever goes wrong on the way, a tenant has one customer.
#[tokio::test]
async fn a_tenant_has_one_customer_however_often_it_is_made() {
    let shop = Shop::open().await;
    let tenant = shop.tenant("acme", "free").await;
    // Accepted, and then a saved 500: with the same key it would be replayed for a day.
    shop.stripe.faults().times(1, "Customers.create", Fault::Reset { done: true });
    let first = customer_ensure(&shop.billing, tenant).await;
    assert!(first.is_err_and(|error| error.is(&codes::PAYMENTS_UNAVAILABLE)));
    let all = futures_util::future::join_all((0..8).map(|_| customer_ensure(&shop.billing, tenant))).await;
    let ids: Vec<String> = all.into_iter().map(|id| id.unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(shop.stripe.objects("customer").len(), 1);

    let globex = shop.tenant("globex", "free").await;
    shop.stripe.faults().times(1, "Customers.create", Fault::Error500 { done: false });
    assert!(customer_ensure(&shop.billing, globex).await.is_err());
    customer_ensure(&shop.billing, globex).await.unwrap();
    let email: String = sqlx::query_scalar("SELECT email FROM billing_account WHERE tenant = $1")
        .bind(globex)
        .fetch_one(shop.db())
        .await
        .unwrap();
    assert_eq!(email, "owner@globex.example");
}

/// Checkout → active → upgrade → downgrade → cancelled → kept → cancelled → ended → free.
#[tokio::test]
async fn a_subscription_s_whole_life() {
    let shop = Shop::open().await;
    let tenant = shop.tenant("acme", "team").await;
    let (billing, caller) = (&shop.billing, tester());
    assert!(
        customers::plan_change(billing, &caller, tenant, "business")
            .await
            .unwrap_err()
            .is(&codes::STATE_CONFLICT)
    );
    let url = customers::checkout_begin(billing, &caller, tenant, "team", None).await.unwrap();
    let again = customers::checkout_begin(billing, &caller, tenant, "team", None).await.unwrap();
    assert_eq!(url, again, "sent twice, one Checkout");
    let session = session_of(&url);
    shop.stripe.checkout_complete(&session, Card::Works);
    assert!(customers::is_of(billing, tenant, &session).await.unwrap());
    customers::refresh_checkout(billing, &session).await.unwrap();
    assert_eq!(shop.access(tenant).await, Access::Trialing);
    assert!(
        customers::checkout_begin(billing, &caller, tenant, "team", None)
            .await
            .unwrap_err()
            .is(&codes::STATE_CONFLICT)
    );

    customers::plan_change(billing, &caller, tenant, "business").await.unwrap();
    assert_eq!(shop.plan(tenant).await, "business");
    customers::plan_change(billing, &caller, tenant, "team").await.unwrap();
    customers::plan_change(billing, &caller, tenant, "business").await.unwrap();
    assert_eq!(shop.plan(tenant).await, "business", "there and back again is no repetition");
    for wrong in ["free", "nonesuch"] {
        let error = customers::plan_change(billing, &caller, tenant, wrong).await.unwrap_err();
        assert!(error.is(&codes::INVALID_FIELDS), "{wrong}");
    }
    customers::cancel(billing, &caller, tenant).await.unwrap();
    customers::keep(billing, &caller, tenant).await.unwrap();
    shop.pass(TimeDelta::days(20));
    shop.hear().await;
    assert_eq!(shop.access(tenant).await, Access::Active, "the trial is over, and the card works");
    customers::cancel(billing, &caller, tenant).await.unwrap();
    assert_eq!(shop.access(tenant).await, Access::Active, "until the period ends");
    assert!(customers::free(billing, &caller, tenant, "free").await.unwrap_err().is(&codes::STATE_CONFLICT));
    shop.pass(TimeDelta::days(40));
    shop.hear().await;
    assert_eq!(shop.access(tenant).await, Access::Canceled);
    customers::free(billing, &caller, tenant, "free").await.unwrap();
    assert_eq!((shop.access(tenant).await, shop.plan(tenant).await), (Access::Active, "free".to_owned()));
    // A second time there is no trial.
    let url = customers::checkout_begin(billing, &caller, tenant, "team", None).await.unwrap();
    shop.stripe.checkout_complete(&session_of(&url), Card::Works);
    shop.hear().await;
    assert_eq!((shop.access(tenant).await, shop.plan(tenant).await), (Access::Active, "team".to_owned()));
    assert!(shop.stripe.refused().is_empty(), "{:?}", shop.stripe.refused());
}

/// Test and live never mix: a tenant of one mode is nothing in the other.
#[tokio::test]
async fn the_modes_never_mix() {
    let shop = Shop::open().await;
    let (tenant, _, _) = shop.known("acme", "team").await;
    // The same database, and a program with a live key.
    sqlx::query("UPDATE billing_account SET livemode = true").execute(shop.db()).await.unwrap();
    let error = customer_ensure(&shop.billing, tenant).await.unwrap_err();
    assert!(error.is(&codes::STATE_CONFLICT) && error.to_string().contains("live"), "{error}");
    for refused in [
        customers::portal_open(&shop.billing, tenant).await.map(drop),
        customers::checkout_begin(&shop.billing, &tester(), tenant, "team", None).await.map(drop),
        customers::refresh_tenant(&shop.billing, tenant).await,
    ] {
        assert!(refused.is_err());
    }
    assert_eq!(freehold::billing::access::settle_fresh(&shop.billing, tenant).await.unwrap(), None);
}

/// The provisioning run opens the account; a tenant that did not come to be leaves none; Stripe away stops nobody.
#[tokio::test]
async fn a_new_tenant_gets_its_account_and_a_failed_one_leaves_none() {
    let mut shop = Shop::open().await;
    shop.world.hands.errands = app::errands_with_billing(Default::default(), &shop.billing);
    let acme = shop.world.tenant_with("acme", "free").await;
    let customers =
        |shop: &Shop| shop.stripe.objects("customer").iter().filter(|one| one["deleted"] != true).count();
    assert_eq!(customers(&shop), 1, "in the run itself");
    assert_eq!(shop.access(acme.tenant.id).await, Access::Active);

    shop.stripe.faults().times(1, "Customers.create", Fault::Html502 { done: false });
    let globex = shop.world.tenant_with("globex", "free").await;
    assert_eq!(customers(&shop), 1, "Stripe was away, and nobody waited for it");
    assert_eq!(customers::ensure_missing(&shop.billing).await.unwrap(), 1);
    assert_eq!(shop.access(globex.tenant.id).await, Access::Active);

    // A third whose account is opened, and whose run is then undone.
    let new = NewTenant { slug: "failed".to_owned(), name: None, plan: None };
    let run = shop.world.create(&new).await.unwrap();
    let tenant: TenantId = sqlx::query_scalar("SELECT tenant FROM run WHERE id = $1")
        .bind(run)
        .fetch_one(shop.db())
        .await
        .unwrap();
    customers::open(&shop.billing, tenant).await.unwrap();
    assert_eq!(customers(&shop), 3);
    assert!(customers::customer_forget(&shop.billing, tenant).await.is_err(), "it is not gone yet");
    sqlx::query("UPDATE run_step SET state = 'done' WHERE run = $1 AND name IN ('schema', 'billing')")
        .bind(run)
        .execute(shop.db())
        .await
        .unwrap();
    sqlx::query("UPDATE run SET state = 'undoing', undo = true WHERE id = $1")
        .bind(run)
        .execute(shop.db())
        .await
        .unwrap();
    assert_eq!(shop.world.finish(run).await.state, RunState::Undone);
    let asked: i64 = sqlx::query_scalar("SELECT count(*) FROM job WHERE kind = $1 AND tenant = $2")
        .bind(customers::FORGET)
        .bind(tenant)
        .fetch_one(shop.db())
        .await
        .unwrap();
    assert_eq!(asked, 1);
    customers::customer_forget(&shop.billing, tenant).await.unwrap();
    customers::customer_forget(&shop.billing, tenant).await.unwrap();
    assert_eq!(customers(&shop), 2);
}

/// Somebody deletes the customer in Stripe's dashboard: what ended with it is known, the tenant has another, and finance is
/// told. Nothing is lost, and nothing is done twice.
#[tokio::test]
async fn a_customer_that_was_deleted_at_stripe_is_made_again() {
    let shop = Shop::open().await;
    let (tenant, customer, _) = shop.known("acme", "team").await;
    shop.hear().await;
    shop.billing.stripe.customer_delete(&customer).await.unwrap();
    for held in shop.stripe.take_held() {
        shop.deliver(&held).await.unwrap();
        shop.deliver(&held).await.unwrap();
    }
    work_off(&shop.billing).await.unwrap();
    let now = customer_ensure(&shop.billing, tenant).await.unwrap();
    assert_ne!(now, customer);
    assert_eq!(shop.access(tenant).await, Access::Canceled);
    assert!(shop.incidents().await.contains(&("customer_deleted".to_owned(), customer.clone())));
    let living = shop.stripe.objects("customer").iter().filter(|one| one["deleted"] != true).count();
    assert_eq!(living, 1);
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM webhook_inbox WHERE state IN ('ready', 'dead')")
        .fetch_one(shop.db())
        .await
        .unwrap();
    assert_eq!(open, 0);
    let url = customers::checkout_begin(&shop.billing, &tester(), tenant, "team", None).await.unwrap();
    shop.stripe.checkout_complete(&session_of(&url), Card::Works);
    shop.hear().await;
    assert_eq!(shop.access(tenant).await, Access::Active);
}

/// A tenant that leaves stops paying: with the period when it is deleted, at once when it is purged.
#[tokio::test]
async fn a_tenant_that_leaves_stops_paying() {
    let shop = Shop::open().await;
    let (tenant, _, subscription) = shop.known("acme", "team").await;
    let (cp, id) = (&shop.billing.cp, TenantRef::Id(tenant));
    let run = tenant_delete(cp, &tester(), &id, "gone").await.unwrap();
    shop.world.finish(run).await;
    assert_eq!(customers::leave_round(&shop.billing).await.unwrap(), 1);
    assert_eq!(customers::leave_round(&shop.billing).await.unwrap(), 0);
    let there = shop.billing.stripe.subscription(&subscription.id).await.unwrap();
    assert!(there.cancel_at.is_some() && there.status == "active");
    let run = tenant_purge(cp, &tester(), &id, true).await.unwrap();
    shop.world.finish(run).await;
    assert_eq!(customers::leave_round(&shop.billing).await.unwrap(), 1);
    assert_eq!(shop.billing.stripe.subscription(&subscription.id).await.unwrap().status, "canceled");
}
