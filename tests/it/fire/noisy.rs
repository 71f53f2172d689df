//! A neighbour at its connection limit with statements that never end (trust A11).

use std::time::Duration;

use freehold::product::{Current, Product};
use freehold::testkit::fire::noisy::{self, Noise, Plan};
use freehold::testkit::{AppOptions, TestApp, WorldOptions, load};

/// How much slower the quiet tenant is, is measured by `make soak` and `make bench`, on a machine that does nothing else.
/// Shown to fail: take the watchdog out of `control_plane::worker`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_statements_end_and_harm_nobody() {
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 1, tenant_cap: 100, slots: 2, tables: Current::migrations() },
        ..AppOptions::of::<Current>()
    })
    .await;
    let mut tenants = load::make_tenants(&app, 1, 1).await;
    load::furnish(&app, &mut tenants, 1).await;
    let noisy = app.world.tenant_with("noisy", "free").await;
    let plan = Plan { lasting: Duration::from_secs(5), rate: 40.0 };
    let report = noisy::run(&app, &noisy, &tenants[0], Noise::Waiting, plan).await;
    assert_eq!(report.not_ended_by_the_watchdog, 0, "{report:#?}");
    assert!(report.first_ended > 25.0 && report.last_ended <= 35.0, "{report:#?}");
    report.beside.must_be_right();
}
