//! A neighbour at its connection limit with endless statements: how soon they end, and what a quiet tenant notices (A11).

use std::time::Duration;

use freehold::product::{Current, Product};
use freehold::testkit::figures::{Goal, Median};
use freehold::testkit::fire::noisy::{self, Noise, Plan, Report};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::{AppOptions, Cluster, TestApp, WorldOptions, load};
use serde_json::json;

/// The watchdog looks every three seconds for what is older than thirty.
const ENDED_WITHIN: f64 = 35.0;

pub async fn run(args: &Args) -> Outcome {
    Cluster::durable().await;
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 1, tenant_cap: 100, slots: 2, tables: Current::migrations() },
        roomy: true,
        ..AppOptions::of::<Current>()
    })
    .await;
    let mut tenants = load::make_tenants(&app, 1, 1).await;
    load::furnish(&app, &mut tenants, 1).await;
    let noisy = app.world.tenant_with("noisy", "free").await;
    let plan = Plan { lasting: args.time(Duration::from_secs(20)), rate: 100.0 };
    let mut rounds = Vec::new();
    for noise in [Noise::Waiting, Noise::Burning, Noise::Waiting] {
        rounds.push(noisy::run(&app, &noisy, &tenants[0], noise, plan).await);
    }
    let lines = rounds.iter().map(|round| {
        format!(
            "{} endless statements, {:?}: ended after {:.1} to {:.1} s; the quiet tenant's p99 {:.2} ms alone, {:.2} ms beside",
            round.statements,
            round.noise,
            round.first_ended,
            round.last_ended,
            round.alone.latency.p99,
            round.beside.latency.p99
        )
    });
    let of = |noise: Noise| Median::of(rounds.iter().filter(|round| round.noise == noise).map(Report::ratio));
    let last = rounds.iter().map(|round| round.last_ended).fold(0.0, f64::max);
    let sum = |count: fn(&Report) -> usize| rounds.iter().map(count).sum();
    Outcome {
        lines: lines.collect(),
        series: rounds
            .iter()
            .flat_map(|round| {
                let named = |when: &str| format!("quiet, {when} {:?}", round.noise);
                [(named("before"), round.alone.latency), (named("beside"), round.beside.latency)]
            })
            .collect(),
        goals: vec![
            Goal::at_most("longest statement", last, ENDED_WITHIN, "s").must(),
            Goal::never("statements not ended by the watchdog", sum(|round| round.not_ended_by_the_watchdog)),
            Goal::never(
                "the quiet tenant's wrong answers",
                sum(|round| round.alone.wrong() + round.beside.wrong()),
            ),
            Goal::at_most("quiet p99 beside waiting statements / alone", of(Noise::Waiting).median, 1.5, "×"),
            Goal::at_most(
                "quiet p99 beside computing statements / alone",
                of(Noise::Burning).median,
                1.5,
                "×",
            ),
        ],
        facts: json!({ "plan": plan, "rounds": rounds }),
    }
}
