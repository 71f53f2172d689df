//! A thousand tenants over three shards, then a hundred thousand mixed requests over all of them through forty
//! connections a shard. Ends with an error when one answer is wrong, or one row is another tenant's.
//!
//! `make soak`; `-- --tenants 100 --requests 5000 --clients 16 --budget 10` for another size.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use freehold::product::{Current, Product};
use freehold::testkit::figures::{Spread, load_average, write_json};
use freehold::testkit::load::{self, Plan, Report};
use freehold::testkit::{AppOptions, Cluster, TestApp, WorldOptions};
use serde::Serialize;

/// The whole soak takes no longer than this, or has failed.
const LIMIT: Duration = Duration::from_secs(14 * 60);
const SHARDS: usize = 3;

#[derive(Serialize)]
struct Figures {
    tenants: usize,
    clients: usize,
    load_before: f64,
    load_after: f64,
    create_seconds: f64,
    creates_per_second: f64,
    report: Report,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(async { tokio::time::timeout(LIMIT, soak()).await }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) => {
            eprintln!("the soak did not end within {LIMIT:?}");
            ExitCode::FAILURE
        }
    }
}

async fn soak() -> bool {
    let count = option("--tenants", 1_000);
    let plan = Plan { requests: option("--requests", 100_000), clients: option("--clients", 48) };
    let load_before = load_average();
    Cluster::durable().await;
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions {
            shards: SHARDS,
            tenant_cap: i32::try_from(count.div_ceil(SHARDS) + 10).expect("not that many"),
            slots: 10,
            tables: Current::migrations(),
        },
        broker_budget: option("--budget", 40),
        roomy: true,
        ..AppOptions::of::<Current>()
    })
    .await;
    let begun = Instant::now();
    let mut tenants = load::make_tenants(&app, count, 4).await;
    let create_seconds = begun.elapsed().as_secs_f64();
    eprintln!("{count} tenants made in {create_seconds:.1} s");
    load::furnish(&app, &mut tenants, 8).await;
    let report = load::run(&app, &tenants, plan).await;
    let figures = Figures {
        tenants: count,
        clients: plan.clients,
        load_before,
        load_after: load_average(),
        create_seconds,
        creates_per_second: count as f64 / create_seconds,
        report,
    };
    print(&figures);
    let broker = &figures.report.broker;
    figures.report.errors == 0
        && figures.report.foreign_rows == 0
        && broker.left_in_use == 0
        && broker.most_open_on_a_shard <= broker.budget_per_shard
}

fn option(name: &str, otherwise: usize) -> usize {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    args.nth(1).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} takes a number")))
}

fn print(figures: &Figures) {
    let file = write_json("soak", figures).expect("the figures are written");
    let Report { requests, errors, foreign_rows, rows, seconds, per_second, latency_ms, failures, broker } =
        &figures.report;
    println!(
        "{} tenants over {SHARDS} shards, made at {:.1}/s (with a key each), load {:.1} → {:.1}",
        figures.tenants, figures.creates_per_second, figures.load_before, figures.load_after
    );
    println!("{requests} requests by {} clients in {seconds:.1} s: {per_second:.0}/s", figures.clients);
    println!("{errors} errors, {rows} rows looked at, {foreign_rows} of another tenant\n");
    println!("{:<8} {}   (ms)", "", Spread::HEAD);
    println!("{:<8} {}\n", "latency", latency_ms.row());
    println!(
        "broker: {} connections a shard, {} most open, {} logins, {} evictions, hit rate {:.1} %, {} left in use",
        broker.budget_per_shard,
        broker.most_open_on_a_shard,
        broker.logins,
        broker.evictions,
        broker.hit_rate * 100.0,
        broker.left_in_use
    );
    for failure in failures {
        println!("  {failure}");
    }
    println!("\n{}", file.display());
}
