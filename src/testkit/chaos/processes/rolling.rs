//! D4: two servers behind a balancer, replaced one after the other, again and again, under load. No request fails, and
//! none has to be sent twice.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::books::Audit;
use super::client::{Wire, request};
use super::front::Front;
use super::load::{Load, samples};
use super::stage::Stage;
use crate::testkit::eventually;
use crate::testkit::figures::{Goal, Spread};
use crate::testkit::process::{Launch, Process};
use crate::testkit::program::Outcome;

/// Five times what the balancer needs to look away.
pub const GRACE_SECONDS: u64 = 1;

pub struct Plan {
    /// The load goes on until so many were answered…
    pub requests: usize,
    /// … and so many servers were replaced.
    pub restarts: usize,
    pub lanes: usize,
    /// From the stop signal to the first refused connection, in seconds.
    pub grace: u64,
    /// Whether an answer of 503 is a malfunction. On a machine that is busy with something else a server that was just
    /// started may not be able to look a key up within its second.
    pub strict: bool,
}

/// # Panics
/// When a process does not start or stop as it should.
pub async fn run(binary: &str, plan: &Plan) -> Outcome {
    let stage = Stage::new(binary).await;
    let launch = || Launch::serve().env("FREEHOLD_GRACE_SECONDS", plan.grace);
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(stage.programs.start(launch()).await);
    }
    let stage = stage.people(&servers[0], 8).await;
    let front = Front::new(&[servers[0].addr, servers[1].addr]);
    for index in 0..2 {
        ready(&front, index).await;
    }
    let load = Load::begin(&stage, &front, plan.lanes);
    let (mut unready, mut stops, mut restarts) = (Vec::new(), Vec::new(), 0);
    while restarts < plan.restarts || load.answered() < plan.requests {
        let index = restarts % 2;
        let server = &mut servers[index];
        let asked = Instant::now();
        server.signal(Signal::SIGTERM);
        unready.push(says_no(server, asked).await);
        let status = server.ended().await;
        assert!(status.success(), "{status}");
        stops.push(asked.elapsed());
        servers[index] = stage.programs.start(servers[index].launch.clone()).await;
        ready(&front, index).await;
        restarts += 1;
    }
    let report = load.end().await;
    let audit = report.books.audit(&stage).await;
    outcome(plan, restarts, &report, audit, &unready, &stops)
}

async fn ready(front: &Front, index: usize) {
    eventually(Duration::from_secs(30), "the balancer sees the server", async || {
        if front.server(index).is_ready() { Ok(()) } else { Err("it does not") }
    })
    .await;
}

/// How long after the signal the server first says that it is not ready.
async fn says_no(server: &Process, asked: Instant) -> Duration {
    let question = request("GET", "/health/ready", "front", "none", None);
    loop {
        let look = async { Wire::open(server.addr).await?.ask(&question).await };
        match look.await {
            Ok(answer) if answer.status == 200 => tokio::time::sleep(Duration::from_millis(1)).await,
            Ok(_) | Err(_) => return asked.elapsed(),
        }
    }
}

fn outcome(
    plan: &Plan,
    restarts: usize,
    report: &super::load::Report,
    audit: Audit,
    unready: &[Duration],
    stops: &[Duration],
) -> Outcome {
    let refusals = report.failures.iter().filter(|failure| failure.status == Some(503)).count();
    let refused = Goal::never("requests answered with 503", refusals);
    let mut lines = vec![
        format!(
            "{} requests ({:.0}/s) while {restarts} servers were replaced; {} writes acknowledged",
            report.requests, report.per_second, audit.acknowledged
        ),
        format!("{audit:?}"),
    ];
    lines.extend(samples(&report.failures));
    Outcome {
        lines,
        series: vec![
            ("SIGTERM to not ready".to_owned(), Spread::of(unready)),
            ("SIGTERM to the process's end".to_owned(), Spread::of(stops)),
            ("request".to_owned(), report.latency),
        ],
        goals: vec![
            Goal::never("requests that failed otherwise", report.failures.len() - refusals),
            Goal { must: plan.strict, ..refused },
            Goal::never("requests that met a closed door", report.refused),
            Goal::never("acknowledged writes lost", audit.lost),
            Goal::never("writes carried out twice", audit.doubled),
            Goal::never("half writes", audit.half),
        ],
        facts: serde_json::json!({ "restarts": restarts, "requests": report.requests, "audit": audit }),
    }
}
