//! Two hundred tenants, fifty requests of each at any moment, thirty connections: a million reads, each checked (A5).

use std::time::Duration;

use freehold::product::{Current, Product};
use freehold::testkit::figures::Goal;
use freehold::testkit::fire::crowd::{self, Plan};
use freehold::testkit::fire::resident::residents;
use freehold::testkit::load;
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::{AppOptions, Cluster, TestApp, WorldOptions};
use serde_json::json;

const TENANTS: usize = 200;
const EACH: usize = 50;
const BUDGET: usize = 30;
const READS: usize = 1_000_000;

pub async fn run(args: &Args) -> Outcome {
    Cluster::durable().await;
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 1, tenant_cap: 1_000, slots: 10, tables: Current::migrations() },
        broker_budget: BUDGET,
        roomy: true,
        ..AppOptions::of::<Current>()
    })
    .await;
    let mut tenants = load::make_tenants(&app, args.count(TENANTS), 4).await;
    load::furnish(&app, &mut tenants, 8).await;
    let residents = residents(&app, &tenants).await;
    let plan = Plan {
        each: EACH,
        http_clients: 8,
        reads: args.count(READS),
        lasting: args.time(Duration::from_secs(60)),
        at_most: Duration::from_secs(300),
    };
    let report = crowd::run(&app, &tenants, &residents, plan).await;
    let (broker, http) = (&report.broker, &report.http);
    let mut lines = vec![
        format!(
            "{} tenants × {EACH} at once over {BUDGET} connections: {} reads in {:.0} s, {:.0}/s; {} answered busy",
            report.tenants, report.reads, report.seconds, report.per_second, report.busy
        ),
        format!(
            "over HTTP meanwhile: {} requests, {} rows looked at, {} answered busy",
            http.requests, http.rows, http.busy
        ),
        format!(
            "reads of one tenant: {} to {}; {} logins, {} evictions",
            report.fewest, report.most, broker.logins, broker.evictions
        ),
    ];
    lines.extend(report.failures.iter().chain(&http.failures).cloned());
    Outcome {
        lines,
        series: vec![("wait and read".to_owned(), report.wait_ms), ("over HTTP".to_owned(), http.latency_ms)],
        goals: vec![
            Goal::never("reads that saw another tenant's row, login or schema", report.mismatches),
            Goal::never("rows of another tenant over HTTP", http.foreign_rows),
            Goal::never("failures other than busy", report.errors + http.errors),
            Goal::at_least("reads", report.reads as f64, plan.reads as f64, "").must(),
            Goal::at_least("reads of the least served tenant", report.fewest as f64, 1.0, "").must(),
            Goal::at_most("connections", broker.most_open_on_a_shard as f64, BUDGET as f64, "").must(),
            Goal::never("connections left in use", broker.left_in_use),
        ],
        facts: json!({ "plan": plan, "report": report }),
    }
}
