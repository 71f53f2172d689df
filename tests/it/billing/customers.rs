//! A tenant's customer and subscription: made, changed, ended; and never of the other mode.

use chrono::TimeDelta;
use freehold::app;
use freehold::billing::access::Access;
use freehold::billing::customers::{self, customer_ensure};
use freehold::billing::inbox::work_off;
use freehold::control_plane::access::{tenant_delete, tenant_purge, tenant_undelete};
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
    // Another asks with the same key at this moment: its answer is waited for.
    shop.stripe.faults().times(2, "Customers.create", Fault::Conflict);
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
///
/// Guards `leaves` in `subscriptions::follow`.
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
    assert_eq!(shop.incidents().await, [], "whoever leaves is given no plan, and that is as it should be");
    let run = tenant_purge(cp, &tester(), &id, true).await.unwrap();
    shop.world.finish(run).await;
    assert_eq!(customers::leave_round(&shop.billing).await.unwrap(), 1);
    assert_eq!(shop.billing.stripe.subscription(&subscription.id).await.unwrap().status, "canceled");
}

/// Deleted by mistake and brought back, a tenant goes on paying: what we ended we take back, and nothing else. Where it has ended by
/// then, somebody is told.
///
/// Guards `return_round`, and `leaving::forget` in `change::cancel`.
#[tokio::test]
async fn a_tenant_that_is_brought_back_goes_on_paying() {
    let shop = Shop::open().await;
    let (tenant, _, subscription) = shop.known("acme", "team").await;
    let (billing, cp, id) = (&shop.billing, &shop.billing.cp, TenantRef::Id(tenant));
    let gone_and_back = async |while_gone: TimeDelta| {
        let run = tenant_delete(cp, &tester(), &id, "by mistake").await.unwrap();
        shop.world.finish(run).await;
        assert_eq!(customers::leave_round(billing).await.unwrap(), 1);
        assert_eq!(customers::return_round(billing).await.unwrap(), 0, "it is still leaving");
        shop.pass(while_gone);
        let run = tenant_undelete(cp, &tester(), &id).await.unwrap();
        shop.world.finish(run).await;
    };
    let ends = async || billing.stripe.subscription(&subscription.id).await.unwrap().cancel_at.is_some();
    gone_and_back(TimeDelta::zero()).await;
    assert!(ends().await);
    assert_eq!(customers::return_round(billing).await.unwrap(), 1);
    assert!(!ends().await);
    assert_eq!(customers::return_round(billing).await.unwrap(), 0);
    // The owner's own word.
    gone_and_back(TimeDelta::zero()).await;
    customers::cancel(billing, &tester(), tenant).await.unwrap();
    assert_eq!(customers::return_round(billing).await.unwrap(), 0);
    assert!(ends().await);
    customers::keep(billing, &tester(), tenant).await.unwrap();
    assert!(!ends().await);
    // Too late.
    gone_and_back(TimeDelta::days(35)).await;
    assert_eq!(customers::return_round(billing).await.unwrap(), 1);
    assert_eq!(shop.incidents().await, [("returned_without_subscription".to_owned(), tenant.to_string())]);
    assert_eq!(customers::return_round(billing).await.unwrap(), 0);
}

/// A promotion code by its name, as people type it; a coupon of the account by its id is the provider's, and is no code. What is
/// wrong with a code is not told apart.
///
/// Shown to fail: what was typed taken for the code's id in `checkout_begin`.
#[tokio::test]
async fn a_coupon_is_a_promotion_code_and_not_any_coupon_of_the_account() {
    let shop = Shop::open().await;
    let tenant = shop.tenant("acme", "business").await;
    let (_, other, _) = shop.known("globex", "team").await;
    let (billing, caller) = (&shop.billing, tester());
    shop.at_stripe("/v1/coupons", &[("id", "STAFF100"), ("percent_off", "100"), ("duration", "forever")])
        .await;
    shop.at_stripe("/v1/coupons", &[("id", "fifth"), ("percent_off", "20"), ("duration", "once")]).await;
    let code = async |name: &str, more: &[(&str, &str)]| {
        let mut fields = vec![("promotion[type]", "coupon"), ("promotion[coupon]", "fifth"), ("code", name)];
        fields.extend(more);
        let made = shop.at_stripe("/v1/promotion_codes", &fields).await;
        made["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    };
    let good = code("WELCOME20", &[]).await;
    code("OVER", &[("active", "false")]).await;
    code("THEIRS", &[("customer", &other)]).await;
    code("SPENT", &[("expires_at", &(shop.now().timestamp() - 1).to_string())]).await;
    let mut said = Vec::new();
    for wrong in ["STAFF100", "fifth", &good, "OVER", "THEIRS", "SPENT", "nonesuch", "a b", "../x"] {
        let error =
            customers::checkout_begin(billing, &caller, tenant, "business", Some(wrong)).await.unwrap_err();
        assert!(error.is(&codes::INVALID_FIELDS), "{wrong}: {error}");
        said.push(format!("{:?}", error.field_errors()));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");
    let url =
        customers::checkout_begin(billing, &caller, tenant, "business", Some(" welcome20 ")).await.unwrap();
    let asked = shop.stripe.asked("Checkout.Sessions.create").pop().unwrap().params;
    assert_eq!(asked["discounts"], serde_json::json!([{ "promotion_code": good }]), "{asked}");
    shop.stripe.checkout_complete(&session_of(&url), Card::Works);
    shop.hear().await;
    assert_eq!(shop.plan(tenant).await, "business");
    let used = shop.stripe.object(&good).unwrap();
    assert_eq!(used["times_redeemed"], 1);
    // The page of Stripe's own takes codes too, when none was typed here.
    let third = shop.tenant("initech", "team").await;
    customers::checkout_begin(billing, &caller, third, "team", None).await.unwrap();
    let asked = shop.stripe.asked("Checkout.Sessions.create").pop().unwrap().params;
    assert_eq!((&asked["allow_promotion_codes"], asked.get("discounts")), (&serde_json::json!(true), None));
}

/// Where there is no trial, periods begin at 00:00 UTC all the same; and nobody pays on a page of yesterday.
///
/// Shown to fail: without `anchor` in `checkout_begin`. Guards `expires_at` too.
#[tokio::test]
async fn periods_begin_at_midnight_without_a_trial_too() {
    let shop = Shop::open().await;
    let (billing, caller) = (&shop.billing, tester());
    for (slug, late) in [("acme", TimeDelta::zero()), ("globex", TimeDelta::hours(20))] {
        // Half past nine in the morning, whatever the time of the test.
        let morning =
            (shop.now().date_naive() + chrono::Days::new(1)).and_hms_opt(9, 30, 0).unwrap().and_utc();
        shop.pass(morning - shop.now());
        let tenant = shop.tenant(slug, "team").await;
        // They had their trial.
        let (customer, now) = (customer_ensure(billing, tenant).await.unwrap(), shop.now());
        sqlx::query(
            "INSERT INTO subscription (id, tenant, customer, plan, status, period_start, period_end, fetched_at)
             VALUES ('sub_old_' || $3, $1, $2, 'team', 'canceled', $4, $4, $4)",
        )
        .bind(tenant)
        .bind(&customer)
        .bind(slug)
        .bind(now - TimeDelta::days(60))
        .execute(shop.db())
        .await
        .unwrap();
        let mut url = customers::checkout_begin(billing, &caller, tenant, "team", None).await.unwrap();
        let mut now = now;
        if !late.is_zero() {
            // Nobody pays on it any more once the midnight that it names has passed.
            shop.pass(late);
            assert_eq!(open_pages(&shop, &customer).await, Vec::<String>::new());
            url = customers::checkout_begin(billing, &caller, tenant, "team", None).await.unwrap();
            now = shop.now();
        }
        shop.stripe.checkout_complete(&session_of(&url), Card::Works);
        shop.hear().await;
        let kept =
            customers::current(&mut shop.db().acquire().await.unwrap(), tenant).await.unwrap().unwrap();
        let is_midnight = |at: chrono::DateTime<chrono::Utc>| at.timestamp() % 86_400 == 0;
        assert!(kept.status == "active" && is_midnight(kept.period_end), "{kept:?}");
        let paid: i64 =
            shop.stripe.invoices(&customer).iter().filter_map(|one| one["amount_paid"].as_i64()).sum();
        assert_eq!(kept.period_end.date_naive(), now.date_naive() + chrono::Days::new(1));
        assert!(paid > 0 && paid < 4900 / 20, "the hours until midnight: {paid}");
        // The next one is a whole month, from midnight to midnight.
        shop.pass(kept.period_end - shop.now() + TimeDelta::minutes(5));
        shop.hear().await;
        let next =
            customers::current(&mut shop.db().acquire().await.unwrap(), tenant).await.unwrap().unwrap();
        assert_eq!(next.period_start, kept.period_end);
        assert!(is_midnight(next.period_end) && next.period_end - next.period_start > TimeDelta::days(27));
    }
    assert!(shop.stripe.refused().is_empty(), "{:?}", shop.stripe.refused());
}

/// A customer's pages that can be paid on.
async fn open_pages(shop: &Shop, customer: &str) -> Vec<String> {
    let all = shop.billing.stripe.checkouts_open(customer).await.unwrap();
    all.into_iter().map(|one| one.id).collect()
}

/// Of all pages that are begun, one can be paid on: the last. With a subscription there is none.
///
/// Guards `only_one`, and `close_open` in `subscriptions::keep`.
#[tokio::test]
async fn nobody_pays_on_two_pages() {
    let shop = Shop::open().await;
    let tenant = shop.tenant("acme", "team").await;
    let (billing, caller) = (&shop.billing, tester());
    let begin = async |plan: &str| {
        session_of(&customers::checkout_begin(billing, &caller, tenant, plan, None).await.unwrap())
    };
    let customer = customer_ensure(billing, tenant).await.unwrap();
    let team = begin("team").await;
    assert_eq!(begin("team").await, team, "sent twice");
    let business = begin("business").await;
    assert_eq!(open_pages(&shop, &customer).await, std::slice::from_ref(&business));
    // The other one ends before it is asked whether somebody has just paid on it.
    let asked = shop.stripe.asked("");
    let last = |operation: &str| asked.iter().rposition(|one| one.operation == operation);
    let (ended, looked) = (last("Checkout.Sessions.expire"), last("Subscriptions.list"));
    assert!(ended.is_some() && ended < looked, "{ended:?} {looked:?}");
    // There and back again within the minutes in which an answer is saved: the first page has ended, so it is another one.
    let again = begin("team").await;
    assert_ne!(again, team);
    assert_eq!(open_pages(&shop, &customer).await, std::slice::from_ref(&again));
    // A saved answer of a page that somebody ended at Stripe.
    assert!(billing.stripe.checkout_expire(&again).await.unwrap());
    let third = begin("team").await;
    assert_eq!(open_pages(&shop, &customer).await, std::slice::from_ref(&third));
    // Many at once, for two plans.
    let all = futures_util::future::join_all((0..6).map(|n| {
        let plan = if n % 2 == 0 { "team" } else { "business" };
        customers::checkout_begin(billing, &caller, tenant, plan, None)
    }));
    all.await.into_iter().filter_map(Result::ok).for_each(drop);
    assert!(open_pages(&shop, &customer).await.len() <= 1);

    // A page that we know nothing of, beside the one that is paid on.
    let paid = begin("team").await;
    let stray = shop
        .at_stripe(
            "/v1/checkout/sessions",
            &[
                ("mode", "subscription"),
                ("customer", &customer),
                ("success_url", "http://localhost/"),
                ("line_items[0][price]", &price(&shop)),
                ("line_items[0][quantity]", "1"),
            ],
        )
        .await;
    assert_eq!(open_pages(&shop, &customer).await.len(), 2, "{stray}");
    shop.stripe.checkout_complete(&paid, Card::Works);
    shop.hear().await;
    assert_eq!(open_pages(&shop, &customer).await, Vec::<String>::new());
    assert_eq!(shop.stripe.subscriptions(&customer).len(), 1);
    let refused = customers::checkout_begin(billing, &caller, tenant, "team", None).await.unwrap_err();
    assert!(refused.is(&codes::STATE_CONFLICT));
    assert!(!shop.incidents().await.iter().any(|(kind, _)| kind == "two_subscriptions"));
}

/// Stripe speaks of a subscription first while the bank is still asked. Whoever then pays closes the page in the other window.
///
/// Guards `is_known` in `subscriptions::keep`.
#[tokio::test]
async fn a_page_beside_one_that_the_bank_is_asked_about_ends_when_that_is_paid() {
    let shop = Shop::open().await;
    let tenant = shop.tenant("acme", "team").await;
    let billing = &shop.billing;
    let customer = customer_ensure(billing, tenant).await.unwrap();
    let page = customers::checkout_begin(billing, &tester(), tenant, "team", None).await.unwrap();
    shop.stripe.checkout_complete(&session_of(&page), Card::Works);
    let paid = billing.stripe.subscriptions_of(&customer).await.unwrap().pop().unwrap();
    let is = async |status: &str| {
        shop.stripe.edit(&paid.id, &serde_json::json!({ "status": status }));
        customers::refresh_subscription(billing, &paid.id).await.unwrap();
    };
    is("incomplete").await;
    customers::checkout_begin(billing, &tester(), tenant, "business", None).await.unwrap();
    assert_eq!(open_pages(&shop, &customer).await.len(), 1);
    is("active").await;
    assert_eq!(open_pages(&shop, &customer).await, Vec::<String>::new());
}

/// A price per month, of whatever plan.
fn price(shop: &Shop) -> String {
    let prices = shop.stripe.objects("price");
    let monthly = prices.iter().find(|one| one["recurring"]["usage_type"] == "licensed").expect("a price");
    monthly["id"].as_str().unwrap().to_owned()
}
