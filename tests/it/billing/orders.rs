//! A subscription's life, told in any order: its events late, twice, before and after one another. What is known at the end
//! is the same.

use std::cell::{Cell, RefCell};

use chrono::TimeDelta;
use freehold::billing::access;
use freehold::billing::inbox::signature::sign;
use freehold::billing::inbox::work_off;
use freehold::kernel::ids::TenantId;
use freehold::testkit::stripe::Held;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::shop::Shop;

/// Lives, each told in another way.
const LIVES: u32 = 16;

/// What is known of a tenant at the end, without names and moments of this very life.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What becomes of an event on its way.
#[derive(Clone, Debug)]
struct Fate {
    /// So many parts of the life later than it happened.
    late: usize,
    /// Delivered a second time, a part after the first.
    twice: bool,
    /// Its place among those that are delivered in the same part.
    place: u16,
    /// Worked off before the next one is delivered.
    at_once: bool,
}

/// Fates of events, taken in turn, over and over.
fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = (0..3usize, any::<bool>(), any::<u16>(), any::<bool>())
        .prop_map(|(late, twice, place, at_once)| Fate { late, twice, place, at_once });
    prop::collection::vec(fate, 1..40)
}

/// Brings events as their fates will.
struct Post<'a> {
    fates: &'a [Fate],
    /// Events that have got their fate.
    seen: usize,
    part: usize,
    /// When each is due, its place there, and whether it is worked off at once.
    waiting: Vec<(usize, u16, bool, Held)>,
}

impl Post<'_> {
    /// A part of the life is over: what is due is delivered, each signed at that moment as Stripe does, and a worker has its
    /// turn. At the end all that is left comes.
    async fn deliver(&mut self, shop: &Shop, all: bool) {
        for held in shop.stripe.take_held() {
            let fate = &self.fates[self.seen % self.fates.len()];
            self.seen += 1;
            for copy in 0..=usize::from(fate.twice) {
                self.waiting.push((self.part + fate.late + copy, fate.place, fate.at_once, held.clone()));
            }
        }
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(part, ..)| all || *part <= self.part);
        self.waiting = later;
        self.part += 1;
        due.sort_by_key(|(_, place, ..)| *place);
        for (_, _, at_once, mut held) in due {
            held.signature = sign(&shop.stripe.snapshot_secret, shop.now().timestamp(), held.body.as_bytes());
            shop.deliver(&held).await.unwrap();
            if at_once {
                work_off(&shop.billing).await.unwrap();
            }
        }
        work_off(&shop.billing).await.unwrap();
    }
}

/// Signed, changed to a larger plan, unpaid for a few days, paid, cancelled, ended.
async fn life(shop: &Shop, slug: &str, fates: &[Fate]) -> TenantId {
    let (tenant, customer, subscription) = shop.paying(slug, "team").await;
    let mut post = Post { fates, seen: 0, part: 0, waiting: Vec::new() };
    post.deliver(shop, false).await;
    let mut conn = shop.db().acquire().await.unwrap();
    let prices = freehold::billing::catalogue::prices_of(&mut conn, false, "business").await.unwrap();
    drop(conn);
    let key = |what: &str| format!("{what}:{tenant}");
    shop.billing
        .stripe
        .subscription_change(&subscription.id, &prices, "business", true, key("change"))
        .await
        .unwrap();
    post.deliver(shop, false).await;

    shop.stripe.card(&customer, false);
    shop.pass(TimeDelta::days(32));
    post.deliver(shop, false).await;
    shop.stripe.card(&customer, true);
    for invoice in shop.stripe.invoices(&customer) {
        if invoice["status"] == "open" {
            assert!(shop.stripe.invoice_pay(invoice["id"].as_str().unwrap()));
        }
    }
    post.deliver(shop, false).await;
    shop.billing.stripe.subscription_cancel(&subscription.id, false, key("cancel")).await.unwrap();
    post.deliver(shop, false).await;
    shop.pass(TimeDelta::days(32));
    post.deliver(shop, true).await;
    // While events waited, nobody was brought nearer to suspension: the next round does that.
    access::round(&shop.billing).await.unwrap();
    tenant
}

/// Whatever becomes of the events: what is known at the end of a life is the same, and no letter came twice.
///
/// Shown to fail: a subscription's status taken from the event in place of Stripe's answer.
#[test]
fn events_in_any_order_late_and_twice_end_in_the_same_state() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let shop = runtime.block_on(Shop::open());
    let (first, number) = (RefCell::new(None), Cell::new(0u32));
    let config =
        Config { cases: LIVES, max_shrink_iters: 24, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let told = runner.run(&fates(), |fates| {
        number.set(number.get() + 1);
        let mut end = runtime.block_on(async {
            let tenant = life(&shop, &format!("life-{}", number.get()), &fates).await;
            end(&shop, tenant).await
        });
        // Which letters there were depends on what was seen in between; that none came twice does not.
        let mut once = end.letters.clone();
        once.dedup();
        prop_assert_eq!(&once, &end.letters, "a letter came twice");
        end.letters.clear();
        prop_assert_eq!(
            (end.subscription.0.as_str(), end.plan.as_str(), end.open),
            ("canceled", "business", 0)
        );
        prop_assert_eq!(end.access.as_str(), "canceled");
        let paid = end.invoices.iter().all(|(status, ..)| status == "paid");
        prop_assert!(end.invoices.len() >= 2 && paid, "{:?}", end);
        let mut first = first.borrow_mut();
        prop_assert_eq!(&end, &*first.get_or_insert_with(|| end.clone()));
        Ok(())
    });
    if let Err(error) = told {
        panic!("{error}");
    }
    // Its servers' tasks are the runtime's: they end with it, and not before.
    drop(shop);
}
