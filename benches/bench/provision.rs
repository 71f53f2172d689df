//! What it takes to make a tenant: with a spare slot, without one, and beside that the bare SQL that makes the same.
//!
//! Everything as in production but the distance: servers with fsync on, a release build, a real listener, a worker, and
//! one keep-alive client. One tenant at a time; the kinds take turns within each round, so that what the machine does
//! meanwhile falls on all of them.

use std::time::{Duration, Instant};

use freehold::control_plane::plans::{self, Tier};
use freehold::control_plane::shards::{NewPool, pool_add};
use freehold::control_plane::slots::new_schema_name;
use freehold::db::admin;
use freehold::db::schema::{LoginLimits, Schema};
use freehold::product::{Current, Product};
use freehold::testkit::figures::{Goal, Spread};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::{AppOptions, Cluster, TestApp, World, WorldOptions, tester};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const ROUNDS: usize = 40;
/// The first rounds fill caches, open connections and plan statements; a server does that once.
const WARM_UP: usize = 5;
/// Spare slots per shard: enough that one is always there when the next tenant comes.
const SLOTS: i32 = 6;
/// A plan whose pool has no spare slots.
const NO_SLOTS: &str = "noslots";

#[derive(Default)]
struct Samples {
    create: Vec<Duration>,
    create_and_answer: Vec<Duration>,
    create_key_and_answer: Vec<Duration>,
    without_slot: Vec<Duration>,
    bare: Vec<Duration>,
}

pub async fn measure(args: &Args) -> Outcome {
    let rounds = args.count(ROUNDS);
    let app = start().await;
    let mut bare = Bare::connect(&app, 1).await;
    let mut samples = Samples::default();
    for round in 0..WARM_UP + rounds {
        if round == WARM_UP {
            samples = Samples::default();
        }
        with_slot(&app, round, &mut samples).await;
        settled(&app).await;
        samples.without_slot.push(create(&app, &format!("bare-{round}"), NO_SLOTS).await);
        settled(&app).await;
        samples.bare.push(bare.run(&app).await);
    }
    let tables = bare.tables().await;
    let series = [
        ("create, slot ready", &samples.create),
        ("  + first answered request", &samples.create_and_answer),
        ("  + making the key by the API", &samples.create_key_and_answer),
        ("create, no slot", &samples.without_slot),
        ("bare SQL script", &samples.bare),
    ];
    Outcome {
        lines: vec![format!("{rounds} rounds, fsync on, {tables} tables a schema")],
        series: series.map(|(name, samples)| (name.to_owned(), Spread::of(samples))).into(),
        goals: goals(&samples),
        facts: json!({ "rounds": rounds, "tables": tables }),
    }
}

/// A pool with spare slots and one without, both shards on the server that does not hold the control database.
pub async fn start() -> TestApp {
    Cluster::durable().await;
    let mut app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 0, tenant_cap: 1, slots: 0, tables: Current::migrations() },
        roomy: true,
        ..AppOptions::of::<Current>()
    })
    .await;
    let cp = app.world.hands.cp.clone();
    let pool = NewPool { name: NO_SLOTS.into(), region: "local".into(), tier: Tier::Pooled };
    pool_add(&cp, &tester(), &pool).await.expect("a pool");
    let mut on_sale = plans::parse(plans::SHIPPED).expect("the shipped plans");
    let free = on_sale[0].clone();
    on_sale.push(plans::Plan { id: NO_SLOTS.into(), shard_pool: NO_SLOTS.into(), ..free });
    plans::apply(&cp, &tester(), &on_sale, false).await.expect("the plans");
    for (pool, slots) in [("default", SLOTS), (NO_SLOTS, 0)] {
        let url = World::shard_database(1).await;
        app.world.add_shard_to(pool, &url, 100_000, slots).await.expect("a shard");
    }
    app
}

/// The call until its answer: 201, and the tenant is active.
pub async fn create(app: &TestApp, slug: &str, plan: &str) -> Duration {
    let new = json!({ "slug": slug, "plan": plan });
    let request = app.operator(Method::POST, "/operator/v1/tenants").json(&new);
    let begun = Instant::now();
    let (status, made) = app.send(request).await;
    let took = begun.elapsed();
    assert_eq!((status, made["state"].as_str()), (201, Some("active")), "{made}");
    took
}

/// A tenant from a slot, a key for it, and its first request: each timed by itself.
async fn with_slot(app: &TestApp, round: usize, samples: &mut Samples) {
    let slug = format!("slot-{round}");
    let created = create(app, &slug, "free").await;
    let begun = Instant::now();
    let path = format!("/operator/v1/tenants/{slug}/api-keys");
    let new = json!({ "name": "first", "role": "owner" });
    let (status, key) = app.send(app.operator(Method::POST, &path).json(&new)).await;
    let keyed = begun.elapsed();
    assert_eq!(status, 201, "{key}");
    let request = app.request(Method::GET, &slug, key["key"].as_str().expect("the key"), "/api/v1/projects");
    let begun = Instant::now();
    let (status, projects) = app.send(request).await;
    let answered = begun.elapsed();
    assert_eq!((status, &projects["items"]), (200, &json!([])), "{projects}");
    samples.create.push(created);
    samples.create_and_answer.push(created + answered);
    samples.create_key_and_answer.push(created + keyed + answered);
}

/// Waits until the worker has made the spare slot anew and has nothing left to do: what it does then belongs to the
/// tenant before, and people do not sign up back to back.
async fn settled(app: &TestApp) {
    worker_idle(app).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Waits until the spare slots are there and the worker has nothing to do.
pub async fn worker_idle(app: &TestApp) {
    let idle = "SELECT (SELECT count(*) FROM slot WHERE state = 'making')
                     + (SELECT count(*) FROM job WHERE state IN ('ready', 'running'))
                     + (SELECT count(*) FROM run WHERE state IN ('pending', 'running', 'undoing'))
                     + (SELECT coalesce(sum(greatest(s.slot_target - (SELECT count(*) FROM slot
                          WHERE slot.shard = s.id AND slot.state = 'ready'), 0)), 0)::bigint FROM shard s)";
    loop {
        let left: i64 =
            sqlx::query_scalar(idle).fetch_one(app.world.db()).await.expect("the control database");
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The script that makes what a tenant needs on its shard (login, schema, tables, grants, in one transaction) over one
/// open connection, in the same database as the tenants it is compared with.
pub struct Bare {
    conn: PgConnection,
    database: String,
}

impl Bare {
    /// To one of the shards.
    pub async fn connect(app: &TestApp, shard: usize) -> Self {
        let url = SecretString::from(app.world.shard_urls[shard].clone());
        let options = admin::options(&url).expect("a DSN");
        let database = options.get_database().expect("a database").to_owned();
        Self { conn: PgConnection::connect_with(&options).await.expect("the shard"), database }
    }

    pub async fn run(&mut self, app: &TestApp) -> Duration {
        let hands = &app.world.hands;
        let name = new_schema_name(&hands.cp);
        let schema = Schema { name: &name, database: &self.database, credential_version: 1, fence: Some(1) };
        let verifier = hands.master.scram_verifier(&name, 1);
        let sql =
            format!("BEGIN; {} COMMIT", schema.create_sql(&verifier, hands.cp.tables, LoginLimits::SPARE));
        let begun = Instant::now();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.conn).await.expect("the script");
        begun.elapsed()
    }

    /// Tables in one tenant's schema.
    async fn tables(&mut self) -> i64 {
        let count = "SELECT count(*) / count(DISTINCT schemaname) FROM pg_tables WHERE schemaname ~ '^t_'";
        sqlx::query_scalar(count).fetch_one(&mut self.conn).await.expect("the shard")
    }
}

fn goals(samples: &Samples) -> Vec<Goal> {
    let p50 = |series: &[Duration]| Spread::of(series).p50;
    let ratio = p50(&samples.without_slot) / p50(&samples.bare);
    vec![
        Goal::at_most("create, slot ready, p50", p50(&samples.create), 5.0, "ms"),
        Goal::at_most("create + first answered request, p50", p50(&samples.create_and_answer), 15.0, "ms"),
        Goal::at_most(
            "create + key call + first answered request, p50",
            p50(&samples.create_key_and_answer),
            15.0,
            "ms",
        ),
        Goal::at_most("create without a slot / bare SQL script, p50", ratio, 1.5, "×"),
    ]
}
