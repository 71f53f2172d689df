//! A server that may have few file descriptors, and a crowd of clients that connect and say nothing. Whoever is connected
//! is served, also over database connections that have to be opened meanwhile; the crowd waits in the kernel's queue;
//! nothing spins; and when the crowd has gone, newcomers are served again.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::client::Wire;
use super::stage::Stage;
use crate::testkit::eventually;
use crate::testkit::figures::Goal;
use crate::testkit::process::Launch;
use crate::testkit::program::Outcome;

pub struct Plan {
    pub descriptors: u32,
    pub crowd: usize,
    /// Requests of those who were there first, while the crowd is there.
    pub requests: usize,
    /// How long nobody asks anything while the crowd is there.
    pub quiet: Duration,
}

/// Connections that were there before the crowd.
const FIRST: usize = 8;

/// # Panics
/// When the process does not start.
pub async fn run(binary: &str, plan: &Plan) -> Outcome {
    let stage = Stage::new(binary).await;
    let launch = Launch { descriptors: Some(plan.descriptors), ..Launch::serve() };
    // The tenants are made through another process: this one has no connection of theirs when the crowd comes.
    let maker = stage.programs.start(Launch::serve()).await;
    let stage = stage.people(&maker, FIRST).await;
    let mut server = stage.programs.start(launch).await;
    let mut first = Vec::new();
    for _ in 0..FIRST {
        first.push(Wire::open(server.addr).await.expect("there is room"));
    }
    // Accepted, not only in the queue: each has been answered once, by something that needs no database.
    let health = super::client::request("GET", "/health/live", "x", "none", None);
    for wire in &mut first {
        assert_eq!(wire.ask(&health).await.expect("an answer").status, 200);
    }
    let mut crowd = Vec::new();
    for _ in 0..plan.crowd {
        // Where the kernel's queue is full too, nobody is let in for a long time.
        match tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(server.addr)).await {
            Ok(Ok(stream)) => crowd.push(stream),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let standing = crowd.len();
    let before = server.cpu();
    tokio::time::sleep(plan.quiet).await;
    let busy = (server.cpu() - before).as_secs_f64() / plan.quiet.as_secs_f64();
    let mut wrong = Vec::new();
    for number in 0..plan.requests {
        // In turn, so that each needs a connection to its shard that was not there before.
        let tenant = &stage.tenants[number % FIRST];
        let (request, wanted) = if number % 5 == 0 {
            (tenant.write(&format!("crowd-{number}")), 201)
        } else {
            (tenant.read(), 200)
        };
        match first[number % FIRST].ask(&request).await {
            Ok(answer) if answer.status == wanted => {}
            Ok(answer) => wrong.push(format!("{} {}", answer.status, answer.json())),
            Err(lost) => wrong.push(format!("{lost:?}")),
        }
    }
    drop(crowd);
    let left = Instant::now();
    eventually(Duration::from_secs(30), "newcomers are served", async || {
        let look = async { Wire::open(server.addr).await?.ask(&stage.tenants[0].read()).await };
        match tokio::time::timeout(Duration::from_secs(5), look).await {
            Ok(Ok(answer)) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let back = left.elapsed();
    let mut lines = vec![format!(
        "{} descriptors, {standing} silent clients; {} requests of those who were there first; {:.1} % of a core while nobody asked",
        plan.descriptors,
        plan.requests,
        busy * 100.0
    )];
    lines.extend(wrong.iter().take(5).cloned());
    Outcome {
        lines,
        series: Vec::new(),
        goals: vec![
            Goal::never("requests over kept connections that failed", wrong.len()),
            Goal::never("processes that ended", usize::from(server.is_gone())),
            Goal::at_most("of a core while nobody asked", busy, 0.2, "").must(),
            Goal::at_most("newcomers served, once the crowd is gone, after", back.as_secs_f64(), 5.0, "s")
                .must(),
        ],
        facts: serde_json::json!({ "descriptors": plan.descriptors, "crowd": standing }),
    }
}
