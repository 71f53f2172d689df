//! Requests dropped anywhere in their life, with a slow road to the shard (trust A6).

use std::time::Duration;

use freehold::product::{Current, Product};
use freehold::testkit::fire::drops::{self, Plan};
use freehold::testkit::fire::resident::residents;
use freehold::testkit::{AppOptions, TestApp, Through, WorldOptions, load};

/// Shown to fail: let the drop of `broker::guard::Guard` give the connection back without the rollback:
/// connections are then lent inside a transaction that an earlier request left open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_requests_poison_nothing_and_tear_nothing() {
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 1, tenant_cap: 100, slots: 4, tables: Current::migrations() },
        broker_budget: 12,
        through: Through { shards: true, ..Through::default() },
        ..AppOptions::of::<Current>()
    })
    .await;
    let mut tenants = load::make_tenants(&app, 6, 4).await;
    load::furnish(&app, &mut tenants, 4).await;
    let residents = residents(&app, &tenants).await;
    let plan = Plan { drops: 600, at_once: 24, latency: Duration::from_millis(1) };
    let report = drops::run(&app, &tenants, &residents, plan).await;
    assert_eq!(
        (report.foreign, report.poisoned, report.torn, report.lost, report.not_given_back, report.errors),
        (0, 0, 0, 0, 0, 0),
        "{report:#?}"
    );
    assert!(report.dropped_inside > 100 && report.hung_up > 50 && report.served > 20, "{report:#?}");
    assert!(report.by_tenth[..10].iter().all(|drops| *drops > 0), "{report:#?}");
}
