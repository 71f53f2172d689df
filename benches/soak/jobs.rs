//! Jobs of many tenants on workers that are killed: no row of another tenant is touched (A9).

use std::path::Path;

use freehold::product::{Current, Product};
use freehold::testkit::figures::Goal;
use freehold::testkit::fire::jobs::{self, Plan};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::{Cluster, World};
use serde_json::json;

pub async fn run(args: &Args) -> Outcome {
    Cluster::durable().await;
    let world = World::new(Current::migrations()).await;
    let plan = Plan { tenants: 8, rounds: args.count(30), jobs: 6 };
    let report = jobs::run(&world, Path::new(env!("CARGO_BIN_EXE_freehold")), plan).await;
    let kills = report.killed_at_a_point + report.killed_anywhere;
    let lines = vec![format!(
        "{} jobs of {} tenants in {} rounds, {:.0} s: {kills} workers killed with jobs in hand, {} jobs done again",
        report.jobs,
        plan.tenants * 2,
        plan.rounds,
        report.seconds,
        report.taken_over
    )];
    let never = |what: &str, count: i64| Goal::never(what, usize::try_from(count).unwrap_or(usize::MAX));
    Outcome {
        lines,
        series: Vec::new(),
        goals: vec![
            never("rows of another tenant that went", report.lost),
            never("rows that a job should have removed", report.left),
            never("rows with another tenant's name", report.foreign),
            never("jobs not done", report.unfinished),
            never("jobs without a tenant that were not refused", report.without_tenant - report.refused),
            Goal::at_least(
                "workers killed at a step",
                report.killed_at_a_point as f64,
                plan.rounds as f64,
                "",
            )
            .must(),
        ],
        facts: json!({ "plan": plan, "report": report }),
    }
}
