//! Faults of whole processes at a small size; `make chaos` runs the same at full size.

use std::time::Duration;

use freehold::product::{Current, Product};
use freehold::testkit::chaos::processes::client::Wire;
use freehold::testkit::chaos::processes::stage::Stage;
use freehold::testkit::chaos::processes::{
    clock, dead_replica, descriptors, no_room, restarts, rolling, shard_crash,
};
use freehold::testkit::process::{Launch, Programs};
use freehold::testkit::program::Outcome;
use freehold::testkit::{World, WorldOptions, eventually};
use nix::sys::signal::Signal;

const BINARY: &str = env!("CARGO_BIN_EXE_freehold");

/// Every goal whose miss is a malfunction was reached.
fn sound(outcome: &Outcome) {
    let broken: Vec<String> =
        outcome.goals.iter().filter(|goal| goal.must && !goal.reached).map(|goal| goal.row()).collect();
    assert!(broken.is_empty(), "{broken:#?}\n{:#?}", outcome.lines);
}

/// D4. Shown to fail: `grace: 0`. Requests meet closed connections and closed doors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_replaced_under_load_and_no_request_fails() {
    // Longer than the balancer needs, by as much as a busy machine may hold it up.
    let plan = rolling::Plan { requests: 500, restarts: 2, lanes: 8, grace: 3, strict: false };
    sound(&rolling::run(BINARY, &plan).await);
}

/// D5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_takes_only_what_it_had_in_hand() {
    let plan = dead_replica::Plan { kills: 2, lanes: 8, pause: Duration::from_millis(100), strict: false };
    sound(&dead_replica::run(BINARY, &plan).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_and_workers_are_killed_and_every_change_is_whole() {
    let plan = restarts::Plan { kills: 3, lanes: 4, operators: 2, pause: Duration::from_millis(400) };
    sound(&restarts::run(BINARY, &plan).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_clock_moves_the_expiry_of_keys_and_nothing_else() {
    sound(&clock::run(BINARY, &clock::Plan { lanes: 2, changes: 1 }).await);
}

/// Shown to fail: 53100 left out of `broker::faults::outward` (the writes are answered with 500).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_shard_refuses_writes_and_serves_the_rest() {
    sound(&no_room::run(BINARY, &no_room::Plan { lanes: 4, refusals: 10, fsync: false }).await);
}

/// Shown to fail: `connections_within` left out of `serve` (the crowd takes every descriptor, and the tenants' first
/// requests find none left for a connection to their shard).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_does_not_take_the_descriptors_that_serving_needs() {
    let plan =
        descriptors::Plan { descriptors: 128, crowd: 200, requests: 40, quiet: Duration::from_secs(1) };
    sound(&descriptors::run(BINARY, &plan).await);
}

/// Shown to fail: `fsync: false`, with which the test's PostgreSQL acknowledges before it has written its log: 5 of 64
/// acknowledged writes were lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shard_comes_back_with_every_acknowledged_write() {
    sound(
        &shard_crash::run(BINARY, &shard_crash::Plan { crashes: 1, lanes: 4, writes: 30, fsync: true }).await,
    );
}

/// An operator can see that a worker works, and that it is asked to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_shows_that_it_works() {
    let tables = Current::migrations();
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 1, tables }).await;
    let mut worker = Programs::new(BINARY, &world).await.start(Launch::worker()).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: &str| {
        let answer = client.get(worker.url(path)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("/health/live").await.0, 200);
    assert_eq!(get("/api/v1/tasks").await.0, 404);
    eventually(Duration::from_secs(20), "its rounds are counted", async || {
        let (_, text) = get("/metrics").await;
        let wanted = r#"worker_rounds_total{round="probe",outcome="ok"}"#;
        if text.contains(wanted) { Ok(()) } else { Err(text) }
    })
    .await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.ended().await.success());
}

/// Shown to fail: the log written to stderr by whoever logs. After 64 KiB of lines no request is answered any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_up_nobody() {
    let stage = Stage::new(BINARY).await;
    let pipe = stage.world.folder.path().join("log");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Open for reading, so that the server can open it for writing, and never read.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let launch = Launch { log: Some(pipe), ..Launch::serve() };
    let mut server = stage.programs.start(launch).await;
    let stage = stage.people(&server, 1).await;
    let mut wire = Wire::open(server.addr).await.unwrap();
    // Each is a line of more than 200 bytes.
    for number in 0..1_000 {
        let answer = wire.ask(&stage.tenants[0].read()).await;
        assert_eq!(answer.map(|answer| answer.status), Ok(200), "request {number}");
    }
    server.signal(Signal::SIGTERM);
    assert!(server.ended().await.success());
}
