//! A shard whose disk is full: its tenants' writes are refused with a clean 503, its reads and the other shards go on, and
//! it recovers by itself. A log that cannot be written: requests do not notice.

use std::time::Duration;

use tokio::time::Instant;

use super::client::Wire;
use super::front::Front;
use super::load::{Failure, Load, samples};
use super::preload::Preload;
use super::stage::Stage;
use crate::local::PostgresOptions;
use crate::product::{Current, Product};
use crate::testkit::figures::Goal;
use crate::testkit::process::Launch;
use crate::testkit::program::Outcome;
use crate::testkit::{World, WorldOptions, eventually, extra_postgres};

pub struct Plan {
    pub lanes: usize,
    /// Writes that have to be refused before there is room again.
    pub refusals: usize,
    pub fsync: bool,
}

/// Tenants on the full shard; as many are on another.
const TENANTS: usize = 2;

/// # Panics
/// When a process does not start.
pub async fn run(binary: &str, plan: &Plan) -> Outcome {
    let preload = Preload::build();
    let knob = preload.knob("disk");
    let mut environment: Vec<(String, String)> =
        knob.env().map(|(name, value)| (name.to_owned(), value)).into();
    // Tables and indexes. Where the write-ahead log has no disk of its own, a full disk stops the whole server.
    environment.push(("FREEHOLD_FULL".to_owned(), "/data/base/".to_owned()));
    let options = PostgresOptions { fsync: plan.fsync, environment, ..PostgresOptions::default() };
    let postgres = extra_postgres(options).await;
    let tables = Current::migrations();
    let mut world = World::with(WorldOptions { shards: 0, tenant_cap: 10, slots: 0, tables }).await;
    world.add_shard(&postgres.url("postgres"), 10, 0).await.expect("the shard is added");
    let mut stage = Stage::over(binary, world).await;
    // A log that cannot be written, for the whole of it.
    let launch = Launch { log: Some("/dev/full".into()), ..Launch::serve() };
    let server = stage.programs.start(launch).await;
    stage.world.probe().await;
    for number in 0..TENANTS * 2 {
        if number == TENANTS {
            // It has more room, so it is chosen from here on.
            let other = World::shard_database(1).await;
            stage.world.add_shard(&other, 1_000, 0).await.expect("the shard is added");
        }
        let tenant = stage.tenant(&server, &format!("room-{number}"), "enterprise").await;
        stage.tenants.push(tenant);
    }
    let stage = std::sync::Arc::new(stage);
    let front = Front::new(&[server.addr]);
    let load = Load::begin(&stage, &front, plan.lanes);
    load.writes(50).await;
    knob.full(true);
    eventually(Duration::from_secs(60), "writes are refused", async || {
        let refused = load.failures();
        if refused >= plan.refusals { Ok(()) } else { Err(format!("{refused}")) }
    })
    .await;
    knob.full(false);
    let room = Instant::now();
    let mut wire = Wire::open(server.addr).await.expect("it listens");
    eventually(Duration::from_secs(30), "the full shard's tenants write again", async || {
        match wire.ask(&stage.tenants[0].write("after")).await {
            Ok(answer) if answer.status == 201 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let back = room.elapsed();
    load.writes(50).await;
    let report = load.end().await;
    let audit = report.books.audit(&stage).await;
    let clean = |f: &Failure| f.status == Some(503) && f.what.contains("shard_unavailable");
    let count = |which: &dyn Fn(&Failure) -> bool| report.failures.iter().filter(|f| which(f)).count();
    let elsewhere = count(&|f| f.tenant >= TENANTS);
    let reads = count(&|f| f.tenant < TENANTS && !f.write);
    let unclean = count(&|f| f.tenant < TENANTS && f.write && !clean(f));
    let mut lines = vec![
        format!(
            "{} requests ({:.0}/s); {} writes refused while the shard had no room; {} acknowledged; log to /dev/full",
            report.requests,
            report.per_second,
            report.failures.len(),
            audit.acknowledged
        ),
        format!("{audit:?}"),
    ];
    lines.extend(samples(&report.failures).into_iter().take(2));
    Outcome {
        lines,
        series: vec![("request".to_owned(), report.latency)],
        goals: vec![
            Goal::never("requests to other shards that failed", elsewhere),
            Goal::never("reads of the full shard that failed", reads),
            Goal::never("writes refused with anything but a clean 503", unclean),
            Goal::never("acknowledged writes lost", audit.lost),
            Goal::never("half writes", audit.half),
            Goal::at_most("writes again, once there is room, after", back.as_secs_f64(), 10.0, "s").must(),
        ],
        facts: serde_json::json!({ "audit": audit, "refused": report.failures.len() }),
    }
}
