//! Servers of our own: their data stays, their processes do not.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use freehold::kernel::codes;
use freehold::local::binaries::Places;
use freehold::local::{Lock, PostgresOptions, PostgresServer, RedisServer, Stack, StackOptions};
use freehold::testkit::{Cluster, eventually, extra_postgres, extra_redis};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use sqlx::{Connection, PgConnection};

/// Names the folder in which the helper process below keeps its servers.
const HELPER: &str = "FREEHOLD_TEST_HELPER_HOME";

const SOON: Duration = Duration::from_secs(2);

/// A folder that goes with the value, under one that every user can enter.
fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("freehold-test-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap()
}

fn quick() -> StackOptions {
    StackOptions { fsync: false, max_connections: 40 }
}

/// Processes that work in `folder` or below: servers, their connections, keepers.
fn processes_in(folder: &Path) -> Vec<(Pid, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
            let cwd = fs::read_link(entry.path().join("cwd")).ok()?;
            // The kernel marks a removed folder by a suffix, which leaves the beginning as it was.
            let inside = cwd.starts_with(folder);
            let name = || fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
            inside.then(|| (pid, name()))
        })
        .collect()
}

async fn nobody_in(folder: &Path) {
    eventually(SOON, "no process is left", async || match processes_in(folder) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
}

async fn write_mark(url: &str, mark: i32) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE mark (n int)").execute(&mut connection).await.unwrap();
    sqlx::query("INSERT INTO mark VALUES ($1)").bind(mark).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn marks(url: &str) -> Result<Vec<i32>, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar("SELECT n FROM mark").fetch_all(&mut connection).await
}

async fn redis_command(url: &str, arguments: &[&str]) -> redis::RedisResult<Option<String>> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    redis::cmd(arguments[0]).arg(&arguments[1..]).query_async(&mut connection).await
}

#[tokio::test]
async fn a_stack_keeps_data_ports_and_passwords_until_it_is_reset() {
    let home = folder();
    let stack = Stack::start(home.path(), &quick()).await.unwrap();
    let urls = (stack.control_url(), stack.shard_admin_url(2), stack.redis_url());
    write_mark(&urls.0, 1).await;
    write_mark(&urls.1, 3).await;
    redis_command(&urls.2, &["SET", "mark", "7"]).await.unwrap();
    stack.stop().await.unwrap();
    nobody_in(home.path()).await;

    let began = Instant::now();
    let stack = Stack::start(home.path(), &quick()).await.unwrap();
    let took = began.elapsed();
    eprintln!("warm start of a stack: {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(urls, (stack.control_url(), stack.shard_admin_url(2), stack.redis_url()));
    assert_eq!(marks(&urls.0).await.unwrap(), [1]);
    assert_eq!(marks(&urls.1).await.unwrap(), [3]);
    assert_eq!(redis_command(&urls.2, &["GET", "mark"]).await.unwrap().as_deref(), Some("7"));
    is_whole_and_closed(&stack, home.path()).await;
    stack.stop().await.unwrap();

    // A reset removes the servers and nothing of anybody else.
    fs::write(home.path().join("of-somebody-else"), "").unwrap();
    Stack::reset(home.path()).await.unwrap();
    assert_eq!(folder_names(home.path()), ["lock", "of-somebody-else"]);
    Stack::reset(&home.path().join("never-there")).await.unwrap();
}

/// Each database is where it should be, and nobody gets in, or learns how to, without the password.
async fn is_whole_and_closed(stack: &Stack, home: &Path) {
    for (index, (server, name)) in freehold::local::SHARDS.iter().enumerate() {
        let mut connection = PgConnection::connect(&stack.shard_admin_url(index)).await.unwrap();
        let row: (String, i32) =
            sqlx::query_as("SELECT current_database()::text, current_setting('port')::int")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert_eq!(row, ((*name).to_owned(), i32::from(stack.servers()[*server].port())));
    }
    let password = stack.servers()[0].password().to_owned();
    let wrong = stack.control_url().replace(&password, "wrong");
    assert!(PgConnection::connect(&wrong).await.is_err());
    let without = stack.redis_url();
    let without = format!("redis://{}", without.split_once('@').unwrap().1);
    assert!(redis_command(&without, &["PING"]).await.is_err());
    // The password is on nobody's command line and in files for their owner only.
    for entry in walk(home) {
        if fs::metadata(&entry).unwrap().permissions().mode() & 0o077 != 0 {
            let text = fs::read(&entry).unwrap();
            assert!(!text.windows(password.len()).any(|part| part == password.as_bytes()), "{entry:?}");
        }
    }
    // A terminal's Ctrl-C goes to our process group, and must not end the servers behind our back.
    let ours = nix::unistd::getpgrp();
    for (pid, name) in processes_in(home) {
        assert_ne!(nix::unistd::getpgid(Some(pid)).unwrap(), ours, "{name}");
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!line.windows(password.len()).any(|part| part == password.as_bytes()));
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files.extend(walk(&entry.path())),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

#[tokio::test]
async fn a_second_start_in_one_folder_is_refused_and_names_the_first() {
    let home = folder();
    let held = Lock::take(home.path()).unwrap();
    for error in
        [Stack::start(home.path(), &quick()).await.unwrap_err(), Stack::reset(home.path()).await.unwrap_err()]
    {
        assert!(error.is(&codes::STATE_CONFLICT), "{error:?}");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.public_hint().unwrap().contains("FREEHOLD_HOME"));
    }
    drop(held);
    Lock::take(home.path()).unwrap();
}

fn folder_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Root's servers run as another user, who cannot enter a folder such as `/root`.
#[tokio::test]
async fn a_folder_the_servers_cannot_reach_has_its_data_elsewhere() {
    if !Uid::effective().is_root() {
        return;
    }
    let outer = folder();
    fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let home = outer.path().join("state");
    let stack = Stack::start(&home, &quick()).await.unwrap();
    let elsewhere = PathBuf::from(fs::read_to_string(home.join("servers")).unwrap().trim());
    assert!(elsewhere.starts_with("/var/lib/freehold-dev"), "{elsewhere:?}");
    write_mark(&stack.control_url(), 5).await;
    stack.stop().await.unwrap();

    // A copy of the folder points to the same data, so it must not start beside the original.
    let copy = outer.path().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(home.join("servers"), copy.join("servers")).unwrap();
    let stack = Stack::start(&home, &quick()).await.unwrap();
    assert_eq!(marks(&stack.control_url()).await.unwrap(), [5]);
    let error = Stack::start(&copy, &quick()).await.unwrap_err();
    assert!(error.is(&codes::STATE_CONFLICT), "{error:?}");
    stack.stop().await.unwrap();

    Stack::reset(&home).await.unwrap();
    assert!(!elsewhere.exists());
    assert_eq!(folder_names(&home), ["lock"]);
}

#[tokio::test]
async fn a_port_that_was_taken_meanwhile_is_given_up() {
    let dir = folder();
    let options = PostgresOptions { fsync: false, max_connections: 20, ..PostgresOptions::default() };
    let server = PostgresServer::start(dir.path(), options.clone()).await.unwrap();
    let port = server.port();
    write_mark(&server.url("postgres"), 9).await;
    server.stop().await.unwrap();
    drop(server);
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();

    let fixed = PostgresOptions { port: Some(port), ..options.clone() };
    let error = PostgresServer::start(dir.path(), fixed).await.unwrap_err();
    assert!(error.to_string().contains(&format!("{port}: the port is in use")), "{error}");

    let server = PostgresServer::start(dir.path(), options).await.unwrap();
    assert_ne!(server.port(), port);
    assert_eq!(marks(&server.url("postgres")).await.unwrap(), [9]);
}

#[tokio::test]
async fn a_server_freezes_crashes_and_comes_back_on_its_port() {
    let server =
        extra_postgres(PostgresOptions { fsync: false, max_connections: 20, ..PostgresOptions::default() })
            .await;
    let url = server.url("postgres");
    write_mark(&url, 4).await;

    server.pause().await;
    let hangs = tokio::time::timeout(Duration::from_millis(300), marks(&url)).await;
    assert!(hangs.is_err(), "a frozen server answered: {hangs:?}");
    server.resume().await;
    assert_eq!(marks(&url).await.unwrap(), [4]);

    server.crash().await;
    assert!(!server.is_running().await);
    assert!(marks(&url).await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(marks(&url).await.unwrap(), [4]);

    server.stop().await.unwrap();
    assert!(marks(&url).await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(marks(&url).await.unwrap(), [4]);

    // A frozen process takes no signal but two; the end must come all the same.
    server.pause().await;
    let dir = server.log().parent().unwrap().to_owned();
    drop(server);
    nobody_in(&dir).await;
    eventually(SOON, "the folder is gone", async || if dir.exists() { Err("there") } else { Ok(()) }).await;
}

#[tokio::test]
async fn a_redis_freezes_crashes_and_comes_back_on_its_port() {
    let server = extra_redis().await;
    let url = server.url(3);
    redis_command(&url, &["SET", "mark", "1"]).await.unwrap();
    server.pause().await;
    let hangs = tokio::time::timeout(Duration::from_millis(300), redis_command(&url, &["PING"])).await;
    assert!(hangs.is_err(), "a frozen server answered: {hangs:?}");
    server.resume().await;
    assert_eq!(redis_command(&url, &["GET", "mark"]).await.unwrap().as_deref(), Some("1"));
    server.crash().await;
    assert!(redis_command(&url, &["PING"]).await.is_err());
    server.start_again().await.unwrap();
    assert!(redis_command(&url, &["PING"]).await.is_ok());
    server.stop().await.unwrap();
    let dir = server.log().parent().unwrap().to_owned();
    drop(server);
    assert!(!dir.exists());
}

/// Not a test: the process that the next two tests kill.
#[tokio::test]
#[ignore = "a helper process of other tests"]
async fn helper_that_holds_a_stack_until_it_is_killed() {
    let Some(home) = std::env::var_os(HELPER) else { return };
    let stack = Stack::start(Path::new(&home), &quick()).await.unwrap();
    let throwaway = extra_redis().await;
    write_mark(&stack.control_url(), 8).await;
    // The harness may print before us on the same line; the mark finds ours.
    println!("\nheld:{}", throwaway.log().parent().unwrap().display());
    std::future::pending::<()>().await;
}

/// Starts the helper; gives it with the folder of its throwaway server.
fn helper(home: &Path) -> (std::process::Child, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local::helper_that_holds_a_stack_until_it_is_killed"])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env(HELPER, home)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let folder = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("held:").map(PathBuf::from));
    (child, folder.expect("the helper ended before its servers were up"))
}

#[tokio::test]
async fn kill_9_of_the_parent_leaves_no_process_and_no_temporary_folder() {
    let home = folder();
    let (mut child, throwaway) = helper(home.path());
    assert!(processes_in(home.path()).iter().any(|(_, name)| name == "postgres"));
    child.kill().unwrap();
    child.wait().unwrap();
    nobody_in(home.path()).await;
    nobody_in(&throwaway).await;
    eventually(
        SOON,
        "the throwaway folder is gone",
        async || {
            if throwaway.exists() { Err("there") } else { Ok(()) }
        },
    )
    .await;
    // The state folder is free at once, and its data is whole.
    let stack = Stack::start(home.path(), &quick()).await.unwrap();
    assert_eq!(marks(&stack.control_url()).await.unwrap(), [8]);
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn servers_whose_keepers_were_killed_too_are_stopped_by_the_next_start() {
    let home = folder();
    let (mut child, throwaway) = helper(home.path());
    // The keepers and their watches are the shells that work in the server's folders.
    let found = processes_in(home.path());
    let keepers: Vec<_> = found.iter().filter(|(_, name)| name == "sh").map(|(pid, _)| *pid).collect();
    assert!(keepers.len() >= 3, "{found:?}");
    for keeper in keepers {
        // A watch may end by itself when its keeper does.
        let _ = kill(keeper, Signal::SIGKILL);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        processes_in(home.path()).iter().any(|(_, name)| name == "postgres"),
        "the servers should still run"
    );

    let stack = Stack::start(home.path(), &quick()).await.unwrap();
    assert_eq!(marks(&stack.control_url()).await.unwrap(), [8]);
    stack.stop().await.unwrap();
    nobody_in(home.path()).await;
    nobody_in(&throwaway).await;
}

#[test]
fn missing_programs_say_how_to_get_them() {
    let nowhere = Places { path: OsString::from("/nonexistent"), versioned: vec!["/nonexistent".into()] };
    for error in [nowhere.postgres().unwrap_err(), nowhere.redis().unwrap_err()] {
        assert!(error.is(&codes::BAD_REQUEST));
        assert!(error.public_hint().unwrap().contains("make deps"), "{error:?}");
    }
    assert!(nowhere.postgres_of(15).unwrap_err().public_hint().unwrap().contains("PostgreSQL 15"));
}

#[test]
fn the_newest_whole_server_is_taken_and_an_old_one_refused() {
    let root = folder();
    let install = |version: &str, programs: &[&str]| {
        let bin = root.path().join(version).join("bin");
        fs::create_dir_all(&bin).unwrap();
        programs.iter().for_each(|program| fs::write(bin.join(program), "").unwrap());
    };
    let places = Places { path: OsString::from("/nonexistent"), versioned: vec![root.path().to_owned()] };
    install("13", &["postgres", "initdb"]);
    let error = places.postgres().unwrap_err();
    assert!(error.to_string().contains("PostgreSQL 13") && error.to_string().contains("too old"), "{error}");
    install("9", &["postgres", "initdb"]);
    install("15", &["postgres", "initdb"]);
    install("16", &["postgres", "initdb"]);
    // Client programs only.
    install("17", &["psql"]);
    assert_eq!(places.postgres().unwrap().major, 16);
    assert_eq!(places.postgres_of(15).unwrap().major, 15);
}

#[tokio::test]
async fn the_shared_cluster_gives_separate_databases() {
    let cluster = Cluster::shared().await;
    let server = cluster.server(1);
    let template = server.create_database("template", None).await;
    write_mark(&server.admin_url(&template), 6).await;
    let one = server.create_database("copy", Some(&template)).await;
    let other = server.create_database("copy", Some(&template)).await;
    assert_ne!(one, other);
    assert_eq!(marks(&server.admin_url(&other)).await.unwrap(), [6]);
    server.drop_database(&one).await;
    assert!(marks(&server.admin_url(&one)).await.is_err());
    let (a, b) = (cluster.redis_url(), cluster.redis_url());
    redis_command(&a, &["SET", "k", "1"]).await.unwrap();
    assert_eq!(redis_command(&b, &["GET", "k"]).await.unwrap(), None);
    assert_ne!(cluster.server(0).port(), server.port());
}

#[tokio::test]
#[should_panic(expected = "the moon is full; last seen: half")]
async fn waiting_ends_with_what_was_seen_last() {
    eventually(Duration::from_millis(30), "the moon is full", async || Err::<(), _>("half")).await;
}

#[tokio::test]
async fn a_server_that_cannot_start_says_what_its_log_says() {
    let dir = folder();
    RedisServer::start(dir.path(), freehold::local::RedisOptions::default())
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
    fs::write(dir.path().join("data/dump.rdb"), "not a snapshot").unwrap();
    let error = RedisServer::start(dir.path(), freehold::local::RedisOptions::default()).await.unwrap_err();
    assert!(
        error.is(&codes::CONTROL_UNAVAILABLE) && error.to_string().contains("Wrong signature"),
        "{error}"
    );
    nobody_in(dir.path()).await;
}
