//! One shard behind a bad network, in every way a network can be bad.

use std::collections::BTreeMap;
use std::time::Duration;

use freehold::testkit::Cluster;
use freehold::testkit::chaos::shards::{FAULTS, Measure, Strike, strike, town};
use freehold::testkit::figures::{Goal, Median};
use freehold::testkit::program::{Args, Outcome};
use serde_json::json;

const ROUNDS: usize = 3;
const EACH: usize = 10;
const MEASURE: Measure = Measure {
    rate: 120.0,
    healthy: Duration::from_secs(4),
    fault: Duration::from_secs(5),
    after: Duration::from_secs(10),
};

pub async fn run(args: &Args) -> Outcome {
    Cluster::durable().await;
    let town = town(EACH).await;
    let measure = Measure {
        healthy: args.time(MEASURE.healthy).max(Duration::from_secs(1)),
        // Shorter ones end before the breaker can be looked at.
        fault: args.time(MEASURE.fault).max(Duration::from_secs(4)),
        ..MEASURE
    };
    let mut strikes: BTreeMap<usize, Vec<Strike>> = BTreeMap::new();
    for round in 0..args.count(ROUNDS) {
        for (index, fault) in FAULTS.iter().enumerate() {
            let seen = strike(&town, *fault, measure, &format!("strike {round}-{index}")).await;
            eprintln!(
                "round {}: {}: {:.1} % served, {:?}",
                round + 1,
                seen.fault,
                seen.success * 100.0,
                seen.answers
            );
            strikes.entry(index).or_default().push(seen);
        }
    }
    report(&strikes)
}

fn report(strikes: &BTreeMap<usize, Vec<Strike>>) -> Outcome {
    let all = || strikes.values().flatten();
    let mut lines = vec![
        format!(
            "{EACH} tenants on each of two shards, {} requests a second to each shard, a fifth of them writes under an \
             Idempotency-Key; one shard is struck",
            MEASURE.rate
        ),
        format!(
            "{:<24} {:>7} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8} {:>8} {:>8}",
            "fault",
            "served",
            "slowest",
            "refused",
            "slowest",
            "other p99",
            "probes",
            "attempts",
            "retries",
            "back in"
        ),
        format!(
            "{:<24} {:>7} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8} {:>8} {:>8}",
            "", "%", "ms", "p50 ms", "ms", "ratio", "/s", "/request", "/request", "s"
        ),
    ];
    let worst = |of: &[Strike], figure: &dyn Fn(&Strike) -> f64| of.iter().map(figure).fold(0.0, f64::max);
    for of in strikes.values() {
        lines.push(format!(
            "{:<24} {:>7.1} {:>9.0} {:>9.1} {:>9.0} {:>9.2} {:>7} {:>8.3} {:>8.3} {:>8.2}",
            of[0].fault,
            Median::of(of.iter().map(|s| s.success * 100.0)).median,
            worst(of, &|s| s.served.max),
            Median::of(of.iter().map(|s| s.refused.p50)).median,
            worst(of, &|s| s.refused.max),
            Median::of(of.iter().map(Strike::neighbour_ratio)).median,
            worst(of, &|s| s.probes_a_second as f64),
            worst(of, &|s| s.attempts_per_request),
            worst(of, &|s| s.retries_per_request),
            worst(of, &|s| s.recovered_seconds),
        ));
    }
    let struck = || all().filter(|s| s.fault != "none");
    let (calm, ratio) = (
        Median::of(all().filter(|s| s.fault == "none").map(Strike::neighbour_ratio)),
        Median::of(struck().map(Strike::neighbour_ratio)),
    );
    lines.push(format!("neighbours' p99, during over before: {ratio}; without any fault: {calm}"));
    let sum = |figure: &dyn Fn(&Strike) -> usize| all().map(figure).sum::<usize>();
    lines.push(format!(
        "{} writes asked for, {} acknowledged at once, {} asked for again, of which {} had been made unheard",
        sum(&|s| s.books.asked),
        sum(&|s| s.books.acknowledged),
        sum(&|s| s.books.repeated),
        sum(&|s| s.books.replayed)
    ));
    lines.extend(all().flat_map(|s| s.disorderly.iter().map(|said| format!("{}: {said}", s.fault))));
    let most = |figure: &dyn Fn(&Strike) -> f64| struck().map(figure).fold(0.0, f64::max);
    Outcome {
        lines,
        series: Vec::new(),
        goals: vec![
            Goal::never("faults that were not met", all().filter(|s| !s.bit()).count()),
            Goal::never(
                "answers other than success to the other shard's tenants",
                sum(&|s| s.neighbour_wrong),
            ),
            Goal::at_most("their p99, during over before (median)", ratio.median, 1.1, "×"),
            Goal::never(
                "answers that were neither success nor 503/429 with a time",
                sum(&|s| s.disorderly.len()),
            ),
            Goal::at_most(
                "slowest refusal while the shard is gone",
                most(&|s| if s.is_outage() { s.refused.max } else { 0.0 }),
                1_000.0,
                "ms",
            ),
            Goal::at_most(
                "connection attempts within a second",
                most(&|s| s.probes_a_second as f64),
                1.0,
                "",
            ),
            Goal::at_most("retries per request", most(&|s| s.retries_per_request), 0.1, ""),
            Goal::at_most("99 % succeed again after", most(&|s| s.recovered_seconds), 10.0, "s").must(),
            Goal::never("acknowledged writes lost", sum(&|s| s.books.lost)),
            Goal::never("writes made twice", sum(&|s| s.books.doubled)),
        ],
        facts: json!({ "strikes": all().collect::<Vec<_>>() }),
    }
}
