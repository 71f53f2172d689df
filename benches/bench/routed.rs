//! A tenant's request through all of Freehold, beside the same statements in a bare handler. Fifty warm tenants, asked
//! in a scattered order; both servers in this process, one of them idle at any time; the load from a thread of its own.

use std::time::Duration;

use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::wire::{self, Report, Shot, Target, Until};
use serde_json::{Value, json};

use super::bare::Bare;
use super::effort::{self, Effort, PerRequest};
use super::warm::{BUDGET, TENANTS, Tenant, Warm, scatter};

const ROUNDS: usize = 6;
const ROUND: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(1_500);

/// One comparison.
struct Case {
    name: &'static str,
    connections: usize,
    shot: fn(&Tenant) -> Shot,
    throughput: f64,
    p99: Option<f64>,
}

const CASES: [Case; 4] = [
    Case {
        name: "read, 16 connections",
        connections: 16,
        shot: Tenant::read,
        throughput: 0.80,
        p99: Some(1.5),
    },
    Case {
        name: "read, 64 connections",
        connections: 64,
        shot: Tenant::read,
        throughput: 0.80,
        p99: Some(1.5),
    },
    Case { name: "list, 16 connections", connections: 16, shot: Tenant::list, throughput: 0.85, p99: None },
    Case { name: "write, 16 connections", connections: 16, shot: Tenant::write, throughput: 0.85, p99: None },
];

/// What the rounds of one case came to.
#[derive(Default)]
struct Sides {
    routed: Vec<Round>,
    bare: Vec<Round>,
}

pub async fn measure(args: &Args) -> Outcome {
    let warm = Warm::start().await;
    let bare = Bare::start(warm.beside.clone(), BUDGET).await;
    let pgbench = warm.pgbench(16, args.time(2 * ROUND)).await;
    let only = std::env::var("FREEHOLD_BENCH_CASE").unwrap_or_default();
    let mut outcome = Outcome {
        lines: vec![format!(
            "{TENANTS} tenants on one shard, {BUDGET} connections, fsync on, logs and numbers on"
        )],
        ..Outcome::default()
    };
    match pgbench {
        Ok(rate) => outcome.lines.push(format!("pgbench, the same read, 16 connections: {rate:.0}/s")),
        Err(why) => outcome.lines.push(format!("no pgbench: {why}")),
    }
    let mut facts = Vec::new();
    for case in CASES.iter().filter(|case| case.name.contains(&only)) {
        let sides = rounds(args, &warm, &bare, case).await;
        facts.push(case.judge(&sides, &mut outcome));
    }
    outcome.facts = json!(facts);
    outcome
}

async fn rounds(args: &Args, warm: &Warm, bare: &Bare, case: &Case) -> Sides {
    let shots = warm.shots(case.shot);
    let mut of_bare = shots.clone();
    if case.name.starts_with("list") {
        // Its rows are of all the tenants.
        of_bare.iter_mut().for_each(|shot| *shot = shot.clone().stamped("[warm-", 20));
    }
    let (routed, plain) = (warm.target(), bare.target);
    for (target, shots) in [(routed, &shots), (plain, &of_bare)] {
        load(target, case.connections, WARM_UP, shots).await;
    }
    let mut sides = Sides::default();
    for round in 0..args.count(ROUNDS) {
        let length = args.time(ROUND);
        // Who goes first takes turns.
        for side in [round % 2, 1 - round % 2] {
            if side == 0 {
                sides.routed.push(load(routed, case.connections, length, &shots).await);
            } else {
                sides.bare.push(load(plain, case.connections, length, &of_bare).await);
            }
        }
    }
    sides
}

/// One round of one side, and what each of its requests cost.
pub struct Round {
    pub report: Report,
    pub effort: PerRequest,
}

pub async fn load(target: Target, connections: usize, length: Duration, shots: &[Shot]) -> Round {
    let shots = shots.to_vec();
    let choose = move |_: usize, number: usize| shots[scatter(number) % shots.len()].clone();
    let before = Effort::now();
    let (report, generator) = wire::apart(move || async move {
        let report = target.closed(connections, Until::Time(length), choose).await;
        (report, effort::of_this_thread())
    })
    .await;
    let effort = Effort::now().since(before, generator, report.requests);
    Round { report, effort }
}

impl Case {
    fn judge(&self, sides: &Sides, outcome: &mut Outcome) -> Value {
        let pairs = || sides.routed.iter().zip(&sides.bare);
        let per_second = |rounds: &[Round]| Median::of(rounds.iter().map(|round| round.report.per_second));
        let each = |rounds: &[Round], what: fn(&PerRequest) -> f64| {
            Median::of(rounds.iter().map(|round| what(&round.effort))).median
        };
        let throughput = |round: &Round| round.report.per_second;
        let ratio = Median::of(pairs().map(|(routed, bare)| throughput(routed) / throughput(bare)));
        let p99 = |round: &Round| round.report.latency.p99;
        let p99 = Median::of(pairs().map(|(routed, bare)| p99(routed) / p99(bare)));
        let effort = Median::of(pairs().map(|(routed, bare)| bare.effort.served() / routed.effort.served()));
        let (routed, bare) = (per_second(&sides.routed), per_second(&sides.bare));
        let name = self.name;
        outcome.lines.push(format!(
            "{name}: {:.0}/s routed, {:.0}/s bare; throughput {ratio}, p99 {p99}",
            routed.median, bare.median
        ));
        let mut efforts = Vec::new();
        for (side, rounds) in [("routed", &sides.routed), ("bare", &sides.bare)] {
            let all: Vec<_> =
                rounds.iter().flat_map(|round| round.report.latencies.iter().copied()).collect();
            outcome.series.push((format!("{name}, {side}"), Spread::of(&all)));
            let (own, servers) =
                (each(rounds, |effort| effort.server), each(rounds, |effort| effort.postgres_and_redis));
            efforts.push(format!("{side} {own:.0} + {servers:.0} µs"));
        }
        let generator = each(&sides.routed, |effort| effort.generator);
        outcome.lines.push(format!(
            "{name}: CPU time a request, server + databases: {}; bare over routed {effort}; generator {generator:.0} µs",
            efforts.join(", ")
        ));
        let reports = || sides.routed.iter().chain(&sides.bare).map(|round| &round.report);
        let wrong = reports().map(Report::wrong).sum();
        outcome.lines.extend(reports().flat_map(|report| report.samples.clone()).take(5));
        outcome.goals.push(Goal::never(format!("{name}: wrong answers"), wrong));
        outcome.goals.push(Goal::at_least(
            format!("{name}: throughput, of bare"),
            ratio.median,
            self.throughput,
            "×",
        ));
        if let Some(limit) = self.p99 {
            outcome.goals.push(Goal::at_most(format!("{name}: p99, of bare"), p99.median, limit, "×"));
        }
        json!({ "case": name, "routed_per_second": routed, "bare_per_second": bare, "throughput": ratio, "p99": p99, "cpu_bare_over_routed": effort })
    }
}
