//! `freehold health` beside real processes, as a container's check runs it, and what Prometheus gets from them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use freehold::testkit::process::{Launch, Process, Programs, free_port};
use freehold::testkit::{World, WorldOptions, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::provisioning::TABLES;

const BINARY: &str = env!("CARGO_BIN_EXE_freehold");
const PATIENCE: Duration = Duration::from_secs(60);

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a command with these settings and no others.
async fn freehold(args: &[&str], env: &[(&str, String)]) -> Ended {
    let output = Command::new(BINARY)
        .args(args)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn scrape(port: u16) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("http://127.0.0.1:{port}/metrics")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

async fn world() -> World {
    World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 1, tables: &TABLES }).await
}

/// A server that is ready, that drains, and that is gone: three answers. The check knows the address by the settings that
/// the server was started with. Shown to fail: with the status left unread in `cli::health`, the draining server passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_says_ready_then_draining_then_nothing() {
    let world = world().await;
    let programs = Programs::new(BINARY, &world).await;
    let metrics = free_port();
    let launch = Launch::serve()
        .env("FREEHOLD_METRICS_ADDR", format!("0.0.0.0:{metrics}"))
        .env("FREEHOLD_GRACE_SECONDS", 30);
    let mut serve = programs.start(launch).await;
    let told = [
        ("FREEHOLD_METRICS_ADDR", format!("0.0.0.0:{metrics}")),
        ("FREEHOLD_HTTP_ADDR", serve.addr.to_string()),
    ];

    let ready = freehold(&["health"], &told).await;
    assert_eq!((ready.code, ready.stdout.as_str()), (Some(0), "ready\n"), "{}", ready.stderr);
    let main_listener = freehold(&["health", "--output", "json"], &told[1..]).await;
    let said: Value = serde_json::from_str(&main_listener.stdout).unwrap();
    assert_eq!((&said["status"], &said["draining"]), (&json!("ready"), &json!(false)));

    serve.signal(Signal::SIGTERM);
    eventually(PATIENCE, "it drains", async || {
        let draining = freehold(&["health"], &told).await;
        let fine = draining.code == Some(1) && draining.stderr.contains("\"draining\":true");
        if fine && draining.stdout.is_empty() { Ok(()) } else { Err(draining.stderr) }
    })
    .await;
    let live = freehold(&["health", "--live"], &told).await;
    assert_eq!((live.code, live.stdout.as_str()), (Some(0), "live\n"), "{}", live.stderr);

    serve.kill().await;
    let gone = freehold(&["health"], &told).await;
    assert_eq!(gone.code, Some(5), "{}", gone.stderr);
    assert!(
        gone.stderr.contains("no connection") && gone.stderr.contains("--metrics-addr"),
        "{}",
        gone.stderr
    );
}

/// What answers and is no Freehold is not healthy, whatever its status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_on_the_port_is_not_healthy() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let other = axum::Router::new().fallback(async || axum::Json(json!({ "hello": "world" })));
    let serving = tokio::spawn(async { axum::serve(listener, other).await });
    let ended = freehold(&["health", &url], &[]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(ended.stderr.contains("not as Freehold does"), "{}", ended.stderr);
    serving.abort();
}

/// Secrets come from files, as a container gets them; the worker is asked like the server; and both processes' numbers are
/// of the form that Prometheus wants. They are left in `target/metrics` for `promtool check metrics`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_processes_are_asked_and_counted() {
    let world = world().await;
    let programs = Programs::new(BINARY, &world).await;
    let by_file = |launch: Launch| {
        let launch = launch.env("FREEHOLD_CONTROL_URL", kept(&world, "control-url", &world.control_url));
        launch.env("FREEHOLD_MASTER_KEY", kept(&world, "master-key", &world.master_hex))
    };
    let metrics = free_port();
    let serve = by_file(Launch::serve()).env("FREEHOLD_METRICS_ADDR", at(metrics));
    let (serve, worker) = tokio::join!(programs.start(serve), programs.start(by_file(Launch::worker())));
    let asked = freehold(&["health"], &[("FREEHOLD_METRICS_ADDR", worker.addr.to_string())]).await;
    assert_eq!((asked.code, asked.stdout.as_str()), (Some(0), "ready\n"), "{}", asked.stderr);

    some_work(&world, &serve).await;
    let numbers = scrape(metrics).await;
    well_formed(&numbers, &["http_requests_total", "http_request_seconds", "broker_connections"]);
    keep("server", &numbers);

    let counted = ["worker_rounds_total", "worker_jobs_total"];
    eventually(PATIENCE, "the worker has counted its work", async || {
        let numbers = scrape(worker.addr.port()).await;
        let missing = counted.iter().find(|name| !numbers.contains(*name));
        missing.map_or(Ok(()), |name| Err(format!("no {name}")))
    })
    .await;
    let numbers = scrape(worker.addr.port()).await;
    well_formed(&numbers, &counted);
    assert!(numbers.contains("worker_rounds_total{round=\"probe\",outcome=\"ok\"}"), "{numbers}");
    keep("worker", &numbers);
}

/// Writes a secret into a file, and gives the reference to it.
fn kept(world: &World, name: &str, secret: &str) -> String {
    let path = world.folder.path().join(name);
    std::fs::write(&path, format!("{secret}\n")).unwrap();
    format!("file:{}", path.display())
}

/// A tenant, a key and a request that is answered from the shard.
async fn some_work(world: &World, serve: &Process) {
    world.tenant_with("acme", "free").await;
    let told = [
        ("FREEHOLD_CONTROL_URL", world.control_url.clone()),
        ("FREEHOLD_MASTER_KEY", world.master_hex.clone()),
    ];
    let create =
        ["api-key", "create", "--tenant", "acme", "--role", "owner", "--name", "k", "--output", "json"];
    let made = freehold(&create, &told).await;
    let key: Value = serde_json::from_str(&made.stdout).unwrap_or_else(|_| panic!("{}", made.stderr));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = client.get(serve.url("/api/v1/projects")).header("host", "acme.localhost");
    let answer = ask.bearer_auth(key["key"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Each metric says what it is, in words and by kind, and is named by the rules of its kind.
fn well_formed(text: &str, wanted: &[&str]) {
    let (mut kinds, mut told) = (BTreeMap::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kinds.insert(name, kind);
        } else if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
        {
            assert!(help.len() > 10, "{line}");
            told.insert(name);
        }
    }
    for (name, kind) in &kinds {
        assert!(told.contains(name), "{name} is not described in src/telemetry/numbers.rs");
        assert_eq!(*kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(*kind != "histogram" || name.ends_with("_seconds"), "{name} is a {kind}");
    }
    for name in wanted {
        assert!(kinds.contains_key(name), "no {name} in:\n{text}");
    }
}

fn keep(process: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/metrics");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{process}.prom")), text).unwrap();
}
