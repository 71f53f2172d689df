//! A quiet tenant's latency while a neighbour on its shard asks for twenty times what its plan allows, beside the same
//! tenant's latency alone. Both loads are open: a request is due when it is due, whoever is slow.

use std::collections::BTreeMap;
use std::time::Duration;

use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::wire::{self, Report, Shot, Target};
use serde_json::json;

use super::warm::{Tenant, Warm};

const ROUNDS: usize = 8;
const ROUND: Duration = Duration::from_secs(5);
/// The quiet tenant's requests a second: enough for a p99 in each round, far below its plan.
const QUIET: f64 = 100.0;
/// `team`: a hundred a second.
const NEIGHBOUR: &str = "team";
const LIMIT: f64 = 100.0;
const FLOOD: f64 = 20.0 * LIMIT;

#[derive(Default)]
struct Sides {
    alone: Vec<Report>,
    beside: Vec<Report>,
    /// The neighbour's answers.
    flood: BTreeMap<u16, usize>,
}

pub async fn measure(args: &Args) -> Outcome {
    let warm = Warm::with_plans(&["business", NEIGHBOUR]).await;
    let (target, quiet, neighbour) = (warm.target(), warm.tenants[0].read(), warm.tenants[1].list());
    let length = args.time(ROUND);
    paced(target, 8, QUIET, length, quiet.clone()).await;
    let mut sides = Sides::default();
    for round in 0..args.count(ROUNDS) {
        for side in [round % 2, 1 - round % 2] {
            if side == 0 {
                sides.alone.push(paced(target, 8, QUIET, length, quiet.clone()).await);
                continue;
            }
            let (report, flood) = tokio::join!(
                paced(target, 8, QUIET, length, quiet.clone()),
                paced(target, 32, FLOOD, length, neighbour.clone()),
            );
            sides.beside.push(report);
            for (status, count) in flood.statuses {
                *sides.flood.entry(status).or_default() += count;
            }
        }
    }
    let Tenant { slug, .. } = &warm.tenants[1];
    judge(&sides, slug)
}

async fn paced(target: Target, connections: usize, rate: f64, length: Duration, shot: Shot) -> Report {
    wire::apart(move || target.open(connections, rate, length, move |_, _| shot.clone())).await
}

fn judge(sides: &Sides, neighbour: &str) -> Outcome {
    let p99 = |reports: &[Report]| Median::of(reports.iter().map(|report| report.latency.p99));
    let ratio = Median::of(
        sides.beside.iter().zip(&sides.alone).map(|(beside, alone)| beside.latency.p99 / alone.latency.p99),
    );
    let (alone, beside) = (p99(&sides.alone), p99(&sides.beside));
    let all = |reports: &[Report]| {
        Spread::of(&reports.iter().flat_map(|report| report.latencies.iter().copied()).collect::<Vec<_>>())
    };
    let wrong = sides.alone.iter().chain(&sides.beside).map(Report::wrong).sum();
    let served = sides.flood.get(&200).copied().unwrap_or(0);
    let asked: usize = sides.flood.values().sum();
    let other: usize =
        sides.flood.iter().filter(|(status, _)| ![200, 429].contains(*status)).map(|(_, count)| count).sum();
    let lateness = Median::of(sides.beside.iter().map(|report| report.lateness.p99));
    Outcome {
        lines: vec![
            format!(
                "quiet: {QUIET}/s of one-row reads; p99 alone {alone} ms, beside the flood {beside} ms; ratio {ratio}"
            ),
            format!(
                "{neighbour} ({NEIGHBOUR}): {FLOOD}/s of twenty-row lists; {served} of {asked} served, {:?}",
                sides.flood
            ),
            format!("the generator itself was late by {lateness} ms (p99, beside)"),
        ],
        series: vec![
            ("quiet, alone".into(), all(&sides.alone)),
            ("quiet, beside".into(), all(&sides.beside)),
        ],
        goals: vec![
            Goal::never("answers to the quiet tenant that were wrong", wrong),
            Goal::never("answers to the neighbour but 200 and 429", other),
            Goal::at_most("quiet tenant's p99 beside the flood, of alone", ratio.median, 1.5, "×"),
        ],
        facts: json!({ "alone": alone, "beside": beside, "ratio": ratio, "flood": sides.flood }),
    }
}
