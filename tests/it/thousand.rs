//! Many tenants, few connections: the soak (`make soak`) at a size that fits `cargo test`.
//!
//! Shown to fail: let `seat_for` in `broker::shard` lend the connection it should evict, logged in as its old tenant, to
//! whoever asked. The first rows then land in other tenants' schemas, and the test ends where their owners miss them.

use freehold::product::{Current, Product};
use freehold::testkit::load::{self, Plan};
use freehold::testkit::{AppOptions, TestApp, WorldOptions};

const TENANTS: usize = 30;
const BUDGET: usize = 6;

/// Five tenants for each connection, so that most requests evict somebody: none fails, and none sees another's row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tenants_share_few_connections_and_no_rows() {
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 3, tenant_cap: 20, slots: 4, tables: Current::migrations() },
        broker_budget: BUDGET,
        ..AppOptions::of::<Current>()
    })
    .await;
    let mut tenants = load::make_tenants(&app, TENANTS, 4).await;
    load::furnish(&app, &mut tenants, 4).await;
    let plan = Plan { requests: 3_000, clients: 16 };
    let report = load::run(&app, &tenants, plan).await;
    let wrong = (report.errors, report.unserved, report.foreign_rows);
    assert_eq!((report.requests, wrong), (plan.requests, (0, 0, 0)), "{report:#?}");
    assert!(report.rows > plan.requests / 2, "{report:#?}");
    let broker = &report.broker;
    assert!(broker.evictions > 100, "the budget was no limit, so this shows nothing: {broker:?}");
    assert!(broker.most_open_on_a_shard <= BUDGET && broker.left_in_use == 0, "{broker:?}");
    // All shards took their part; creations at the same time choose by what is committed, hence not exactly.
    let placed: Vec<i32> = sqlx::query_scalar("SELECT tenants FROM shard ORDER BY name")
        .fetch_all(app.world.db())
        .await
        .unwrap();
    assert!(placed.iter().all(|tenants| *tenants >= 5), "{placed:?}");
}
