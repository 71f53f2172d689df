//! How chains grow.

use std::time::Duration;

use freehold::control_plane::audit::{AuditFilter, Caller, audit_add, audit_forget, audit_list};
use freehold::db::migrations;
use freehold::kernel::ids::{AccountId, TenantId};
use freehold::product::{Current, Product};
use freehold::testkit::{Cluster, World, tester};
use futures_util::future::join_all;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};

use super::fixture::{line, line_by, tenant, verified};

/// A pool in which each of many writers has a connection.
async fn roomy(world: &World, most: u32) -> sqlx::PgPool {
    let options: PgConnectOptions = world.control_url.parse().unwrap();
    PgPoolOptions::new().max_connections(most).connect_with(options).await.unwrap()
}

/// Shown to fail: with the row of the end read without its lock, two lines get one number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_writers_of_one_tenant_make_one_unbroken_chain() {
    let world = World::new(Current::migrations()).await;
    let acme = tenant(&world, "acme").await;
    let pool = roomy(&world, 50).await;
    let now = world.hands.cp.clock.now();
    join_all((0..50).map(async |writer: usize| {
        for n in 0..4 {
            let mut tx = pool.begin().await.unwrap();
            let subject = format!("{writer}.{n}");
            audit_add(&mut tx, &tester(), now, "test.line", Some(acme), &subject, json!({})).await.unwrap();
            // One in four changes its mind: that leaves no gap.
            if n == 3 { tx.rollback().await.unwrap() } else { tx.commit().await.unwrap() }
        }
    }))
    .await;
    let report = verified(&world, Some(acme)).await;
    assert_eq!((report.lines, report.broken), (1 + 150, vec![]));
    pool.close().await;
}

/// A process that is killed between a line and its commit takes the line with it, and holds nobody up.
#[tokio::test]
async fn a_writer_that_is_killed_leaves_a_whole_chain() {
    let world = World::new(Current::migrations()).await;
    let acme = tenant(&world, "acme").await;
    let options: PgConnectOptions = world.control_url.parse().unwrap();
    for n in 0..5 {
        let mut victim = options.connect().await.unwrap();
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut victim).await.unwrap();
        let mut tx = victim.begin().await.unwrap();
        let now = world.hands.cp.clock.now();
        audit_add(&mut tx, &tester(), now, "test.lost", Some(acme), "x", json!({})).await.unwrap();
        let subject = format!("s{n}");
        let waiting = line(&world, Some(acme), &subject);
        let kill = async {
            sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(world.db()).await.unwrap();
        };
        tokio::join!(waiting, kill);
        drop(tx);
    }
    let report = verified(&world, Some(acme)).await;
    assert_eq!((report.lines, report.broken), (6, vec![]));
}

/// What is signed in and what is provisioned does not wait for each other: the chains are apart.
///
/// Shown to fail: `chain_of` giving one chain for all that concerns no tenant.
#[tokio::test]
async fn people_tenants_and_the_platform_do_not_wait_for_each_other() {
    let world = World::new(Current::migrations()).await;
    let (acme, globex) = (tenant(&world, "acme").await, tenant(&world, "globex").await);
    let by = |account: AccountId| Caller { actor: account.to_string(), request_id: None };
    let (ada, grace) = (by(AccountId::new()), by(AccountId::new()));
    let now = world.hands.cp.clock.now();
    // One transaction holds a tenant's chain, a person's and the platform's.
    let mut held = world.db().begin().await.unwrap();
    for (caller, tenant) in [(&tester(), Some(acme)), (&ada, None), (&tester(), None)] {
        audit_add(&mut held, caller, now, "test.held", tenant, "x", json!({})).await.unwrap();
    }
    // Meanwhile others' lines are written and committed.
    let others = async {
        line(&world, Some(globex), "x").await;
        line_by(&world, &grace, None, "x").await;
    };
    tokio::time::timeout(Duration::from_secs(20), others).await.expect("they wait for nobody");
    held.commit().await.unwrap();
    let report = verified(&world, None).await;
    assert_eq!(report.broken, []);
    assert!(report.chains >= 5, "{report:?}");
}

/// B13, "append-only". Shown to fail: each trigger dropped.
#[tokio::test]
async fn nobody_changes_or_removes_a_line() {
    let world = World::new(Current::migrations()).await;
    let acme = tenant(&world, "acme").await;
    for statement in [
        "UPDATE audit SET actor = 'x'",
        "UPDATE audit SET actor = actor WHERE false",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "UPDATE audit_head SET seq = seq - 1",
        "UPDATE audit_head SET hash = sha256(hash)",
        "UPDATE audit_head SET chain = gen_random_uuid(), seq = seq + 1",
        "DELETE FROM audit_head",
        "TRUNCATE audit_head",
        "INSERT INTO audit (id, at, actor, action, subject) VALUES (gen_random_uuid(), now(), 'x', 'x', 'x')",
    ] {
        let refused = sqlx::query(statement).execute(world.db()).await;
        assert!(refused.is_err(), "{statement}");
    }
    assert_eq!(verified(&world, Some(acme)).await.broken, []);
}

/// The login that Freehold works with owns the tables and is no superuser: it has no right to change the log, trigger or not.
///
/// Shown to fail: the REVOKE taken out of the migration.
#[tokio::test]
async fn the_applications_own_login_may_add_and_read_and_no_more() {
    let world = World::new(Current::migrations()).await;
    let server = Cluster::shared().await.server(0);
    let database = server.create_database("owned", None).await;
    let role = format!("app_{database}");
    let statements = [
        format!("CREATE ROLE {role} LOGIN NOSUPERUSER PASSWORD 'app'"),
        format!("ALTER DATABASE {database} OWNER TO {role}"),
    ];
    for statement in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(world.db()).await.unwrap();
    }
    let admin: PgConnectOptions = server.admin_url(&database).parse().unwrap();
    let app = admin.clone().username(&role).password("app");
    migrations::migrate(&migrations::CONTROL, &app).await.unwrap();
    let mut conn = app.connect().await.unwrap();
    for _ in 0..2 {
        let now = world.hands.cp.clock.now();
        let detail = json!({ "email": "a@example.com" });
        audit_add(&mut conn, &tester(), now, "test.line", Some(TenantId::new()), "x", detail).await.unwrap();
        audit_add(&mut conn, &tester(), now, "test.line", None, "x", json!({})).await.unwrap();
    }
    assert_eq!(audit_list(&mut conn, &AuditFilter::default()).await.unwrap().items.len(), 4);
    // Without the triggers, so that what refuses is the missing right.
    let mut superuser = admin.connect().await.unwrap();
    for statement in ["ALTER TABLE audit DISABLE TRIGGER USER", "ALTER TABLE audit_head DISABLE TRIGGER USER"]
    {
        sqlx::query(statement).execute(&mut superuser).await.unwrap();
    }
    for statement in [
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "DELETE FROM audit_head",
        "TRUNCATE audit_head",
    ] {
        let error = sqlx::query(statement).execute(&mut conn).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
    }
    conn.close().await.unwrap();
    superuser.close().await.unwrap();
}

/// What a line says of a person goes with the person; the line stays, and the chain is whole.
///
/// Shown to fail: the address left in `detail` (an empty `PERSONAL`).
#[tokio::test]
async fn a_person_is_forgotten_and_the_chain_stays_whole() {
    let world = World::new(Current::migrations()).await;
    let acme = tenant(&world, "acme").await;
    let ada = AccountId::new();
    let (by_ada, now) = (Caller { actor: ada.to_string(), request_id: None }, world.hands.cp.clock.now());
    let mut tx = world.db().begin().await.unwrap();
    for (caller, tenant, detail) in [
        (&by_ada, None, json!({ "method": "oidc", "address": "203.0.113.7" })),
        (&tester(), Some(acme), json!({ "email": "ADA@example.com", "role": "member" })),
        (&by_ada, Some(acme), json!({ "email": "bob@example.com", "role": "member" })),
        (&by_ada, Some(acme), json!({ "address": "203.0.113.8" })),
    ] {
        audit_add(&mut tx, caller, now, "test.line", tenant, "x", detail).await.unwrap();
    }
    tx.commit().await.unwrap();
    let all = async || {
        let mut conn = world.db().acquire().await.unwrap();
        let filter = AuditFilter { action: Some("test.line".to_owned()), ..AuditFilter::default() };
        let lines = audit_list(&mut conn, &filter).await.unwrap().items;
        serde_json::to_string(&lines).unwrap()
    };
    let before = all().await;
    for said in ["203.0.113.7", "203.0.113.8", "ADA@example.com", "bob@example.com"] {
        assert!(before.contains(said), "{said}: {before}");
    }
    let mut tx = world.db().begin().await.unwrap();
    assert_eq!(audit_forget(&mut tx, ada, &["Ada@Example.com".to_owned()]).await.unwrap(), 3);
    tx.commit().await.unwrap();
    let after = all().await;
    for gone in ["203.0.113.7", "203.0.113.8", "ADA@example.com"] {
        assert!(!after.contains(gone), "{gone}: {after}");
    }
    assert!(after.contains("bob@example.com"), "another person's: {after}");
    assert!(after.contains("\"role\":\"member\""), "{after}");
    let everywhere: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM audit a WHERE a::text ~* 'ada@|203[.]0[.]113')
              + (SELECT count(*) FROM audit_personal p WHERE p::text ~* 'ada@|203[.]0[.]113')",
    )
    .fetch_one(world.db())
    .await
    .unwrap();
    assert_eq!(everywhere, 0);
    let report = verified(&world, None).await;
    assert_eq!((report.forgotten, report.broken), (3, vec![]));
}
