//! Requests dropped at any moment of their life, through two milliseconds of added latency: nothing is left behind (A6).

use std::time::Duration;

use freehold::product::{Current, Product};
use freehold::testkit::figures::Goal;
use freehold::testkit::fire::drops::{self, Plan};
use freehold::testkit::fire::resident::residents;
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::{AppOptions, Cluster, TestApp, Through, WorldOptions, load};
use serde_json::json;

const TENANTS: usize = 24;
const BUDGET: usize = 32;

pub async fn run(args: &Args) -> Outcome {
    Cluster::durable().await;
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 2, tenant_cap: 100, slots: 5, tables: Current::migrations() },
        broker_budget: BUDGET / 2,
        roomy: true,
        through: Through { shards: true, ..Through::default() },
        ..AppOptions::of::<Current>()
    })
    .await;
    let mut tenants = load::make_tenants(&app, TENANTS, 4).await;
    load::furnish(&app, &mut tenants, 8).await;
    let residents = residents(&app, &tenants).await;
    let plan = Plan { drops: args.count(20_000), at_once: 64, latency: Duration::from_millis(2) };
    let report = drops::run(&app, &tenants, &residents, plan).await;
    let mut lines = vec![
        format!(
            "{} requests dropped in {:.0} s, {} inside the server and {} by clients that hung up; {} ended first",
            report.dropped(),
            report.seconds,
            report.dropped_inside,
            report.hung_up,
            report.served
        ),
        format!("by the tenth of their usual life: {:?}; {} answered busy", report.by_tenth, report.busy),
    ];
    lines.extend(report.failures.iter().cloned());
    let series = report.usual_lives_ms.iter().map(|(name, spread)| (format!("whole: {name}"), *spread));
    Outcome {
        lines,
        series: series.collect(),
        goals: vec![
            Goal::at_least("requests dropped", report.dropped() as f64, plan.drops as f64, "").must(),
            Goal::never("rows or logins of another tenant", report.foreign),
            Goal::never("connections with something left on them", report.poisoned),
            Goal::never("writes of which a part is there", report.torn),
            Goal::never("acknowledged writes that are not there", report.lost),
            Goal::never("connections and permits not given back", report.not_given_back),
            Goal::never("failures other than busy", report.errors + report.unavailable),
        ],
        facts: json!({ "plan": plan, "report": report }),
    }
}
