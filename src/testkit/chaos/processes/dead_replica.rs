//! D5: one of two servers is killed under load. Only what it had in hand fails, each write is wholly there or not at
//! all, the other server is untouched, and the dead one's sessions are soon gone.

use std::time::Duration;

use tokio::time::Instant;

use super::front::Front;
use super::load::{Load, samples};
use super::stage::Stage;
use crate::testkit::eventually;
use crate::testkit::figures::{Goal, Spread};
use crate::testkit::process::Launch;
use crate::testkit::program::Outcome;

pub struct Plan {
    pub kills: usize,
    pub lanes: usize,
    /// Load between two kills.
    pub pause: Duration,
    /// Whether an answer of 503 is a malfunction: see [`super::rolling::Plan::strict`].
    pub strict: bool,
}

/// # Panics
/// When a process does not start.
pub async fn run(binary: &str, plan: &Plan) -> Outcome {
    let stage = Stage::new(binary).await;
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(stage.programs.start(Launch::serve()).await);
    }
    let stage = stage.people(&servers[0], 8).await;
    let front = Front::new(&[servers[0].addr, servers[1].addr]);
    let load = Load::begin(&stage, &front, plan.lanes);
    let (mut gone, mut kills, mut most_sessions) = (Vec::new(), Vec::new(), 0);
    for number in 0..plan.kills {
        let index = number % 2;
        for index in 0..2 {
            eventually(Duration::from_secs(30), "both servers answer", async || {
                if front.server(index).is_ready() { Ok(()) } else { Err("not yet") }
            })
            .await;
        }
        let before = load.answered();
        eventually(Duration::from_secs(30), "the load goes on", async || {
            let more = load.answered() - before;
            if more > plan.lanes * 4 { Ok(()) } else { Err(format!("{more}")) }
        })
        .await;
        tokio::time::sleep(plan.pause).await;
        let sessions = stage.sessions(&servers[index].connections()).await;
        most_sessions = most_sessions.max(sessions.len());
        let killed = Instant::now();
        servers[index].kill().await;
        kills.push((servers[index].addr, killed));
        eventually(Duration::from_secs(30), "the dead server's sessions are gone", async || {
            match stage.still_there(&sessions).await {
                0 => Ok(()),
                left => Err(format!("{left} are left")),
            }
        })
        .await;
        gone.push(killed.elapsed());
        servers[index] = stage.programs.start(servers[index].launch.clone()).await;
    }
    let report = load.end().await;
    let audit = report.books.audit(&stage).await;
    // A failure belongs to a kill when it was that server's, and then: whatever was in hand is lost within the second.
    let explained = |failure: &&super::load::Failure| {
        kills.iter().any(|(addr, at)| {
            let late = failure.at.saturating_duration_since(*at);
            failure.status.is_none() && failure.server == Some(*addr) && late < Duration::from_secs(2)
        })
    };
    let in_hand = report.failures.iter().filter(explained).count();
    let (refused, unexplained): (Vec<_>, Vec<_>) =
        report.failures.iter().filter(|f| !explained(f)).cloned().partition(|f| f.status == Some(503));
    let busy = Goal::never("requests answered with 503", refused.len());
    let mut lines = vec![
        format!(
            "{} requests ({:.0}/s) while {} servers were killed; {in_hand} in hand were lost, {} went to the other server unsent",
            report.requests,
            report.per_second,
            kills.len(),
            report.refused
        ),
        format!("{audit:?}; at most {most_sessions} sessions of a server when it was killed"),
    ];
    lines.extend(samples(&unexplained));
    lines.extend(samples(&refused));
    let per_kill = in_hand as f64 / kills.len().max(1) as f64;
    Outcome {
        lines,
        series: vec![
            ("kill to its last session's end".to_owned(), Spread::of(&gone)),
            ("request".to_owned(), report.latency),
        ],
        goals: vec![
            Goal::at_most("requests lost per kill (those in hand)", per_kill, plan.lanes as f64, "").must(),
            Goal::never("other requests that failed", unexplained.len()),
            Goal { must: plan.strict, ..busy },
            Goal::never("acknowledged writes lost", audit.lost),
            Goal::never("writes carried out twice", audit.doubled),
            Goal::never("half writes", audit.half),
        ],
        facts: serde_json::json!({ "kills": kills.len(), "in_hand": in_hand, "audit": audit }),
    }
}
