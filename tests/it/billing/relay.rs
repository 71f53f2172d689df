//! From a tenant's transaction to the ledger: what is rolled back was not used, what is committed arrives once, and nobody
//! speaks for another.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration as StdDuration;

use chrono::Duration;
use freehold::billing::incidents;
use freehold::billing::ledger::late::stray_list;
use freehold::billing::ledger::relay::{self, Carried};
use freehold::data_plane::usage::{Aggregation, Meter};
use freehold::kernel::{Error, Role};
use freehold::product::{Current, Product};
use freehold::testkit::{AppOptions, TestApp, World, WorldOptions, eventually};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use super::ledger::Scene;

const TASKS: Meter =
    Meter { id: "tasks_created", name: "Tasks created", unit: "task", aggregation: Aggregation::Sum };

async fn relay_of(world: &World) -> Carried {
    relay::relay(&world.hands.cp, &world.hands.admins, "test").await.unwrap()
}

/// Writes a fact as a tenant's own login does.
const SAY: &str = "INSERT INTO freehold.outbox (kind, key, payload) VALUES ('usage', $1, $2::jsonb)";

fn payload(quantity: i64) -> String {
    json!({ "meter": "tasks_created", "quantity": quantity }).to_string()
}

async fn left(world: &World) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM freehold.outbox WHERE kind = 'usage'")
        .fetch_one(&mut *world.shard_conn(0).await)
        .await
        .unwrap()
}

/// Facts in the ledger, as tenant's slug and sum.
async fn sums(world: &World) -> Vec<(String, i64)> {
    sqlx::query_as(
        "SELECT t.slug, sum(e.quantity)::int8 FROM usage_event e JOIN tenant t ON t.id = e.tenant
          WHERE e.meter = 'tasks_created' GROUP BY t.slug ORDER BY t.slug",
    )
    .fetch_all(world.db())
    .await
    .unwrap()
}

/// The whole way: a request makes a task, the task is a fact, the fact is in the ledger once.
#[tokio::test]
async fn a_task_that_is_made_is_a_fact() {
    let world = WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: Current::migrations() };
    let options = AppOptions { world, worker: false, ..AppOptions::of::<Current>() };
    let app = TestApp::start::<Current>(options).await;
    let acme = app.world.tenant("acme").await;
    let key = app.key("acme", Role::Owner).await;
    let new = json!({ "name": "One" });
    let (status, project) =
        app.send(app.request(Method::POST, "acme", &key, "/api/v1/projects").json(&new)).await;
    assert_eq!(status, 201, "{project}");
    let post = |title: &str, project: &serde_json::Value, once: &str| {
        app.request(Method::POST, "acme", &key, "/api/v1/tasks")
            .header("idempotency-key", once)
            .json(&json!({ "project_id": project["id"], "title": title }))
    };
    // The second is a repeat of the first; the last is refused.
    for (title, once, status) in [("a", "1", 201), ("a", "1", 201), ("b", "2", 201), ("", "3", 422)] {
        assert_eq!(app.send(post(title, &project, once)).await.0, status, "{title:?}");
    }
    assert_eq!(relay_of(&app.world).await, Carried { new: 2, known: 0, strays: 0 });
    assert_eq!(relay_of(&app.world).await, Carried::default());
    assert_eq!((sums(&app.world).await, left(&app.world).await), (vec![("acme".to_owned(), 2)], 0));

    // §8: a business transaction that rolls back uses nothing.
    let http = &app.replicas[0].http;
    let entry = http.directory.tenant(acme.tenant.id).await.unwrap().unwrap();
    let context = http.context_for(entry);
    for fails in [true, false] {
        let done = context
            .write(async |conn| {
                context.usage().record(conn, &TASKS, 5, &format!("fails: {fails}")).await?;
                if fails { Err(Error::internal("the business said no")) } else { Ok(()) }
            })
            .await;
        assert_eq!(done.is_err(), fails);
    }
    assert_eq!(relay_of(&app.world).await, Carried { new: 1, known: 0, strays: 0 });
    assert_eq!(sums(&app.world).await, [("acme".to_owned(), 7)]);
}

/// What a server counted is in the ledger when it has stopped, and no call is counted twice.
///
/// Shown to fail: count before the door has let the request in; leave the open minute out at the end.
#[tokio::test]
async fn calls_of_the_api_are_counted() {
    let world = WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: Current::migrations() };
    let options = AppOptions { world, worker: false, replicas: 2, ..AppOptions::of::<Current>() };
    let mut app = TestApp::start::<Current>(options).await;
    app.world.tenant("acme").await;
    let key = app.key("acme", Role::Viewer).await;
    for replica in [0, 1, 1] {
        // Each in a minute of its own; the last one's is open when the servers stop.
        app.world.hands.cp.clock.advance(Duration::seconds(61));
        let request = app.on(replica, Method::GET, "acme", &key, "/api/v1/projects");
        assert_eq!(app.send(request).await.0, 200);
        // Refused at the door: no use.
        let stranger = format!("{}x", &key[..key.len() - 1]);
        assert_eq!(
            app.send(app.on(replica, Method::GET, "acme", &stranger, "/api/v1/projects")).await.0,
            401
        );
        // No such thing within: the tenant asked, and was answered.
        let missing = "/api/v1/projects/prj_06fqv3k1s9t4m7b2n8c5v0r6e4";
        assert_eq!(app.send(app.on(replica, Method::GET, "acme", &key, missing)).await.0, 404);
    }
    for replica in std::mem::take(&mut app.replicas) {
        replica.stop().await;
    }
    let (calls, sources): (i64, i64) = sqlx::query_as(
        "SELECT sum(quantity)::int8, count(DISTINCT source) FROM usage_event WHERE meter = 'api_calls' AND quarantined IS NULL",
    )
    .fetch_one(app.world.db())
    .await
    .unwrap();
    assert_eq!((calls, sources), (6, 2));
}

/// Transactions commit in another order than they took their numbers: nothing is stepped over.
///
/// Shown to fail: let each round begin after the highest id that the one before carried.
#[tokio::test]
async fn a_lower_number_that_commits_later_is_not_lost() {
    let scene = Scene::new().await;
    let login = scene.world.tenant_login(&scene.acme);
    let (mut slow, mut fast) = (
        PgConnection::connect_with(&login).await.unwrap(),
        PgConnection::connect_with(&login).await.unwrap(),
    );
    let mut tx = slow.begin().await.unwrap();
    sqlx::query(SAY).bind("slow").bind(payload(1)).execute(&mut *tx).await.unwrap();
    sqlx::query(SAY).bind("fast").bind(payload(10)).execute(&mut fast).await.unwrap();
    assert_eq!(relay_of(&scene.world).await.new, 1);
    tx.commit().await.unwrap();
    assert_eq!(relay_of(&scene.world).await.new, 1);
    assert_eq!((sums(&scene.world).await, left(&scene.world).await), (vec![("acme".to_owned(), 11)], 0));
}

/// More than one batch, written by two tenants while three workers carry: everything once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_at_once_carry_everything_once() {
    let scene = Scene::new().await;
    let globex = scene.world.tenant_with("globex", "team").await;
    let write = async {
        for tenant in [&scene.acme, &globex] {
            let mut conn = PgConnection::connect_with(&scene.world.tenant_login(tenant)).await.unwrap();
            for part in 0..10 {
                sqlx::query(
                    "INSERT INTO freehold.outbox (kind, key, payload)
                     SELECT 'usage', 'k' || n, jsonb_build_object('meter', 'tasks_created', 'quantity', n % 3)
                       FROM generate_series($1, $1 + 599) AS n",
                )
                .bind(part * 600)
                .execute(&mut conn)
                .await
                .unwrap();
            }
        }
    };
    let (cp, admins) = (&scene.world.hands.cp, &scene.world.hands.admins);
    let carry = |worker: &'static str| async move {
        for _ in 0..30 {
            relay::relay(cp, admins, worker).await.unwrap();
        }
    };
    tokio::join!(write, carry("a"), carry("b"), carry("c"));
    // The lease of whoever was last may be another's; the facts wait for it.
    eventually(StdDuration::from_secs(30), "the outbox is empty", async || {
        for worker in ["a", "b", "c"] {
            relay::relay(cp, admins, worker).await.unwrap();
        }
        match left(&scene.world).await {
            0 => Ok(()),
            rows => Err(format!("{rows} rows")),
        }
    })
    .await;
    // 0, 1 and 2 in turn, six thousand times.
    assert_eq!(sums(&scene.world).await, [("acme".to_owned(), 6_000), ("globex".to_owned(), 6_000)]);
}

/// `kill -9` after the control database has the facts and before the outbox has forgotten them: another worker takes over,
/// and they are there once.
///
/// Shown to fail: forget the rows before they are kept (they are lost); give facts keys of their own in each round (they
/// count twice).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_in_between_loses_and_doubles_nothing() {
    let scene = Scene::new().await;
    let mut conn = PgConnection::connect_with(&scene.world.tenant_login(&scene.acme)).await.unwrap();
    for n in 0..50 {
        sqlx::query(SAY).bind(format!("k{n}")).bind(payload(2)).execute(&mut conn).await.unwrap();
    }
    let mark = scene.world.folder.path().join("fired");
    let status = Command::new(env!("CARGO_BIN_EXE_freehold"))
        .arg("worker")
        .env_clear()
        .env("FREEHOLD_CONTROL_URL", &scene.world.control_url)
        .env("FREEHOLD_MASTER_KEY", &scene.world.master_hex)
        .env("FREEHOLD_HOME", scene.world.folder.path())
        .env("FREEHOLD_FAULT", "usage:relay:after_effect")
        .env("FREEHOLD_FAULT_MARK", &mark)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(StdDuration::from_secs(60), status).await.expect("it dies").unwrap();
    assert_eq!(status.signal(), Some(9));
    assert!(mark.exists());
    assert_eq!((sums(&scene.world).await, left(&scene.world).await), (vec![("acme".to_owned(), 100)], 50));
    // Until the dead worker's lease has run out, the others leave the shard to it.
    let known =
        eventually(StdDuration::from_secs(40), "another worker takes over", async || {
            match relay_of(&scene.world).await {
                carried if carried == Carried::default() => Err("the lease is another's"),
                carried => Ok(carried),
            }
        })
        .await;
    assert_eq!(known, Carried { new: 0, known: 50, strays: 0 });
    assert_eq!((sums(&scene.world).await, left(&scene.world).await), (vec![("acme".to_owned(), 100)], 0));
}

/// A tenant's login can write what it likes into its outbox, in its own name alone; what is no fact is kept aside and holds
/// nobody up.
///
/// Shown to fail: take the tenant from the payload; cast the payload in SQL.
#[tokio::test]
async fn a_tenant_cannot_use_in_another_s_name_nor_hold_up_the_rest() {
    let scene = Scene::new().await;
    let globex = scene.world.tenant_with("globex", "team").await;
    let mut attacker = PgConnection::connect_with(&scene.world.tenant_login(&globex)).await.unwrap();
    let victim = scene.acme.role.clone().unwrap();
    let forged = sqlx::query(
        "INSERT INTO freehold.outbox (role_name, kind, key, payload) VALUES ($1::name, 'usage', 'x', '{}')",
    )
    .bind(&victim)
    .execute(&mut attacker)
    .await;
    assert!(forged.is_err(), "a row in another's name");
    let strays = [
        ("1", r#"{"meter":"tasks_created","quantity":-5}"#),
        ("2", r#"{"meter":"tasks_created","quantity":1e30}"#),
        ("3", r#"{"meter":"nothing","quantity":1}"#),
        ("4", r#"{"meter":"tasks_created"}"#),
        ("5", r#"{"meter":"tasks_created","quantity":1,"at":9223372036854775807}"#),
        ("6", "[]"),
        ("7", "null"),
    ];
    for (key, payload) in strays {
        sqlx::query(SAY).bind(key).bind(payload).execute(&mut attacker).await.unwrap();
    }
    // Whatever else it says of itself, it is the login that counts.
    let named =
        json!({ "meter": "tasks_created", "quantity": 7, "tenant": scene.tenant().to_string() }).to_string();
    sqlx::query(SAY).bind("named").bind(named).execute(&mut attacker).await.unwrap();
    let long = json!({ "meter": "tasks_created", "quantity": 1, "pad": "x".repeat(50_000) }).to_string();
    sqlx::query(SAY).bind("long").bind(long).execute(&mut attacker).await.unwrap();
    let mut own = PgConnection::connect_with(&scene.world.tenant_login(&scene.acme)).await.unwrap();
    sqlx::query(SAY).bind("honest").bind(payload(3)).execute(&mut own).await.unwrap();

    assert_eq!(relay_of(&scene.world).await, Carried { new: 2, known: 0, strays: 8 });
    assert_eq!(sums(&scene.world).await, [("acme".to_owned(), 3), ("globex".to_owned(), 7)]);
    assert_eq!(left(&scene.world).await, 0);
    let mut control = scene.world.db().acquire().await.unwrap();
    assert_eq!(stray_list(&mut control, 100).await.unwrap().len(), 8);
    let open = incidents::list(&mut control, false, 10).await.unwrap();
    assert_eq!(open.iter().map(|incident| incident.kind.as_str()).collect::<Vec<_>>(), ["usage_stray"]);
}

/// Rows of a login that no tenant has are kept, and told of; so is a key that comes back with another body; so is a clock
/// that is wrong.
#[tokio::test]
async fn what_cannot_be_counted_is_kept_aside_and_told() {
    let scene = Scene::new().await;
    let mut shard = scene.world.shard_conn(0).await;
    sqlx::query(
        "INSERT INTO freehold.outbox (role_name, kind, key, payload)
         VALUES ('t_gone', 'usage', 'k', '{\"meter\":\"tasks_created\",\"quantity\":1}')",
    )
    .execute(&mut *shard)
    .await
    .unwrap();
    let mut own = PgConnection::connect_with(&scene.world.tenant_login(&scene.acme)).await.unwrap();
    let ahead = (scene.now() + Duration::minutes(6)).timestamp_micros();
    let skewed = json!({ "meter": "tasks_created", "quantity": 1, "at": ahead }).to_string();
    for (key, payload) in
        [("same", payload(1)), ("same", payload(1)), ("same", payload(2)), ("skewed", skewed)]
    {
        sqlx::query(SAY).bind(key).bind(payload).execute(&mut own).await.unwrap();
    }
    assert_eq!(relay_of(&scene.world).await, Carried { new: 2, known: 1, strays: 2 });
    assert_eq!(left(&scene.world).await, 0);
    let mut control = scene.world.db().acquire().await.unwrap();
    let mut why: Vec<_> = stray_list(&mut control, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|stray| (stray.role_name, stray.why))
        .collect();
    why.sort();
    let role = scene.acme.role.clone().unwrap();
    let mut expected =
        vec![(role, "other_body".to_owned()), ("t_gone".to_owned(), "unknown_role".to_owned())];
    expected.sort();
    assert_eq!(why, expected);
    let mut kinds: Vec<_> = incidents::list(&mut control, false, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|incident| incident.kind)
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["usage_other_body", "usage_quarantined", "usage_stray"]);
    assert_eq!(
        sums(&scene.world).await,
        [("acme".to_owned(), 2)],
        "the one from the future is in the ledger, quarantined"
    );
    scene.at(scene.now() + Duration::hours(1));
    assert_eq!(scene.seal().await.facts, 1);
}

#[tokio::test]
async fn a_shard_that_is_away_does_not_hold_up_the_others() {
    let options = WorldOptions { shards: 2, tenant_cap: 10, slots: 0, tables: Current::migrations() };
    let world = World::with(options).await;
    // The first shard's DSN leads nowhere from now on.
    let file = world.folder.path().join("shard-1");
    std::fs::write(&file, "postgres://nobody:x@127.0.0.1:1/none").unwrap();
    world.hands.admins.forget(world.shards[0].id);
    sqlx::query("UPDATE shard SET state = 'offline' WHERE name = 'shard-1'")
        .execute(world.db())
        .await
        .unwrap();
    let acme = world.tenant("acme").await;
    assert_eq!(acme.tenant.shard.as_deref(), Some("shard-2"));
    let mut own = PgConnection::connect_with(&world.tenant_login(&acme)).await.unwrap();
    sqlx::query(SAY).bind("k").bind(payload(1)).execute(&mut own).await.unwrap();
    assert_eq!(relay_of(&world).await.new, 1);
}
