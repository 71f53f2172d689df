//! The real binary: `dev` from nothing to a served request and back, `serve` and `worker` as two processes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use freehold::testkit::{Cluster, World, WorldOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::provisioning::TABLES;

const PATIENCE: Duration = Duration::from_secs(60);

/// The program, with nothing of our environment but where programs are. It goes with the value.
pub fn freehold(args: &[&str], home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("FREEHOLD_HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().expect("it runs")).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Reads lines until one holds `needle`; gives all that was read.
async fn until(lines: &mut Lines<BufReader<ChildStdout>>, needle: &str) -> String {
    let mut read = String::new();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            read += &line;
            read.push('\n');
            if line.contains(needle) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("no {needle:?}"));
    assert!(read.contains(needle), "ended without {needle:?}: {read}");
    read
}

async fn all(stderr: Option<ChildStderr>) -> String {
    let mut text = String::new();
    stderr.expect("it is piped").read_to_string(&mut text).await.unwrap();
    text
}

/// The commands that the screen offers, run by a shell as a visitor would paste them.
async fn paste(screen: &str) -> Vec<Value> {
    let mut answers = Vec::new();
    for line in screen.lines().map(str::trim).filter(|line| line.starts_with("curl ")) {
        // Not every resolver knows *.localhost.
        let line = line.replacen("curl", "curl --resolve '*:80:127.0.0.1' --connect-to ::127.0.0.1:", 1);
        let output = Command::new("sh").arg("-c").arg(&line).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        answers.push(serde_json::from_str(&text).unwrap_or_else(|_| panic!("{line}: {text}")));
    }
    answers
}

/// The first item, but for make: the ready screen, both pasted commands, a second start with the data kept,
/// and nothing left running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_from_nothing_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("state");
    let mut first = Vec::new();
    for start in ["first", "second"] {
        let mut child = freehold(&["dev", "--http-addr", "127.0.0.1:0"], &home).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let screen = until(&mut lines, "Stop with Ctrl-C").await;
        let answers = paste(&screen).await;
        assert_eq!(answers.len(), 2, "{screen}");
        for (answer, name) in answers.iter().zip(["Acme", "Globex"]) {
            assert!(answer["items"].as_array().is_some_and(|items| items.len() >= 2), "{start}: {answer}");
            assert!(answer.to_string().contains(name), "{start}: {answer}");
        }
        match start {
            "first" => first = answers,
            _ => assert_eq!(answers, first, "the data of the first start"),
        }
        let listed = freehold(&["tenant", "list", "--output", "json"], &home).output().await.unwrap();
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(2), "{listed}");
        let doctor = freehold(&["doctor"], &home).output().await.unwrap();
        assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));

        let beside = freehold(&["dev", "--http-addr", "127.0.0.1:0"], &home).output().await.unwrap();
        assert_eq!(beside.status.code(), Some(4), "two on one state folder");
        assert!(String::from_utf8_lossy(&beside.stderr).contains("in use by process"));

        signal(&child, if start == "first" { Signal::SIGINT } else { Signal::SIGTERM });
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it stops").unwrap();
        assert!(ended.success(), "{ended}");
        let left = Command::new("pgrep").args(["-f", &home.to_string_lossy()]).output().await.unwrap();
        assert!(left.stdout.is_empty(), "left running: {}", String::from_utf8_lossy(&left.stdout));
    }
    let reset = freehold(&["dev", "--reset", "--http-addr", "127.0.0.1:0"], &home).spawn().unwrap();
    let mut reset = reset;
    let mut lines = BufReader::new(reset.stdout.take().unwrap()).lines();
    let screen = until(&mut lines, "Stop with Ctrl-C").await;
    let answers = paste(&screen).await;
    assert_ne!(answers, first, "--reset starts over");
    signal(&reset, Signal::SIGTERM);
    assert!(tokio::time::timeout(PATIENCE, reset.wait()).await.expect("it stops").unwrap().success());
}

/// Finds the port in the log line that says where it serves.
async fn address(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let entry: Value =
                serde_json::from_str(&line).unwrap_or_else(|_| panic!("a log line that is no JSON: {line}"));
            if entry["message"] == "serving" {
                return entry["addr"].as_str().expect("the address").to_owned();
            }
        }
        panic!("it ended before it served");
    };
    let addr = tokio::time::timeout(PATIENCE, reading).await.expect("it serves");
    // Whoever stops reading a pipe stops the writer.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    addr
}

/// A tenant made through the API of one process, its schema by the other, its first request answered; then both stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_and_worker_as_two_processes() {
    let world = World::with(WorldOptions { shards: 2, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    let redis = Cluster::shared().await.redis_url();
    let home = world.folder.path();
    let with = |args: &[&str]| {
        let mut command = freehold(args, home);
        command
            .env("FREEHOLD_CONTROL_URL", &world.control_url)
            .env("FREEHOLD_MASTER_KEY", &world.master_hex)
            .env("FREEHOLD_REDIS_URL", &redis);
        command
    };
    let mut serve = with(&["serve", "--http-addr", "127.0.0.1:0"]).spawn().unwrap();
    let worker = with(&["worker"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let addr = address(&mut serve).await;
    let made =
        with(&["operator-key", "create", "--name", "test", "--output", "json"]).output().await.unwrap();
    let made: Value = serde_json::from_slice(&made.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&made.stderr)));
    let operator = made["key"].as_str().expect("the key");

    let server = format!("http://{addr}");
    let remote = |args: &[&str]| {
        let mut command = freehold(args, home);
        command.args(["--output", "json", "--server", &server]).env("FREEHOLD_OPERATOR_KEY", operator);
        command
    };
    let created = remote(&["tenant", "create", "acme", "--plan", "team"]).output().await.unwrap();
    let tenant: Value = serde_json::from_slice(&created.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&created.stderr)));
    assert_eq!((&tenant["state"], &tenant["slug"]), (&Value::from("active"), &Value::from("acme")));
    let key = remote(&["api-key", "create", "--tenant", "acme", "--role", "owner", "--name", "first"])
        .output()
        .await
        .unwrap();
    let key: Value = serde_json::from_slice(&key.stdout).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{server}/api/v1/projects");
    let get = || client.get(&url).header("host", "acme.localhost").bearer_auth(key["key"].as_str().unwrap());
    assert_eq!(get().send().await.unwrap().status(), 200);
    assert_eq!(
        client.get(format!("{server}/metrics")).send().await.unwrap().status(),
        404,
        "not on this listener"
    );

    // kill -9 of the worker is nobody's loss but that of what it had in hand.
    signal(&worker, Signal::SIGKILL);
    assert_eq!(get().send().await.unwrap().status(), 200);
    signal(&serve, Signal::SIGTERM);
    let ended = tokio::time::timeout(PATIENCE, serve.wait()).await.expect("it stops").unwrap();
    assert!(ended.success(), "{ended}");
}

/// Wrong surroundings are said at the start, with what to do.
#[tokio::test]
async fn serve_refuses_what_it_cannot_serve_from() {
    let cluster = Cluster::shared().await;
    let database = cluster.server(0).create_database("empty", None).await;
    let folder = tempfile::tempdir().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = format!("127.0.0.1:{}", taken.local_addr().unwrap().port());
    let world = World::with(WorldOptions { shards: 0, tenant_cap: 1, slots: 0, tables: &TABLES }).await;
    let empty = cluster.server(0).admin_url(&database);
    for (url, addr, code, hint) in [
        (empty.as_str(), "127.0.0.1:0", 4, "freehold migrate control"),
        (world.control_url.as_str(), port.as_str(), 4, "FREEHOLD_HTTP_ADDR"),
        ("postgres://nobody:wrong@127.0.0.1:1/none", "127.0.0.1:0", 5, "FREEHOLD_CONTROL_URL"),
        ("not a dsn", "127.0.0.1:0", 2, "postgres://"),
    ] {
        let mut serve = freehold(&["serve", "--http-addr", addr], folder.path())
            .env("FREEHOLD_CONTROL_URL", url)
            .env("FREEHOLD_MASTER_KEY", &world.master_hex)
            .spawn()
            .unwrap();
        let stderr = serve.stderr.take();
        let ended = tokio::time::timeout(PATIENCE, serve.wait()).await.expect("it ends").unwrap();
        let text = all(stderr).await;
        assert_eq!(ended.code(), Some(code), "{text}");
        assert!(text.contains("hint: ") && text.contains(hint), "{text}");
        assert!(!text.contains("wrong"), "a password in an error: {text}");
    }
}
