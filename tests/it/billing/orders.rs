//! A subscription's life, told in every order: its events late, twice, before and after one another. What is known at the end
//! is the same.

use chrono::TimeDelta;
use freehold::billing::access;
use freehold::billing::inbox::work_off;
use freehold::kernel::ids::TenantId;
use freehold::testkit::stripe::Held;
use proptest::prelude::RngExt;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::shop::Shop;

/// Lives that are told in another order each.
const LIVES: u32 = 12;

/// What is known of a tenant at the end, without names and moments of this very life.
#[derive(Debug, PartialEq, Eq)]
struct End {
    access: String,
    plan: String,
    state: String,
    subscription: (String, String, bool),
    invoices: Vec<(String, i64, i64)>,
    letters: Vec<String>,
    open: i64,
}

async fn end(shop: &Shop, tenant: TenantId) -> End {
    let (access, plan, state) = sqlx::query_as(
        "SELECT a.access, t.plan, t.state FROM billing_account a JOIN tenant t ON t.id = a.tenant WHERE t.id = $1",
    )
    .bind(tenant)
    .fetch_one(shop.db())
    .await
    .unwrap();
    let subscription =
        sqlx::query_as("SELECT status, plan, cancel_at IS NOT NULL FROM subscription WHERE tenant = $1")
            .bind(tenant)
            .fetch_one(shop.db())
            .await
            .unwrap();
    let invoices = sqlx::query_as(
        "SELECT status, total_minor, paid_minor FROM invoice WHERE tenant = $1 ORDER BY created_at, total_minor",
    )
    .bind(tenant)
    .fetch_all(shop.db())
    .await
    .unwrap();
    let open = sqlx::query_scalar("SELECT count(*) FROM webhook_inbox WHERE state IN ('ready', 'dead')")
        .fetch_one(shop.db())
        .await
        .unwrap();
    let mut letters = shop.letters(tenant).await;
    letters.sort();
    End { access, plan, state, subscription, invoices, letters, open }
}

/// Delivers some of what is on its way, in any order, some of it twice; now and then it is worked off at once.
async fn tell(shop: &Shop, pending: &mut Vec<Held>, rng: &mut TestRng, all: bool) {
    pending.extend(shop.stripe.take_held());
    let mut order: Vec<usize> = (0..pending.len()).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, rng.random_range(0..=at));
    }
    let mut late = Vec::new();
    for at in order {
        let held = pending[at].clone();
        if !all && rng.random_bool(0.4) {
            late.push(held);
            continue;
        }
        shop.deliver(&held).await.unwrap();
        if rng.random_bool(0.3) {
            late.push(held);
        }
        if rng.random_bool(0.3) {
            work_off(&shop.billing).await.unwrap();
        }
    }
    *pending = if all { Vec::new() } else { late };
}

/// Signed, changed to a larger plan, unpaid for a few days, paid, cancelled, ended.
async fn life(shop: &Shop, slug: &str, rng: &mut TestRng) -> TenantId {
    let (tenant, customer, subscription) = shop.paying(slug, "team").await;
    let mut pending = Vec::new();
    tell(shop, &mut pending, rng, false).await;
    let mut conn = shop.db().acquire().await.unwrap();
    let prices = freehold::billing::catalogue::prices_of(&mut conn, false, "business").await.unwrap();
    drop(conn);
    let key = |what: &str| format!("{what}:{tenant}");
    shop.billing
        .stripe
        .subscription_change(&subscription.id, &prices, "business", true, key("change"))
        .await
        .unwrap();
    tell(shop, &mut pending, rng, false).await;

    shop.stripe.card(&customer, false);
    shop.pass(TimeDelta::days(32));
    // Signatures are of their moment: what is still on its way is signed anew by whoever sends it again.
    resign(shop, &mut pending);
    tell(shop, &mut pending, rng, false).await;
    shop.stripe.card(&customer, true);
    for invoice in shop.stripe.invoices(&customer) {
        if invoice["status"] == "open" {
            assert!(shop.stripe.invoice_pay(invoice["id"].as_str().unwrap()));
        }
    }
    tell(shop, &mut pending, rng, false).await;
    shop.billing.stripe.subscription_cancel(&subscription.id, false, key("cancel")).await.unwrap();
    tell(shop, &mut pending, rng, false).await;
    shop.pass(TimeDelta::days(32));
    resign(shop, &mut pending);
    tell(shop, &mut pending, rng, true).await;
    // Only what Stripe sends again is left; all of it is known.
    work_off(&shop.billing).await.unwrap();
    // While events waited, nobody was brought nearer to suspension: the next round does that.
    access::round(&shop.billing).await.unwrap();
    tenant
}

/// As Stripe does when it delivers again: the same body, signed at that moment.
fn resign(shop: &Shop, pending: &mut [Held]) {
    for held in pending {
        held.signature = freehold::billing::inbox::signature::sign(
            &shop.stripe.snapshot_secret,
            shop.now().timestamp(),
            held.body.as_bytes(),
        );
    }
}

/// Shown to fail: a subscription's status taken from the event in place of Stripe's answer.
#[tokio::test]
async fn events_in_any_order_and_twice_end_in_the_same_state() {
    let shop = Shop::open().await;
    let mut first: Option<End> = None;
    for number in 0..LIVES {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        let mut runner =
            TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let mut rng = runner.new_rng();
        let tenant = life(&shop, &format!("life-{number}"), &mut rng).await;
        let mut end = end(&shop, tenant).await;
        // Which letters there were depends on what was seen in between; that none came twice does not.
        let mut once = end.letters.clone();
        once.dedup();
        assert_eq!(once, end.letters, "life {number}: a letter came twice");
        end.letters.clear();
        match &first {
            None => {
                assert_eq!(
                    (end.subscription.0.as_str(), end.plan.as_str(), end.open),
                    ("canceled", "business", 0)
                );
                assert_eq!(end.access, "canceled");
                assert!(
                    end.invoices.len() >= 2 && end.invoices.iter().all(|(status, ..)| status == "paid"),
                    "{end:?}"
                );
                first = Some(end);
            }
            Some(first) => assert_eq!(&end, first, "life {number}"),
        }
    }
}
