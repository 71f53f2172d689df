//! The control database away for ten minutes. It takes longer than everything else together, so it runs beside it, with a
//! world of its own and a low rate.

use std::time::Duration;

use freehold::testkit::Cluster;
use freehold::testkit::chaos::control::{Measure, Outage, Part, outage};
use freehold::testkit::figures::Goal;
use freehold::testkit::program::{Args, Outcome};
use serde_json::json;

pub const NAME: &str = "control";

const MEASURE: Measure = Measure {
    tenants: 20,
    rate: 25.0,
    healthy: Duration::from_secs(20),
    refused: Duration::from_secs(300),
    hung: Duration::from_secs(300),
};

pub async fn run(args: &Args) -> Outcome {
    Cluster::durable().await;
    let measure = Measure {
        healthy: args.time(MEASURE.healthy).max(Duration::from_secs(2)),
        refused: args.time(MEASURE.refused).max(Duration::from_secs(5)),
        hung: args.time(MEASURE.hung).max(Duration::from_secs(10)),
        ..MEASURE
    };
    report(&outage(measure).await)
}

fn report(seen: &Outage) -> Outcome {
    let mut lines = vec![format!(
        "{} tenants read at {} requests a second from a server that loses the control database, and as much from one that \
         keeps it, at the same time; beside the other sections",
        MEASURE.tenants, MEASURE.rate
    )];
    for part in &seen.parts {
        lines.push(format!(
            "{} for {:.0} s: {} of {} wrong; sign-ups: {:?}, slowest {:.0} ms; a suspended tenant and a revoked key: {:?}",
            part.mode, part.seconds, part.wrong, part.requests, part.signups, part.signup_took.max, part.shut
        ));
    }
    lines.extend(seen.samples.iter().cloned());
    let away = || seen.parts.iter().filter(|part| part.mode != "there");
    let total = |figure: &dyn Fn(&Part) -> usize| seen.parts.iter().map(figure).sum::<usize>();
    let other = |part: &Part| {
        let codes = part.signups.iter().filter(|(said, _)| *said != "503 control_unavailable");
        codes.map(|(_, count)| *count).sum::<usize>()
    };
    let ratio = |part: &Part| part.served.p99 / part.beside.p99;
    let mut goals = vec![
        Goal::never("parts in which the fault was not met", away().filter(|part| !bit(part)).count()),
        Goal::never("answers other than success to running tenants", total(&|part| part.wrong)),
        Goal::never("sign-ups answered otherwise than 503 meanwhile", away().map(other).sum()),
        Goal::never("successes of a suspended tenant or a revoked key", seen.let_in),
        Goal::never("requests without any answer", seen.hung),
        Goal::at_most("sign-up is back after", seen.recovered_seconds, 10.0, "s"),
    ];
    goals.extend(
        away().map(|part| Goal::at_most(format!("p99, {} beside there", part.mode), ratio(part), 1.1, "×")),
    );
    Outcome {
        lines,
        series: seen
            .parts
            .iter()
            .flat_map(|part| {
                [
                    (format!("{}: without it", part.mode), part.served),
                    (format!("{}: the server beside", part.mode), part.beside),
                    (format!("{}: sign-ups", part.mode), part.signup_took),
                ]
            })
            .collect(),
        goals,
        facts: json!({ "outage": seen }),
    }
}

fn bit(part: &Part) -> bool {
    if part.mode == "refused" { part.wire.cut > 0 } else { part.wire.in_fault > 0 }
}
