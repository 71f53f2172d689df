//! Faults of whole processes, with the real binary: see `freehold::testkit::chaos::processes`.

use std::time::Duration;

use freehold::testkit::Cluster;
use freehold::testkit::chaos::processes::{
    clock, dead_replica, descriptors, no_room, restarts, rolling, shard_crash,
};
use freehold::testkit::program::{Args, Outcome, Section};

const BINARY: &str = env!("CARGO_BIN_EXE_freehold");

pub const ROLLING: Section = Section {
    name: "rolling",
    about: "two servers replaced in turn under 100,000 requests: none fails",
    run: |args| Box::pin(rolling(args)),
};

pub const DEAD_REPLICA: Section = Section {
    name: "replica",
    about: "one of two servers killed under load, ten times",
    run: |args| Box::pin(dead_replica(args)),
};

pub const RESTARTS: Section = Section {
    name: "restarts",
    about: "serve and worker killed twenty times each while tenants come and go",
    run: |args| Box::pin(restarts(args)),
};

pub const CLOCK: Section = Section {
    name: "clock",
    about: "a server's clock stepped by an hour both ways, workers an hour ahead and behind",
    run: |args| Box::pin(clock(args)),
};

pub const NO_ROOM: Section = Section {
    name: "full",
    about: "a shard without room on its disk, and a server whose log cannot be written",
    run: |args| Box::pin(no_room(args)),
};

pub const DESCRIPTORS: Section = Section {
    name: "descriptors",
    about: "a server with 256 file descriptors and a thousand silent clients",
    run: |args| Box::pin(descriptors(args)),
};

pub const SHARD_CRASH: Section = Section {
    name: "crash",
    about: "a shard's PostgreSQL killed under writes, five times, fsync on",
    run: |args| Box::pin(shard_crash(args)),
};

async fn rolling(args: &Args) -> Outcome {
    Cluster::durable().await;
    let grace = rolling::GRACE_SECONDS;
    let plan = rolling::Plan {
        requests: args.count(100_000),
        restarts: args.count(6).max(2),
        lanes: 32,
        grace,
        strict: true,
    };
    let mut outcome = rolling::run(BINARY, &plan).await;
    // For comparison, without a goal: what a balancer would have to send again.
    let hasty = rolling::Plan { requests: 0, restarts: args.count(6).max(2), grace: 0, ..plan };
    let beside = rolling::run(BINARY, &hasty).await;
    outcome.lines.push("the same with a grace of 0, where the balancer has no time to look away:".to_owned());
    outcome
        .lines
        .extend(beside.goals.iter().take(3).map(|goal| format!("  {}: {}", goal.what, goal.measured)));
    outcome
}

async fn dead_replica(args: &Args) -> Outcome {
    Cluster::durable().await;
    let kills = args.count(10).max(2);
    dead_replica::run(
        BINARY,
        &dead_replica::Plan { kills, lanes: 32, pause: Duration::from_millis(500), strict: true },
    )
    .await
}

async fn restarts(args: &Args) -> Outcome {
    Cluster::durable().await;
    let pause = Duration::from_millis(1_200);
    let plan = restarts::Plan { kills: args.count(20).max(2), lanes: 16, operators: 3, pause };
    restarts::run(BINARY, &plan).await
}

async fn clock(args: &Args) -> Outcome {
    Cluster::durable().await;
    clock::run(BINARY, &clock::Plan { lanes: 8, changes: args.count(10) }).await
}

async fn no_room(args: &Args) -> Outcome {
    Cluster::durable().await;
    no_room::run(BINARY, &no_room::Plan { lanes: 16, refusals: args.count(1_000), fsync: true }).await
}

async fn descriptors(args: &Args) -> Outcome {
    Cluster::durable().await;
    let quiet = Duration::from_secs(5).mul_f64(args.scale).max(Duration::from_secs(1));
    let plan = descriptors::Plan { descriptors: 256, crowd: 1_000, requests: args.count(2_000), quiet };
    descriptors::run(BINARY, &plan).await
}

async fn shard_crash(args: &Args) -> Outcome {
    Cluster::durable().await;
    let plan = shard_crash::Plan {
        crashes: args.count(5).max(1),
        lanes: 16,
        writes: args.count(1_000),
        fsync: true,
    };
    shard_crash::run(BINARY, &plan).await
}
