//! A thousand tenants over three shards, then sixty thousand mixed requests over all of them through forty
//! connections a shard.

use std::time::Instant;

use freehold::product::{Current, Product};
use freehold::testkit::figures::Goal;
use freehold::testkit::load::{self, Plan};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::{AppOptions, Cluster, TestApp, WorldOptions};
use serde_json::json;

const SHARDS: usize = 3;
const TENANTS: usize = 1_000;
const REQUESTS: usize = 60_000;
const CLIENTS: usize = 48;
const BUDGET: usize = 40;
/// The load is more than two cores can log in for, so that somebody now and then waits a second for nothing. Of a
/// thousand requests, this many may be told to come back.
const REFUSED: f64 = 1.0;

pub async fn run(args: &Args) -> Outcome {
    let count = args.count(TENANTS);
    let plan = Plan { requests: args.count(REQUESTS), clients: CLIENTS };
    Cluster::durable().await;
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions {
            shards: SHARDS,
            tenant_cap: i32::try_from(count.div_ceil(SHARDS) + 10).expect("not that many"),
            slots: 10,
            tables: Current::migrations(),
        },
        broker_budget: BUDGET,
        roomy: true,
        ..AppOptions::of::<Current>()
    })
    .await;
    let begun = Instant::now();
    let mut tenants = load::make_tenants(&app, count, 4).await;
    let made = count as f64 / begun.elapsed().as_secs_f64();
    eprintln!("{count} tenants made, {made:.1} a second");
    load::furnish(&app, &mut tenants, 8).await;
    let report = load::run(&app, &tenants, plan).await;
    let broker = &report.broker;
    let mut lines = vec![
        format!("{count} tenants over {SHARDS} shards, made at {made:.1}/s (with a key each)"),
        format!(
            "{} requests by {CLIENTS} clients in {:.1} s: {:.0}/s; {} rows looked at",
            report.requests, report.seconds, report.per_second, report.rows
        ),
        format!(
            "broker: {} connections a shard, {} logins, {} evictions, hit rate {:.1} %",
            broker.budget_per_shard,
            broker.logins,
            broker.evictions,
            broker.hit_rate * 100.0
        ),
    ];
    lines.extend(report.failures.iter().cloned());
    let refused = report.busy as f64 * 1_000.0 / report.requests.max(1) as f64;
    Outcome {
        lines,
        series: vec![("latency".to_owned(), report.latency_ms)],
        goals: vec![
            Goal::never("answers that were not as asked for", report.errors),
            Goal::never("rows of another tenant", report.foreign_rows),
            Goal::never("requests that were told so each time", report.unserved),
            Goal::at_most("told to come back, of 1,000 requests", refused, REFUSED, "").must(),
            Goal::never("connections left in use", broker.left_in_use),
            Goal::at_most("connections on a shard", broker.most_open_on_a_shard as f64, BUDGET as f64, "")
                .must(),
        ],
        facts: json!({ "tenants": count, "clients": CLIENTS, "creates_per_second": made, "report": report }),
    }
}
