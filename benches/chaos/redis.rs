//! Redis killed, behind a bad network, emptied, set back.

use std::time::Duration;

use freehold::testkit::Cluster;
use freehold::testkit::chaos::redis::{Measure, Seen, Stage, TROUBLES};
use freehold::testkit::figures::{Goal, Median};
use freehold::testkit::program::{Args, Outcome};
use serde_json::json;

const MEASURE: Measure = Measure { tenants: 20, rate: 200.0, flood: 5.0, fault: Duration::from_secs(8) };

pub async fn run(args: &Args) -> Outcome {
    Cluster::durable().await;
    let stage = Stage::set(MEASURE.tenants).await;
    let measure = Measure { fault: args.time(MEASURE.fault).max(Duration::from_secs(3)), ..MEASURE };
    let mut all = Vec::new();
    for trouble in TROUBLES {
        let seen = stage.trouble(*trouble, measure).await;
        eprintln!(
            "{}: {:?}, flood {} of {}",
            seen.trouble, seen.answers, seen.flood_let_in, seen.flood_asked
        );
        all.push(seen);
    }
    report(&all)
}

fn report(all: &[Seen]) -> Outcome {
    let mut lines = vec![
        format!(
            "{} tenants within their limits at {} requests a second, one on the plan `free` at {} times its limit",
            MEASURE.tenants, MEASURE.rate, MEASURE.flood
        ),
        format!(
            "{:<24} {:>8} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "trouble", "requests", "wrong", "p50 ms", "p99 ms", "flood", "let in", "granted", "bound"
        ),
    ];
    lines.extend(all.iter().map(|seen| {
        format!(
            "{:<24} {:>8} {:>6} {:>9.1} {:>9.1} {:>9} {:>9} {:>9.0} {:>9.0}",
            seen.trouble,
            seen.requests,
            seen.wrong,
            seen.served.p50,
            seen.served.p99,
            seen.flood_asked,
            seen.flood_let_in,
            seen.granted,
            seen.bound
        )
    }));
    let success = |seen: &Seen| 1.0 - seen.wrong as f64 / seen.requests.max(1) as f64;
    let over = |seen: &Seen| seen.flood_let_in as f64 / seen.granted;
    Outcome {
        lines,
        series: all.iter().map(|seen| (seen.trouble.to_owned(), seen.served)).collect(),
        goals: vec![
            Goal::at_least(
                "success, the worst trouble",
                all.iter().map(success).fold(1.0, f64::min),
                0.999,
                "",
            )
            .must(),
            Goal::never(
                "floods let in beyond what losses and changes of the decider grant",
                all.iter().filter(|seen| seen.flood_let_in as f64 > seen.bound + 1.0).count(),
            ),
            Goal::at_most(
                "let in over granted, the worst trouble",
                all.iter().map(over).fold(0.0, f64::max),
                2.0,
                "×",
            ),
            Goal::never(
                "other answers to the flood than success and 429",
                all.iter().map(|s| s.flood_wrong).sum(),
            ),
            Goal::never("successes of a revoked key", all.iter().map(|seen| seen.let_in).sum()),
        ],
        facts: json!({
            "troubles": all,
            "over": Median::of(all.iter().map(over)),
        }),
    }
}
