//! A shard's PostgreSQL is killed with all its processes under writes, and started again. Nothing acknowledged is lost,
//! and service comes back by itself. What this does not show: `kill -9` leaves the kernel's cache alone, so it is the
//! log's replay and the order of acknowledgement that are tested, not the disk's honesty.

use tokio::time::Instant;

use super::front::Front;
use super::load::{Load, samples};
use super::stage::Stage;
use crate::local::PostgresOptions;
use crate::product::{Current, Product};
use crate::testkit::figures::{Goal, Spread};
use crate::testkit::process::Launch;
use crate::testkit::program::Outcome;
use crate::testkit::{World, WorldOptions, extra_postgres};

pub struct Plan {
    pub crashes: usize,
    pub lanes: usize,
    /// Writes that have to be acknowledged between two crashes.
    pub writes: usize,
    pub fsync: bool,
}

/// # Panics
/// When a process does not start.
pub async fn run(binary: &str, plan: &Plan) -> Outcome {
    let postgres = extra_postgres(PostgresOptions { fsync: plan.fsync, ..PostgresOptions::default() }).await;
    let tables = Current::migrations();
    let mut world = World::with(WorldOptions { shards: 0, tenant_cap: 10, slots: 0, tables }).await;
    world.add_shard(&postgres.url("postgres"), 100, 0).await.expect("the shard is added");
    let stage = Stage::over(binary, world).await;
    let server = stage.programs.start(Launch::serve()).await;
    let stage = stage.people(&server, 4).await;
    let front = Front::new(&[server.addr]);
    let load = Load::begin(&stage, &front, plan.lanes);
    let (mut replay, mut back) = (Vec::new(), Vec::new());
    for _ in 0..plan.crashes {
        load.writes(plan.writes).await;
        postgres.crash().await;
        let begun = Instant::now();
        postgres.start_again().await.expect("it starts again");
        replay.push(begun.elapsed());
        let up = Instant::now();
        load.writes(1).await;
        back.push(up.elapsed());
    }
    load.writes(plan.writes).await;
    let report = load.end().await;
    stage.world.hands.admins.close().await;
    let audit = report.books.audit(&stage).await;
    let unclean = report.failures.iter().filter(|f| f.status.is_none_or(|status| status != 503)).count();
    let mut lines = vec![
        format!(
            "{} requests, {} writes acknowledged, {} crashes; {} answers of 503 meanwhile",
            report.requests,
            audit.acknowledged,
            plan.crashes,
            report.failures.len()
        ),
        format!("{audit:?}; fsync {}", if plan.fsync { "on" } else { "off" }),
    ];
    if unclean > 0 {
        lines.extend(samples(&report.failures));
    }
    let slowest = back.iter().max().copied().unwrap_or_default();
    Outcome {
        lines,
        series: vec![
            ("start of PostgreSQL, replay included".to_owned(), Spread::of(&replay)),
            ("PostgreSQL is up to the next acknowledged write".to_owned(), Spread::of(&back)),
            ("request".to_owned(), report.latency),
        ],
        goals: vec![
            Goal::never("acknowledged writes lost", audit.lost),
            Goal::never("half writes", audit.half),
            Goal::never("writes carried out twice", audit.doubled),
            Goal::never("failures that were not a clean 503", unclean),
            Goal::at_most("back by itself within", slowest.as_secs_f64(), 10.0, "s").must(),
        ],
        facts: serde_json::json!({ "audit": audit, "refused": report.failures.len() }),
    }
}
