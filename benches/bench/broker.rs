//! The connection broker alone: what it costs beside a plain pool while all tenants are warm, and what a login costs
//! when one is not.
//!
//! No HTTP, no limits, no directory: tasks of this process read one row each, again and again. Tenants are as in
//! production: schemas and logins made by the worker's own code, on a server of its own with fsync on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use freehold::data_plane::broker::{Broker, BrokerConfig, Endpoint, Login, Tls};
use freehold::kernel::Error;
use freehold::local::{PostgresOptions, PostgresServer};
use freehold::product::{Current, Product};
use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::zipf::Draws;
use freehold::testkit::{Cluster, World, WorldOptions, cpu, extra_postgres};
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::task::JoinSet;
use uuid::Uuid;

const TENANTS: usize = 16;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(500);
const LOGINS: usize = 400;
/// What the product's `GET /api/v1/projects/{id}` asks.
const READ: &str = "SELECT id, name, description, status, version, created_by, created_at, updated_at FROM projects WHERE id = $1 AND deleted_at IS NULL";

pub async fn measure(args: &Args) -> Outcome {
    let place = Place::make().await;
    let mut outcome = Outcome::default();
    let mut facts = Vec::new();
    for tasks in [16, 64] {
        facts.push(warm(args, &place, tasks, &mut outcome).await);
    }
    let logins = logins(args, &place, &mut outcome).await;
    outcome.facts = json!({ "tenants": TENANTS, "warm": facts, "login": logins });
    outcome
}

/// A server with some tenants' schemas, one project in each.
struct Place {
    world: World,
    server: PostgresServer,
    logins: Vec<Login>,
    project: Uuid,
}

impl Place {
    async fn make() -> Self {
        Cluster::durable().await;
        let tables = Current::migrations();
        let mut world = World::with(WorldOptions { shards: 0, tenant_cap: 1, slots: 0, tables }).await;
        let server =
            extra_postgres(PostgresOptions { max_connections: 400, ..PostgresOptions::default() }).await;
        let mut admin =
            PgConnection::connect_with(&server.connect_options("postgres")).await.expect("the server");
        sqlx::raw_sql("CREATE DATABASE shard").execute(&mut admin).await.expect("a database");
        let slots = i32::try_from(TENANTS).expect("a few");
        world.add_shard(&server.url("shard"), slots, slots).await.expect("a shard");
        let roles: Vec<String> = sqlx::query_scalar("SELECT schema_name FROM slot WHERE state = 'ready'")
            .fetch_all(world.db())
            .await
            .expect("the slots");
        assert_eq!(roles.len(), TENANTS);
        let project = Uuid::from_u128(1);
        let mut admin =
            PgConnection::connect_with(&server.connect_options("shard")).await.expect("the shard");
        let rows = roles.iter().map(|role| {
            format!(
                "INSERT INTO {role}.projects (id, name, description, status, created_by, created_at, updated_at)
                 VALUES ('{project}', '{role}', 'one row', 'active', 'bench', now(), now());"
            )
        });
        // The pools beside the broker log in as one of them.
        let unlimited = format!("ALTER ROLE {} CONNECTION LIMIT -1;", roles[0]);
        let sql = rows.collect::<String>() + &unlimited + "VACUUM ANALYZE";
        for statement in sql.split_inclusive(';') {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await.expect("the rows");
        }
        let endpoint = Arc::new(Endpoint {
            host: "127.0.0.1".into(),
            port: server.port(),
            database: "shard".into(),
            tls: Tls::Off,
        });
        let shard = world.shards[0].id;
        let login = |role: String| Login {
            shard,
            endpoint: endpoint.clone(),
            role: role.into(),
            credential_version: 1,
            epoch: 0,
            ceiling: 64,
        };
        let logins = roles.into_iter().map(login).collect();
        Self { world, server, logins, project }
    }

    fn broker(&self, budget: usize) -> Broker {
        Broker::new(BrokerConfig { budget, ..BrokerConfig::default() }, self.world.hands.master.clone())
    }

    /// As the broker logs in.
    fn options(&self, tenant: usize) -> PgConnectOptions {
        let role = &self.logins[tenant].role;
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.server.port())
            .database("shard")
            .username(role)
            .password(self.world.hands.master.login_password(role, 1).expose_secret())
            .application_name("freehold")
            .options([("client_min_messages", "error")])
            .ssl_mode(PgSslMode::Disable)
    }

    /// A plain pool for one role.
    async fn pool(&self, connections: usize, ask_before_use: bool) -> PgPool {
        PgPoolOptions::new()
            .max_connections(u32::try_from(connections).expect("a few"))
            .test_before_acquire(ask_before_use)
            .connect_with(self.options(0))
            .await
            .expect("the shard")
    }
}

async fn read(pg: &mut PgConnection, project: Uuid) -> Result<String, sqlx::Error> {
    let row: (
        Uuid,
        String,
        String,
        String,
        i64,
        String,
        chrono::DateTime<chrono::Utc>,
        chrono::DateTime<chrono::Utc>,
    ) = sqlx::query_as(READ).bind(project).fetch_one(pg).await?;
    Ok(row.1)
}

/// Who is asked for connections.
#[derive(Clone)]
enum Source {
    Broker(Broker, Arc<[Login]>),
    Pool(PgPool),
}

impl Source {
    async fn read(&self, tenant: usize, project: Uuid) {
        match self {
            Self::Broker(broker, logins) => {
                let login = &logins[tenant];
                let work = async |pg: &mut PgConnection| Ok(read(pg, project).await?);
                let name = broker.read(login, work).await.map_err(Error::from).expect("a row");
                assert_eq!(*name, *login.role, "another tenant's row");
            }
            Self::Pool(pool) => {
                let mut pg = pool.acquire().await.expect("a connection");
                read(&mut pg, project).await.expect("a row");
            }
        }
    }

    /// Reads a second, and each read's latency. Each task draws a tenant anew for each read.
    async fn load(&self, tasks: usize, time: Duration, project: Uuid) -> (f64, Vec<Duration>) {
        let (mut crowd, begun) = (JoinSet::new(), Instant::now());
        for number in 0..tasks {
            let source = self.clone();
            crowd.spawn(async move {
                let (mut draws, mut latencies) = (Draws::new(number as u64), Vec::with_capacity(1 << 14));
                while begun.elapsed() < time {
                    let asked = Instant::now();
                    source.read(draws.below(TENANTS), project).await;
                    latencies.push(asked.elapsed());
                }
                latencies
            });
        }
        let latencies = crowd.join_all().await.concat();
        (latencies.len() as f64 / begun.elapsed().as_secs_f64(), latencies)
    }
}

/// As many connections as tasks, on both sides.
async fn warm(args: &Args, place: &Place, tasks: usize, outcome: &mut Outcome) -> serde_json::Value {
    let broker = place.broker(tasks);
    let sources = [
        ("broker", Source::Broker(broker.clone(), place.logins.clone().into())),
        ("sqlx pool", Source::Pool(place.pool(tasks, false).await)),
        ("sqlx pool as it comes, asks before use", Source::Pool(place.pool(tasks, true).await)),
    ];
    for (_, source) in &sources {
        source.load(tasks, WARM_UP, place.project).await;
    }
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut latencies: [Vec<Duration>; 3] = Default::default();
    let before = broker.stats(place.logins[0].shard);
    for round in 0..args.count(ROUNDS) {
        for turn in 0..sources.len() {
            // Whoever goes first in one round goes last in another.
            let at = (turn + round) % sources.len();
            let (rate, took) = sources[at].1.load(tasks, args.time(ROUND), place.project).await;
            rates[at].push(rate);
            latencies[at].extend(took);
        }
    }
    let after = broker.stats(place.logins[0].shard);
    let ratio =
        |other: usize| Median::of(rates[0].iter().zip(&rates[other]).map(|(ours, theirs)| ours / theirs));
    for (at, (name, _)) in sources.iter().enumerate() {
        let rate = Median::of(rates[at].iter().copied());
        outcome.lines.push(format!(
            "{tasks} tasks, {tasks} connections, {name}: {:.0} reads a second ({:.0} to {:.0})",
            rate.median, rate.min, rate.max
        ));
        outcome.series.push((format!("{tasks} tasks, {name}"), Spread::of(&latencies[at])));
    }
    let logins = after.logins - before.logins;
    outcome.lines.push(format!("{tasks} tasks, ratio by rounds {}; {logins} logins meanwhile", ratio(1)));
    outcome.goals.push(Goal::at_least(
        format!("broker / sqlx pool, {tasks} tasks"),
        ratio(1).median,
        0.95,
        "×",
    ));
    broker.close().await;
    json!({ "tasks": tasks, "ratio": ratio(1), "ratio_to_default_pool": ratio(2), "logins": logins })
}

/// One login after another, tenants in turn: connecting, the first read, a second one, saying goodbye.
async fn logins(args: &Args, place: &Place, outcome: &mut Outcome) -> serde_json::Value {
    let count = args.count(LOGINS);
    let mut spans: [Vec<Duration>; 4] = Default::default();
    let (server, client) = (cpu::of_ended_sessions(&place.server), cpu::of_this_process());
    for number in 0..count {
        let options = place.options(number % TENANTS);
        let mut at = Instant::now();
        let mut lap = |span: usize| {
            let now = Instant::now();
            spans[span].push(now - std::mem::replace(&mut at, now));
        };
        let mut pg = PgConnection::connect_with(&options).await.expect("a login");
        lap(0);
        for span in [1, 2] {
            read(&mut pg, place.project).await.expect("a row");
            lap(span);
        }
        pg.close().await.expect("a goodbye");
        lap(3);
    }
    // The last sessions end a moment after they were told to.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let each = |used: Duration| used.as_secs_f64() * 1_000.0 / count as f64;
    let server = each(cpu::of_ended_sessions(&place.server) - server);
    let client = each(cpu::of_this_process() - client);
    for (name, span) in ["login", "first read after it", "second read", "goodbye"].iter().zip(&spans) {
        outcome.series.push(((*name).to_owned(), Spread::of(span)));
    }
    outcome.lines.push(format!(
        "a login with two reads costs {server:.2} ms of processor time on the server and {client:.2} ms here ({count} logins, one at a time)"
    ));
    json!({ "server_cpu_ms": server, "client_cpu_ms": client })
}
