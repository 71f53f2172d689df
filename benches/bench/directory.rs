//! Ten thousand tenants in one server process: what that does to a request, to memory and to the start.
//!
//! Three real `freehold serve` processes share one control database of 10,000 tenants with a key each. One has looked up
//! 50 of them, one 1,000, one all. Then each serves the same routed read of the same 50 tenants, the ones that have
//! schemas, in rounds that take turns. The other tenants are rows made in bulk: what is loaded of them is the same.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use freehold::control_plane::tenants::TenantRef;
use freehold::identity::keys::{NewApiKey, api_key_create};
use freehold::kernel::credentials::{self, KeyKind};
use freehold::kernel::ids::{ApiKeyId, TenantId};
use freehold::kernel::{Entropy, Role};
use freehold::product::{Current, Product};
use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::floors::RATIO;
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::wire::{Report, Shot, Target, Until, apart};
use freehold::testkit::{Cluster, World, WorldOptions, tester};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// Tenants in the directory of each server; the first of these have schemas, and are asked.
const LOADED: [usize; 3] = [50, 1_000, 10_000];
const SERVED: usize = LOADED[0];
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 40;
/// The first ones log in and fill caches.
const WARM_UP: usize = 3;
const ROUND: Duration = Duration::from_millis(400);
const STARTS: usize = 9;
/// Enough for the tenants that are asked to keep their connections: three of these fit below the server's 400.
const BUDGET: &str = "110";
const REST: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    addr: SocketAddr,
}

/// What to ask.
struct Shots {
    /// A project of each served tenant.
    reads: Arc<[Shot]>,
    /// For every tenant, a request that is refused for its body: it passes key, tenant and limits, and no shard.
    touches: Arc<[Shot]>,
}

pub async fn measure(args: &Args) -> Outcome {
    let rounds = args.count(ROUNDS);
    let world = world().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let redis = Cluster::shared().await.redis_url();
    let start = |name: String| serve(&world, &redis, folder.path().join(name));

    let mut servers = Vec::new();
    for loaded in LOADED {
        servers.push(start(format!("server-{loaded}")).await);
    }
    let shots = shots(&world, servers[0].addr).await;
    let mut grown = Vec::new();
    for (server, loaded) in servers.iter().zip(LOADED) {
        grown.push(load(server, loaded, &shots).await);
    }

    let mut reports: Vec<Vec<Report>> = LOADED.iter().map(|_| Vec::new()).collect();
    for round in 0..WARM_UP + rounds {
        for (number, server) in servers.iter().enumerate() {
            let report = ask(server, shots.reads.clone(), Until::Time(args.time(ROUND))).await;
            report.must_be_right();
            if round >= WARM_UP {
                reports[number].push(report);
            }
        }
    }
    drop(servers);
    let mut starts = Vec::new();
    for number in 0..STARTS {
        let begun = Instant::now();
        drop(start(format!("start-{number}")).await);
        starts.push(begun.elapsed());
    }
    outcome(rounds, &reports, &grown, &starts)
}

fn outcome(rounds: usize, reports: &[Vec<Report>], grown: &[f64], starts: &[Duration]) -> Outcome {
    let against_itself = |number: usize, figure: fn(&Report) -> f64| {
        Median::of(reports[number].iter().zip(&reports[0]).map(|(much, few)| figure(much) / figure(few)))
    };
    let mut lines = vec![format!(
        "{SERVED} tenants asked over {CONNECTIONS} connections, {rounds} rounds; the servers take turns"
    )];
    let mut series = Vec::new();
    let mut facts = Vec::new();
    for (number, loaded) in LOADED.iter().enumerate() {
        let rate = Median::of(reports[number].iter().map(|report| report.per_second));
        let (throughput, p99) =
            (against_itself(number, |r| r.per_second), against_itself(number, |r| r.latency.p99));
        lines.push(format!(
            "{loaded:>6} tenants: {:.0} requests a second ({throughput} × of {SERVED}), p99 {p99} × of {SERVED}",
            rate.median
        ));
        let all: Vec<Duration> = reports[number].iter().flat_map(|report| report.latencies.clone()).collect();
        series.push((format!("routed read, {loaded} tenants in the directory"), Spread::of(&all)));
        facts.push(json!({ "tenants": loaded, "per_second": rate, "throughput": throughput, "p99": p99 }));
    }
    let started = Spread::of(starts);
    series.push(("start, exec to ready, 10,000 tenants".to_owned(), started));
    let p99 = against_itself(2, |report| report.latency.p99);
    let bytes = grown[2];
    lines.push(format!(
        "memory: {bytes:.0} bytes per tenant with a key (RssAnon of the process, before and after loading)"
    ));
    Outcome {
        lines,
        series,
        goals: vec![
            Goal::at_most("routed read p99, 10,000 / 50 tenants", p99.median, 1.2, RATIO),
            Goal::at_most("process memory per idle tenant", bytes.round(), 2_048.0, "B"),
            Goal::at_most("start at 10,000 tenants, median", started.p50, 1_000.0, "ms"),
        ],
        facts: json!({ "servers": facts, "bytes_per_tenant": bytes }),
    }
}

/// One shard, on the server that does not hold the control database, with the tenants that are asked.
async fn world() -> World {
    Cluster::durable().await;
    let tables = Current::migrations();
    let mut world = World::with(WorldOptions { shards: 0, tenant_cap: 1, slots: 0, tables }).await;
    world.add_shard(&World::shard_database(1).await, 100_000, 0).await.expect("a shard");
    world.probe().await;
    for tenant in 0..SERVED {
        world.tenant(&format!("served-{tenant}")).await;
    }
    world
}

/// Gives each served tenant a key and a project, and makes the rows of the others.
async fn shots(world: &World, addr: SocketAddr) -> Shots {
    let (mut reads, mut touches) = (Vec::new(), Vec::new());
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let touch =
        |host: &str, key: &str| Shot::new("POST", "/api/v1/projects", host, key, Some("{}")).wants(422);
    for tenant in 0..SERVED {
        let slug = format!("served-{tenant}");
        let host = format!("{slug}.localhost");
        let new = NewApiKey { name: "bench".to_owned(), role: Role::Owner, expires_at: None };
        let named = TenantRef::Slug(slug);
        let key = api_key_create(&world.hands.cp, &tester(), &named, &new).await.expect("a key").key;
        let made = client
            .post(format!("http://{addr}/api/v1/projects"))
            .header("host", &host)
            .bearer_auth(&key)
            .json(&json!({ "name": host }))
            .send()
            .await
            .expect("an answer");
        let project: Value = made.json().await.expect("a project");
        let path = format!("/api/v1/projects/{}", project["id"].as_str().expect("its id"));
        reads.push(Shot::get(&path, &host, &key).stamped(&host, 1));
        touches.push(touch(&host, &key));
    }
    for (slug, key) in rows(world, LOADED[2] - SERVED).await {
        touches.push(touch(&format!("{slug}.localhost"), &key));
    }
    Shots { reads: reads.into(), touches: touches.into() }
}

/// Tenants with placement and key as rows alone. Returns their slugs and keys.
async fn rows(world: &World, count: usize) -> Vec<(String, String)> {
    let entropy = Entropy::default();
    let (mut ids, mut key_ids, mut hashes, mut named) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..count {
        let key = credentials::make(KeyKind::Tenant, &entropy);
        ids.push(TenantId::new().0);
        key_ids.push(ApiKeyId::new().0);
        hashes.push(key.hash.to_vec());
        named.push((format!("row-{number}"), key.key.expose_secret().to_owned()));
    }
    let slugs: Vec<&str> = named.iter().map(|(slug, _)| slug.as_str()).collect();
    let schemas: Vec<String> = (0..count).map(|number| format!("t_{number:026}")).collect();
    let mut tx = world.db().begin().await.expect("the control database");
    for statement in [
        "INSERT INTO tenant (id, slug, name, state, plan, created_at, updated_at)
         SELECT id, slug, 'A customer of ' || slug, 'active', 'enterprise', now(), now()
           FROM unnest($1::uuid[], $2::text[]) AS r (id, slug)",
        "INSERT INTO slot (schema_name, shard, state, version, created_at)
         SELECT schema_name, (SELECT id FROM shard), 'claimed', 1, now() FROM unnest($3::text[]) AS schema_name",
        "INSERT INTO placement (tenant, shard, schema_name, placed_at)
         SELECT id, (SELECT id FROM shard), schema_name, now()
           FROM unnest($1::uuid[], $3::text[]) AS r (id, schema_name)",
        "INSERT INTO api_key (id, tenant, name, role, key_hash, tail, created_at)
         SELECT key_id, id, 'bench', 'owner', hash, 'tail', now()
           FROM unnest($1::uuid[], $4::uuid[], $5::bytea[]) AS r (id, key_id, hash)",
    ] {
        // Every statement is given all that any of them needs.
        let sql = format!("WITH given AS (SELECT $1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::bytea[]) {statement}");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(&ids)
            .bind(&slugs)
            .bind(&schemas)
            .bind(&key_ids)
            .bind(&hashes)
            .execute(&mut *tx)
            .await
            .expect("rows");
    }
    tx.commit().await.expect("rows");
    sqlx::raw_sql("ANALYZE").execute(world.db()).await.expect("statistics");
    named
}

/// Makes a server look up so many tenants. Returns by how many bytes each has made it grow.
async fn load(server: &Server, loaded: usize, shots: &Shots) -> f64 {
    // Buffers, caches of statements and connections first: they are there with any number of tenants.
    let few: Arc<[Shot]> = shots.touches[..SERVED].into();
    ask(server, few.clone(), Until::Requests(4_000)).await.must_be_right();
    let before = resident(server);
    ask(server, shots.touches[..loaded].into(), Until::Requests(loaded)).await.must_be_right();
    ask(server, few, Until::Requests(4_000)).await.must_be_right();
    // Idle: what an allocator gives back, it gives back after a while.
    tokio::time::sleep(REST).await;
    let grown = resident(server).saturating_sub(before);
    grown as f64 / (loaded - SERVED).max(1) as f64
}

/// Bytes of anonymous memory that the process has in RAM: all that it allocated and touched, with what its allocator keeps.
fn resident(server: &Server) -> u64 {
    let file = format!("/proc/{}/status", server.child.id().expect("it runs"));
    let status = std::fs::read_to_string(file).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1_024
}

async fn ask(server: &Server, shots: Arc<[Shot]>, until: Until) -> Report {
    let target = Target { addr: server.addr };
    apart(move || async move {
        target.closed(CONNECTIONS, until, |_, number| shots[number % shots.len()].clone()).await
    })
    .await
}

/// Starts the real program and waits until it is ready.
async fn serve(world: &World, redis: &str, log: PathBuf) -> Server {
    // Free a moment ago; whoever takes it meanwhile makes the bench fail, not lie.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
    let child = command(world, redis, addr, &log).spawn().expect("the program");
    let mut server = Server { child, addr };
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let ready = async {
        loop {
            if let Ok(answer) = client.get(format!("http://{addr}/health/ready")).send().await
                && answer.status().is_success()
            {
                return;
            }
            if let Ok(Some(ended)) = server.child.try_wait() {
                panic!("{ended}: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("it gets ready");
    server
}

fn command(world: &World, redis: &str, addr: SocketAddr, log: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command
        .args(["serve", "--http-addr", &addr.to_string()])
        .env_clear()
        .env("FREEHOLD_HOME", world.folder.path())
        .env("FREEHOLD_CONTROL_URL", &world.control_url)
        .env("FREEHOLD_MASTER_KEY", &world.master_hex)
        .env("FREEHOLD_REDIS_URL", redis)
        .env("FREEHOLD_BROKER_BUDGET", BUDGET)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(log).expect("a log"))
        .kill_on_drop(true);
    command
}
