//! Shards: their slots, how they are looked at before they take tenants, whose a database is, and how a shard goes again.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use freehold::billing::ledger::relay;
use freehold::control_plane::access::{tenant_delete, tenant_purge};
use freehold::control_plane::registry::shard_remove;
use freehold::control_plane::shards::{
    NewShard, ShardState, shard_add, shard_find, shard_list, shard_set_slots, shard_set_state,
};
use freehold::control_plane::slots::new_schema_name;
use freehold::control_plane::tenants::TenantRef;
use freehold::control_plane::{fleet, reconcile, runs, slots};
use freehold::db::schema::{LoginLimits, Schema};
use freehold::jobs::run::{RunState, run_by_id};
use freehold::jobs::saga;
use freehold::kernel::ids::RunId;
use freehold::kernel::{Role, SecretRef};
use freehold::local::PostgresOptions;
use freehold::product::{Current, Product};
use freehold::testkit::{AppOptions, TestApp, World, WorldOptions, eventually, extra_postgres, tester};
use reqwest::Method;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::logins::said;

/// A run's attempt, and why it failed.
async fn attempt(world: &World, run: RunId) -> String {
    let held = saga::lease(world.db(), "test", Some(run)).await.unwrap().expect("the run is free");
    runs::drive(&world.hands, &held).await.unwrap();
    run_by_id(&mut world.db().acquire().await.unwrap(), run).await.unwrap().error.unwrap_or_default()
}

/// A shard whose admin DSN this is, kept under its name.
fn dsn(world: &World, name: &str, url: &str) -> NewShard {
    let file = world.folder.path().join(name);
    std::fs::write(&file, url).unwrap();
    NewShard {
        name: name.to_owned(),
        pool: "default".to_owned(),
        dsn: SecretRef::File(file.to_string_lossy().into_owned()),
        tenant_cap: 10,
        slots: 0,
    }
}

/// Shown to fail: whether there is a login decided before the lock in `drop`.
#[tokio::test]
async fn a_slot_that_is_dropped_while_it_is_made_leaves_no_login() {
    let world =
        World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: Current::migrations() })
            .await;
    let shard = &world.shards[0];
    let database = shard.database.as_deref().unwrap();
    let name = new_schema_name(&world.hands.cp);
    let schema = Schema { name: &name, database, credential_version: 1, fence: Some(7) };
    let verifier = world.hands.master.scram_verifier(&name, 1);
    let mut making = world.shard_conn(0).await;
    let sql = schema.create_sql(&verifier, world.hands.cp.tables, LoginLimits::SPARE);
    let turn = format!("SELECT pg_advisory_xact_lock(hashtextextended('{name}', 0))");
    said(&mut making, format!("BEGIN; {turn}; {sql}")).await;
    let dropping = async {
        let mut conn = world.shard_conn(0).await;
        schema.drop(&mut conn).await.unwrap();
    };
    tokio::join!(dropping, async {
        let mut looking = world.shard_conn(0).await;
        eventually(Duration::from_secs(10), "the drop waits for its turn", async || {
            let waits: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                  WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted",
            )
            .fetch_one(&mut *looking)
            .await
            .unwrap();
            if waits > 0 { Ok(()) } else { Err("not yet") }
        })
        .await;
        said(&mut making, "COMMIT".to_owned()).await;
    });
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_roles WHERE rolname = $1")
        .bind(&name)
        .fetch_one(&mut *making)
        .await
        .unwrap();
    assert_eq!(left, 0);

    // One that was left before is at least seen.
    said(&mut making, format!("CREATE ROLE {name} LOGIN; GRANT CONNECT ON DATABASE {database} TO {name}"))
        .await;
    let found = reconcile::drift(&world.hands, shard).await.unwrap();
    assert!(found.iter().any(|drift| drift.role == name && drift.what.contains("no schema")), "{found:?}");
    said(&mut making, format!("REVOKE CONNECT ON DATABASE {database} FROM {name}; DROP ROLE {name}")).await;
    assert!(reconcile::drift(&world.hands, shard).await.unwrap().is_empty());
}

/// A server's certificate, of an authority that nobody else knows: both made here, so that no key is kept anywhere. Of the
/// `openssl` that PostgreSQL's packages bring along.
fn certificates(folder: &Path) {
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    for arguments in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tests \
         -keyout authority.key -out authority.pem",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout tls.key -out tls.csr",
        "x509 -req -in tls.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names -out tls.pem",
    ] {
        let made = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(folder)
            .output()
            .expect("openssl is on the PATH");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

/// A shard that is there for its admin and for no tenant is not prepared; with the authority that its certificate is of, it
/// is there for both. Shown to fail: `look` taken out of `shard_prepare`; the authority not passed on in `load`.
#[tokio::test]
async fn a_shard_is_looked_at_as_its_tenants_reach_it() {
    let server = extra_postgres(PostgresOptions::default()).await;
    let mut admin = PgConnection::connect(&server.url("postgres")).await.unwrap();
    // By the server itself, so that the files are its own.
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    for file in ["tls.pem", "tls.key"] {
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        said(
            &mut admin,
            format!(
                "COPY (SELECT unnest(string_to_array('{}', E'\n'))) TO PROGRAM 'umask 077 && cat > {file}'",
                text.trim_end()
            ),
        )
        .await;
    }
    for setting in ["ssl_cert_file = 'tls.pem'", "ssl_key_file = 'tls.key'", "ssl = on"] {
        said(&mut admin, format!("ALTER SYSTEM SET {setting}")).await;
    }
    said(&mut admin, "SELECT pg_reload_conf()".to_owned()).await;
    eventually(Duration::from_secs(10), "it speaks TLS", async || {
        let on: String = sqlx::query_scalar("SHOW ssl").fetch_one(&mut admin).await.unwrap();
        if on == "on" { Ok(()) } else { Err(on) }
    })
    .await;

    let mut app =
        TestApp::start::<Current>(AppOptions { worker: false, ..AppOptions::of::<Current>() }).await;
    said(&mut admin, "CREATE DATABASE shard".to_owned()).await;
    let plain = server.url("shard");
    let bare = plain.split('?').next().unwrap();
    let authority = folder.path().join("authority.pem");

    let options: PgConnectOptions = format!("{bare}?sslmode=require").parse().unwrap();
    PgConnection::connect_with(&options).await.expect("the admin gets in");
    let new = dsn(&app.world, "tls", &format!("{bare}?sslmode=require"));
    let (shard, run) = shard_add(&app.world.hands.cp, &tester(), &new).await.unwrap();
    let error = attempt(&app.world, run).await;
    assert!(error.contains("tenants' logins cannot connect") && error.contains("verify-full"), "{error}");
    let state: (String, Option<String>) = sqlx::query_as("SELECT state, host FROM shard WHERE id = $1")
        .bind(shard)
        .fetch_one(app.world.db())
        .await
        .unwrap();
    assert_eq!(state, ("offline".to_owned(), None), "nobody is placed there");

    dsn(&app.world, "tls", &format!("{bare}?sslmode=verify-full&sslrootcert={}", authority.display()));
    app.world.hands.admins.forget(shard);
    assert_eq!(app.world.finish(run).await.state, RunState::Done);
    sqlx::query("UPDATE shard SET state = 'draining' WHERE id <> $1")
        .bind(shard)
        .execute(app.world.db())
        .await
        .unwrap();
    app.world.shards = shard_list(&mut app.world.db().acquire().await.unwrap()).await.unwrap();
    app.world.tenant("acme").await;
    let key = app.key("acme", Role::Owner).await;
    let (status, answer) = app.send(app.request(Method::GET, "acme", &key, "/api/v1/projects")).await;
    assert_eq!(status, 200, "a tenant of it is served: {answer}");
}

/// Guards, not yet seen to fail: `claim` not called in `shard_prepare`; its look for the other shard; its look for schemas.
#[tokio::test]
async fn a_database_is_one_shard_however_its_address_is_spelled() {
    let world =
        World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: Current::migrations() })
            .await;
    let cp = &world.hands.cp;
    let other = world.shard_urls[0].replace("127.0.0.1", "localhost");
    assert_ne!(other, world.shard_urls[0]);
    let (_, run) = shard_add(cp, &tester(), &dsn(&world, "again", &other)).await.unwrap();
    let error = attempt(&world, run).await;
    assert!(error.contains("name_taken") && error.contains("shard shard-1 already"), "{error}");
    let again = shard_find(&mut world.db().acquire().await.unwrap(), "again").await.unwrap();
    assert_eq!((again.state, again.host), (ShardState::Offline, None), "nobody is placed there");

    // The one that was wrong goes, with the run that would have tried for ever.
    shard_remove(cp, &tester(), "again").await.unwrap();
    let ended = run_by_id(&mut world.db().acquire().await.unwrap(), run).await.unwrap();
    assert_eq!((ended.state, ended.error.as_deref()), (RunState::Undone, Some("the shard was removed")));

    // Empty, and its shard gone: another may have it. With somebody's schemas in it, nobody.
    shard_set_state(cp, &tester(), "shard-1", ShardState::Draining).await.unwrap();
    let held = "INSERT INTO freehold.schema_version (schema_name, version) VALUES ('t_of_nobody_here', 1)";
    said(&mut *world.shard_conn(0).await, held.to_owned()).await;
    shard_remove(cp, &tester(), "shard-1").await.unwrap();
    let (_, run) = shard_add(cp, &tester(), &dsn(&world, "heir", &other)).await.unwrap();
    let error = attempt(&world, run).await;
    assert!(error.contains("state_conflict") && error.contains("holds 1 schemas"), "{error}");
    said(&mut *world.shard_conn(0).await, "DELETE FROM freehold.schema_version".to_owned()).await;
    assert_eq!(world.finish(run).await.state, RunState::Done);
    for outcome in fleet::migrate_shards(&world.hands, |_| {}).await.unwrap() {
        assert_eq!((outcome.name.as_str(), outcome.error), ("heir", None));
    }
}

/// Guards, not yet seen to fail: each condition of `kept_by`; `give_up_spares` not called.
#[tokio::test]
async fn a_shard_is_removed_when_nothing_is_left_on_it() {
    let mut options = AppOptions { worker: false, ..AppOptions::of::<Current>() };
    options.world.shards = 1;
    let app = TestApp::start::<Current>(options).await;
    let (world, cp) = (&app.world, &app.world.hands.cp);
    let remove = async || app.send(app.operator(Method::DELETE, "/operator/v1/shards/shard-1")).await;
    let refused = async |why: &str| {
        let (status, answer) = remove().await;
        assert_eq!((status, answer["code"].as_str()), (409, Some("state_conflict")), "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains(why), "{why}: {answer}");
    };
    world.tenant("acme").await;
    let acme = TenantRef::Slug("acme".to_owned());
    refused("takes new tenants").await;
    shard_set_state(cp, &tester(), "shard-1", ShardState::Draining).await.unwrap();
    refused("tenants are on it (1").await;
    let run = tenant_delete(cp, &tester(), &acme, "gone").await.unwrap();
    world.finish(run).await;
    refused("tenants are on it (1").await;
    let run = tenant_purge(cp, &tester(), &acme, true).await.unwrap();
    world.finish(run).await;
    slots::repair(&world.hands).await.unwrap();
    refused("slots are on it (1").await;
    shard_set_slots(cp, &tester(), "shard-1", 0).await.unwrap();
    slots::repair(&world.hands).await.unwrap();
    refused("in the ledger").await;
    assert_eq!(world.orphans().await, Vec::<String>::new(), "the spare slot is gone from the shard too");
    relay::relay(cp, &world.hands.admins, "test").await.unwrap();

    let (status, answer) = remove().await;
    assert_eq!((status, answer["name"].as_str()), (200, Some("shard-1")), "{answer}");
    let (status, _) = app.send(app.operator(Method::GET, "/operator/v1/shards/shard-1")).await;
    assert_eq!(status, 404);
    assert_eq!(remove().await.0, 404);
    let lines: i64 = sqlx::query_scalar("SELECT count(*) FROM audit WHERE action = 'shard.remove'")
        .fetch_one(world.db())
        .await
        .unwrap();
    assert_eq!(lines, 1);
}
