//! What metering costs: facts from a shard's outbox into the ledger, beside a bare batched INSERT of the same rows; and a
//! routed write that is metered, beside the same one that is not.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use freehold::billing::ledger::relay;
use freehold::data_plane::As;
use freehold::data_plane::context::Member;
use freehold::data_plane::idempotency::Answer;
use freehold::data_plane::usage::ApiCalls;
use freehold::http::operator;
use freehold::http::router::{HttpState, router};
use freehold::http::serve::{self, ServeOptions};
use freehold::http::vocabulary::Json;
use freehold::kernel::{Entropy, Error, Result, codes};
use freehold::product::opsflow::activity::model::Entry;
use freehold::product::opsflow::tasks::{NewTask, store};
use freehold::product::opsflow::words::TaskId;
use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::wire::{Report, Target};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::routed::{Round, load};
use super::warm::{Tenant, Warm};

/// Facts of a round, of twenty tenants.
const FACTS: usize = 60_000;
const TENANTS: usize = 20;
/// As many rows in a statement as the relay has.
const BATCH: usize = 4_000;
const ROUNDS: usize = 5;
/// Rounds of the routed write.
const WRITE_ROUNDS: usize = 8;
const WRITE_ROUND: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 16;

pub async fn measure(args: &Args) -> Outcome {
    let warm = Warm::start().await;
    let mut outcome = Outcome::default();
    let writes = writes(args, &warm, &mut outcome).await;
    let ledger = ledger(args, &warm, &mut outcome).await;
    outcome.facts = json!({ "writes": writes, "ledger": ledger });
    outcome
}

/// Both ways into the control database, in turn.
async fn ledger(args: &Args, warm: &Warm, outcome: &mut Outcome) -> serde_json::Value {
    let world = &warm.app.world;
    // What the writes of before left.
    relay::relay(&world.hands.cp, &world.hands.admins, "bench").await.expect("the outbox is emptied");
    sqlx::raw_sql("CREATE TABLE bare_event (LIKE usage_event INCLUDING ALL)")
        .execute(world.db())
        .await
        .expect("a table beside the ledger");
    let made = both_ways(args, warm, made_key).await;
    let random = both_ways(args, warm, random_key).await;
    outcome.lines.push(format!(
        "{} facts a round, of {TENANTS} tenants, {BATCH} to a statement, fsync on",
        args.count(FACTS)
    ));
    outcome
        .lines
        .push(format!("outbox → relay → dedupe → ledger → outbox emptied: {} a second", made.relayed));
    outcome
        .lines
        .push(format!("bare batched INSERT into a copy of the ledger's table: {} a second", made.bare));
    outcome.lines.push(format!(
        "the same with keys in no order: {} and {} a second, ratio {}",
        random.relayed, random.bare, random.ratio
    ));
    outcome.goals.push(Goal::never(
        "facts into the ledger: rounds that lost or doubled one",
        made.wrong + random.wrong,
    ));
    outcome.goals.push(Goal::at_least(
        "facts into the ledger, a second",
        made.relayed.median,
        10_000.0,
        "/s",
    ));
    outcome.goals.push(Goal::at_least(
        "facts into the ledger / bare batched INSERT, rate",
        made.ratio.median,
        0.5,
        "×",
    ));
    json!({
        "relayed": made.relayed, "bare": made.bare, "ratio": made.ratio,
        "keys_in_no_order": { "relayed": random.relayed, "bare": random.bare, "ratio": random.ratio },
    })
}

/// Facts a second.
struct Rates {
    relayed: Median,
    bare: Median,
    ratio: Median,
    /// Rounds that lost or doubled a fact.
    wrong: usize,
}

/// As OpsFlow makes them: the new task's id, which begins with the time. They are written at one end of the key's index.
fn made_key() -> String {
    format!("tasks_created:{}", TaskId::new())
}

/// As a product may make them, too: all over the index.
fn random_key() -> String {
    format!("tasks_created:{}", Entropy::default().base32::<16>())
}

async fn both_ways(args: &Args, warm: &Warm, key: fn() -> String) -> Rates {
    let world = &warm.app.world;
    let facts = args.count(FACTS);
    let mut shard = world.shard_conn(0).await;
    let mut bare = PgConnection::connect(&world.control_url).await.expect("the control database");
    let (mut relayed, mut inserted, mut wrong) = (Vec::new(), Vec::new(), 0);
    for round in 0..=args.count(ROUNDS) {
        let keys: Vec<String> = (0..facts).map(|_| key()).collect();
        fill(&mut shard, &keys).await;
        for side in [round % 2, 1 - round % 2] {
            let begun = Instant::now();
            if side == 0 {
                let carried = relay::relay(&world.hands.cp, &world.hands.admins, "bench").await;
                wrong += usize::from(carried.ok().map(|carried| carried.new) != Some(facts));
                relayed.push(facts as f64 / begun.elapsed().as_secs_f64());
            } else {
                insert(&mut bare, &keys).await;
                inserted.push(facts as f64 / begun.elapsed().as_secs_f64());
            }
        }
    }
    // The first filled caches.
    let (relayed, inserted) = (&relayed[1..], &inserted[1..]);
    let ratio = Median::of(relayed.iter().zip(inserted).map(|(ours, bare)| ours / bare));
    let [relayed, bare] = [relayed, inserted].map(|rates| Median::of(rates.iter().copied()));
    Rates { relayed, bare, ratio, wrong }
}

/// Facts as the tenants' transactions leave them.
async fn fill(shard: &mut PgConnection, keys: &[String]) {
    sqlx::query(
        "INSERT INTO freehold.outbox (role_name, kind, key, payload)
         SELECT roles.name[(n % $1 + 1)::int4], 'usage', s.key,
                jsonb_build_object('meter', 'tasks_created', 'quantity', 1,
                                   'at', (extract(epoch FROM clock_timestamp()) * 1000000)::int8)
           FROM unnest($2::text[]) WITH ORDINALITY AS s(key, n),
                (SELECT array_agg(schema_name::name ORDER BY schema_name) AS name FROM freehold.schema_version) AS roles
          ORDER BY n",
    )
    .bind(TENANTS as i32)
    .bind(keys)
    .execute(&mut *shard)
    .await
    .expect("the outbox takes them");
    sqlx::raw_sql("ANALYZE freehold.outbox").execute(shard).await.expect("an ANALYZE");
}

/// The same rows with nothing around them: no key that is kept, no outbox, no question who it was.
async fn insert(conn: &mut PgConnection, keys: &[String]) {
    let tenants: Vec<Uuid> = (0..TENANTS as u128).map(Uuid::from_u128).collect();
    let now: DateTime<Utc> = freehold::kernel::Clock::System.now();
    for (batch, keys) in keys.chunks(BATCH).enumerate() {
        let rows = batch * BATCH..batch * BATCH + keys.len();
        let mut tx = conn.begin().await.expect("a transaction");
        sqlx::query(
            "INSERT INTO bare_event (id, tenant, meter, source, key, quantity, occurred_at, received_at)
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::timestamptz[],
                                  $8::timestamptz[])",
        )
        .bind(rows.clone().map(|_| TaskId::new().0).collect::<Vec<_>>())
        .bind(rows.clone().map(|n| tenants[n % TENANTS]).collect::<Vec<_>>())
        .bind(rows.clone().map(|_| "tasks_created").collect::<Vec<_>>())
        .bind(rows.clone().map(|_| "outbox:shard-1").collect::<Vec<_>>())
        .bind(keys)
        .bind(rows.clone().map(|_| 1_i64).collect::<Vec<_>>())
        .bind(rows.clone().map(|n| now + chrono::Duration::microseconds(n as i64)).collect::<Vec<_>>())
        .bind(rows.map(|_| now).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await
        .expect("the bare rows");
        tx.commit().await.expect("a commit");
    }
}

/// The same write by two servers over the same connections, of which one counts what is used.
async fn writes(args: &Args, warm: &Warm, outcome: &mut Outcome) -> serde_json::Value {
    let stop = CancellationToken::new();
    let http = &warm.app.replicas[0].http;
    let targets = [warm.target(), unmetered(http, warm, &stop).await];
    let shots = warm.shots(Tenant::write);
    for target in targets {
        load(target, CONNECTIONS, WRITE_ROUND / 2, &shots).await;
    }
    let mut rounds: [Vec<Round>; 2] = Default::default();
    for round in 0..args.count(WRITE_ROUNDS) {
        for side in [round % 2, 1 - round % 2] {
            rounds[side].push(load(targets[side], CONNECTIONS, args.time(WRITE_ROUND), &shots).await);
        }
    }
    stop.cancel();
    let [metered, plain] = &rounds;
    let pairs = || metered.iter().zip(plain);
    let ratio =
        Median::of(pairs().map(|(metered, plain)| metered.report.per_second / plain.report.per_second));
    let effort = Median::of(pairs().map(|(metered, plain)| metered.effort.served() / plain.effort.served()));
    let p50 =
        Median::of(pairs().map(|(metered, plain)| metered.report.latency.p50 / plain.report.latency.p50));
    for (name, rounds) in [("routed write, metered", metered), ("routed write, not metered", plain)] {
        let all: Vec<_> = rounds.iter().flat_map(|round| round.report.latencies.iter().copied()).collect();
        outcome.series.push((name.to_owned(), Spread::of(&all)));
    }
    outcome.lines.push(format!(
        "routed write, {CONNECTIONS} connections, metered / not: throughput {ratio}, median latency {p50}, CPU time {effort}"
    ));
    let reports = || rounds.iter().flatten().map(|round| &round.report);
    outcome.goals.push(Goal::never("routed write: wrong answers", reports().map(Report::wrong).sum()));
    outcome.goals.push(Goal::at_least(
        "routed write, metered / not metered, throughput",
        ratio.median,
        0.9,
        "×",
    ));
    outcome.goals.push(Goal::at_most(
        "routed write, metered / not metered, median latency",
        p50.median,
        1.1,
        "×",
    ));
    json!({ "throughput": ratio, "median_latency": p50, "cpu": effort })
}

/// A server whose tasks are not counted, nor its calls.
async fn unmetered(http: &HttpState, warm: &Warm, stop: &CancellationToken) -> Target {
    let listener = serve::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let addr = listener.local_addr().expect("the port");
    let state = HttpState { calls: ApiCalls::default(), ..http.clone() };
    let routes = freehold::operations!(OpenApiRouter::new(), create);
    let app = router(state, routes, operator::routes(warm.app.world.hands.cp.clone()), None);
    tokio::spawn(serve::serve(listener, app, stop.clone(), ServeOptions::default()));
    Target { addr }
}

/// Create a task that nobody counts
#[utoipa::path(post, path = "/api/v1/tasks", operation_id = "create_task", tag = "tasks", request_body = NewTask,
    responses((status = 201, description = "The task.")))]
async fn create(ctx: As<Member>, Json(new): Json<NewTask>) -> Result<Answer> {
    let (id, entry) = (TaskId::new(), Entry::new(&ctx, "task.created", new.changes()));
    ctx.write_once(async move |conn| match store::task_insert(conn, &entry, id, &new, None).await? {
        Some(task) => Answer::created(format!("/api/v1/tasks/{}", task.id), task.version, &task),
        None => Err(Error::new(&codes::NOT_FOUND)),
    })
    .await
}
