//! Many requests of many tenants over few connections: every row that is shown bears the stamp of whoever asked.

use std::time::Duration;

use freehold::product::{Current, Product};
use freehold::testkit::fire::crowd::{self, Plan};
use freehold::testkit::fire::resident::{Resident, residents};
use freehold::testkit::load::{self, Tenant};
use freehold::testkit::{AppOptions, TestApp, WorldOptions};
use sqlx::AssertSqlSafe;

const BUDGET: usize = 4;

async fn scene(count: usize) -> (TestApp, Vec<Tenant>, Vec<Resident>) {
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 1, tenant_cap: 100, slots: 4, tables: Current::migrations() },
        broker_budget: BUDGET,
        ..AppOptions::of::<Current>()
    })
    .await;
    let mut tenants = load::make_tenants(&app, count, 4).await;
    load::furnish(&app, &mut tenants, 4).await;
    let residents = residents(&app, &tenants).await;
    (app, tenants, residents)
}

/// A5. Shown to fail: let `seat_for` in `broker::shard` lend the connection it should evict to whoever asked for its
/// permit. Hundreds of reads then see another tenant's rows and login.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_sees_its_own_rows_only() {
    let (app, tenants, residents) = scene(12).await;
    let plan = Plan {
        each: 8,
        http_clients: 4,
        reads: 3_000,
        lasting: Duration::from_secs(1),
        at_most: Duration::from_secs(60),
    };
    let report = crowd::run(&app, &tenants, &residents, plan).await;
    assert_eq!((report.mismatches, report.errors), (0, 0), "{report:#?}");
    assert_eq!((report.http.errors, report.http.foreign_rows), (0, 0), "{report:#?}");
    assert!(report.reads >= plan.reads && report.fewest > 0 && report.http.rows > 20, "{report:#?}");
    let broker = &report.broker;
    assert!(broker.evictions > 50, "the budget was no limit, so this shows nothing: {broker:?}");
    assert!(broker.most_open_on_a_shard <= BUDGET && broker.left_in_use == 0, "{broker:?}");
}

/// The counters themselves, at work in whole runs: a row that an administrator slips into a tenant's schema with another
/// tenant's stamp is seen by both, the crowd's and the one of the load over HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_row_is_counted() {
    let (app, tenants, residents) = scene(2).await;
    let plan = Plan {
        each: 2,
        http_clients: 2,
        reads: 100,
        lasting: Duration::from_millis(500),
        at_most: Duration::from_secs(60),
    };
    let (here, there) = (&residents[0], &residents[1]);
    let plant = format!(
        "UPDATE {}.projects SET name = '{there} slipped in'; UPDATE {}.tasks SET title = '{there} slipped in'",
        here.role,
        here.role,
        there = there.stamp
    );
    sqlx::raw_sql(AssertSqlSafe(plant)).execute(&mut *app.world.shard_conn(0).await).await.unwrap();
    let report = crowd::run(&app, &tenants, &residents, plan).await;
    assert!(report.mismatches > 0 && report.failures[0].contains(&here.slug), "{report:#?}");
    assert!(report.http.foreign_rows > 0, "{report:#?}");
    assert!(report.http.failures.iter().all(|failure| failure.contains(&here.slug)), "{report:#?}");
}
