//! Tenants come to be, or not, and never half.

use freehold::control_plane::access::{
    tenant_delete, tenant_purge, tenant_resume, tenant_suspend, tenant_undelete,
};
use freehold::control_plane::doctor;
use freehold::control_plane::provisioning::NewTenant;
use freehold::control_plane::shards::{ShardState, shard_set_state};
use freehold::control_plane::tenants::{TenantRef, TenantState};
use freehold::control_plane::{fleet, reconcile, slots};
use freehold::jobs::run::RunState;
use freehold::kernel::codes;
use freehold::testkit::{Cluster, World, WorldOptions, tester};
use sqlx::{Connection, PgConnection};

/// The tables of the shipped product.
pub static TABLES: sqlx::migrate::Migrator = sqlx::migrate!("./tenant-migrations");

fn new(slug: &str) -> NewTenant {
    NewTenant { slug: slug.to_owned(), name: None, plan: None }
}

fn slug(text: &str) -> TenantRef {
    TenantRef::Slug(text.to_owned())
}

#[tokio::test]
async fn a_tenant_is_made_with_and_without_a_spare_slot() {
    let world = World::with(WorldOptions { shards: 2, tenant_cap: 10, slots: 1, tables: &TABLES }).await;
    for (name, ready_at_once) in [("one", true), ("two", true), ("three", false)] {
        let run = world.create(&new(name)).await.unwrap();
        assert_eq!(world.show(name).await.tenant.state == TenantState::Active, ready_at_once, "{name}");
        assert_eq!(world.finish(run).await.state, RunState::Done);
        let shown = world.show(name).await;
        assert_eq!((shown.tenant.state, shown.tenant.run), (TenantState::Active, Some(run)));
        let mut conn = PgConnection::connect_with(&world.tenant_login(&shown)).await.unwrap();
        let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&mut conn).await.unwrap();
        assert_eq!(Some(path), shown.schema);
    }
    assert_eq!(world.orphans().await, Vec::<String>::new());
    // The worker's next round sets each login to its plan; then nothing is amiss.
    slots::refill(&world.hands, slots::Fill::Full).await.unwrap();
    reconcile::repair_logins(&world.hands).await.unwrap();
    let report = doctor::examine(&world.hands, |_| {}).await.unwrap();
    // Databases of other tests on the same server are open, and only a note.
    let ours: Vec<_> =
        report.findings.iter().filter(|finding| !finding.message.starts_with("database")).collect();
    assert!(ours.is_empty() && report.healthy(), "{ours:#?}");
}

#[tokio::test]
async fn suspended_is_shut_at_the_shard_and_resumed_works_again() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    let login = world.tenant_login(&tenant);
    let mut open = PgConnection::connect_with(&login).await.unwrap();

    let run = tenant_suspend(&world.hands.cp, &tester(), &slug("acme"), "test").await.unwrap();
    assert_eq!(world.finish(run).await.state, RunState::Done);
    assert!(
        sqlx::query("SELECT 1").execute(&mut open).await.is_err(),
        "an open session outlived the suspension"
    );
    let refused = PgConnection::connect_with(&login).await.unwrap_err();
    assert_eq!(refused.as_database_error().and_then(|e| e.code()).as_deref(), Some("28000"));
    let again = tenant_suspend(&world.hands.cp, &tester(), &slug("acme"), "again").await.unwrap_err();
    assert!(again.is(&codes::STATE_CONFLICT));

    let run = tenant_resume(&world.hands.cp, &tester(), &slug("acme")).await.unwrap();
    assert_eq!(world.finish(run).await.state, RunState::Done);
    PgConnection::connect_with(&login).await.unwrap();
    assert!(world.show("acme").await.epoch > tenant.epoch);
}

#[tokio::test]
async fn deleted_softly_then_back_then_gone_for_good() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    let cp = &world.hands.cp;
    let run = tenant_delete(cp, &tester(), &slug("acme"), "contract ended").await.unwrap();
    world.finish(run).await;
    assert!(PgConnection::connect_with(&world.tenant_login(&tenant)).await.is_err());
    let taken = world.create(&new("acme")).await.unwrap_err();
    assert!(taken.is(&codes::SLUG_TAKEN), "a slug is kept as long as its tenant can come back");
    let run = tenant_undelete(cp, &tester(), &slug("acme")).await.unwrap();
    world.finish(run).await;
    PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();

    let run = tenant_delete(cp, &tester(), &slug("acme"), "again").await.unwrap();
    world.finish(run).await;
    assert!(tenant_purge(cp, &tester(), &slug("acme"), false).await.unwrap_err().is(&codes::STATE_CONFLICT));
    cp.clock.advance(chrono::Duration::days(31));
    assert_eq!(reconcile::purge_due(cp).await.unwrap(), 1);
    let purge =
        freehold::control_plane::tenants::tenant_show(cp, &TenantRef::Id(tenant.tenant.id)).await.unwrap();
    world.finish(purge.tenant.run.unwrap()).await;
    let gone =
        freehold::control_plane::tenants::tenant_show(cp, &TenantRef::Id(tenant.tenant.id)).await.unwrap();
    assert_eq!((gone.tenant.state, gone.schema), (TenantState::Deleted, None));
    assert_eq!(world.orphans().await, Vec::<String>::new());
    world.tenant("acme").await;
}

/// Shown to fail: `come_back` and `unfence_unless_suspended` as for a resume.
#[tokio::test]
async fn what_was_suspended_comes_back_suspended() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    let cp = &world.hands.cp;
    for (reason, state, shut) in
        [(Some("abuse"), TenantState::Suspended, true), (None, TenantState::Active, false)]
    {
        match reason {
            Some(reason) => {
                let run = tenant_suspend(cp, &tester(), &slug("acme"), reason).await.unwrap();
                world.finish(run).await;
            }
            None => {
                let run = tenant_resume(cp, &tester(), &slug("acme")).await.unwrap();
                world.finish(run).await;
            }
        }
        let run = tenant_delete(cp, &tester(), &slug("acme"), "contract ended").await.unwrap();
        world.finish(run).await;
        assert_eq!(world.show("acme").await.state_reason.as_deref(), Some("contract ended"));
        let run = tenant_undelete(cp, &tester(), &slug("acme")).await.unwrap();
        assert_eq!(world.finish(run).await.state, RunState::Done);
        let back = world.show("acme").await;
        assert_eq!((back.tenant.state, back.state_reason.as_deref()), (state, reason));
        assert_eq!(back.tenant.purge_after, None);
        assert_eq!(PgConnection::connect_with(&world.tenant_login(&tenant)).await.is_err(), shut);
    }
}

/// C7: full shards are passed over, a shard that is down is not chosen, and with none left the answer is a refusal.
#[tokio::test]
async fn placement_passes_over_full_draining_and_silent_shards() {
    let mut world = World::with(WorldOptions { shards: 1, tenant_cap: 1, slots: 0, tables: &TABLES }).await;
    let mut lonely = freehold::testkit::extra_postgres(freehold::local::PostgresOptions {
        fsync: false,
        ..Default::default()
    })
    .await;
    world.add_shard(&lonely.url("postgres"), 100, 1).await.unwrap();
    world.probe().await;
    let first = world.tenant("first").await;
    assert_eq!(first.tenant.shard.as_deref(), Some("shard-2"), "the shard with most room");

    lonely.crash().await;
    let begun = std::time::Instant::now();
    let second = world.tenant("second").await;
    assert_eq!(second.tenant.shard.as_deref(), Some("shard-1"), "the only one that answers");
    let third = world.create(&new("third")).await.unwrap_err();
    assert!(third.is(&codes::NO_CAPACITY), "{third:?}");
    assert!(begun.elapsed().as_secs() < 5);

    lonely.start_again().await.unwrap();
    world.probe().await;
    world.tenant("third").await;
    shard_set_state(&world.hands.cp, &tester(), "shard-2", ShardState::Draining).await.unwrap();
    assert!(world.create(&new("fourth")).await.unwrap_err().is(&codes::NO_CAPACITY));
    let _ = &mut lonely;
}

/// C6 at the service: of a hundred at once, one.
#[tokio::test]
async fn a_hundred_at_once_ask_for_one_slug() {
    let world = World::with(WorldOptions { shards: 2, tenant_cap: 100, slots: 2, tables: &TABLES }).await;
    let asked = (0..100).map(|_| async { world.create(&new("acme")).await });
    let answers = futures_util::future::join_all(asked).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for answer in answers {
        if let Err(error) = answer {
            assert!(error.is(&codes::SLUG_TAKEN), "{error:?}");
        }
    }
    let placed: i64 =
        sqlx::query_scalar("SELECT sum(tenants)::bigint FROM shard").fetch_one(world.db()).await.unwrap();
    assert_eq!(placed, 1);
}

#[tokio::test]
async fn the_cap_holds_under_concurrency() {
    let world = World::with(WorldOptions { shards: 2, tenant_cap: 3, slots: 3, tables: &TABLES }).await;
    let names: Vec<String> = (0..20).map(|n| format!("tenant-{n}")).collect();
    let answers =
        futures_util::future::join_all(names.iter().map(|name| async { world.create(&new(name)).await }))
            .await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 6);
    let over: i64 = sqlx::query_scalar("SELECT count(*) FROM shard WHERE tenants > tenant_cap")
        .fetch_one(world.db())
        .await
        .unwrap();
    assert_eq!(over, 0);
}

/// A10: what a tenant's own login, or an operator's hand, changed is found, and set right where it may be.
#[tokio::test]
async fn drifted_logins_are_found_and_set_right() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    let (shard, _) = world.shard_of(&tenant);
    reconcile::repair_logins(&world.hands).await.unwrap();
    assert!(reconcile::drift(&world.hands, shard).await.unwrap().is_empty());

    let role = tenant.role.clone().unwrap();
    let mut own = PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    for statement in ["SET search_path = public", "SET statement_timeout = 0", "PASSWORD 'mine now'"] {
        let sql = format!("ALTER ROLE {role} {statement}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut own).await.unwrap();
    }
    let found = reconcile::drift(&world.hands, shard).await.unwrap();
    assert!(found.iter().any(|drift| drift.role == role), "{found:?}");
    assert_eq!(reconcile::repair_logins(&world.hands).await.unwrap(), 1);
    assert!(reconcile::drift(&world.hands, shard).await.unwrap().is_empty());
    PgConnection::connect_with(&world.tenant_login(&tenant)).await.expect("the derived password is back");
    let password = format!("ALTER ROLE {role} PASSWORD 'mine alone'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(password)).execute(&mut own).await.unwrap();
    assert_eq!(reconcile::repair_logins(&world.hands).await.unwrap(), 1);
    PgConnection::connect_with(&world.tenant_login(&tenant)).await.expect("and again");

    let mut admin = world.hands.admin(shard).await.unwrap();
    for (break_it, mend_it) in [
        (format!("ALTER ROLE {role} CREATEROLE"), format!("ALTER ROLE {role} NOCREATEROLE")),
        (format!("ALTER ROLE {role} BYPASSRLS"), format!("ALTER ROLE {role} NOBYPASSRLS")),
        (format!("GRANT pg_monitor TO {role}"), format!("REVOKE pg_monitor FROM {role}")),
        (
            format!("GRANT SELECT ON freehold.outbox TO {role}"),
            format!("REVOKE SELECT ON freehold.outbox FROM {role}"),
        ),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(break_it.clone())).execute(&mut *admin).await.unwrap();
        let found = reconcile::drift(&world.hands, shard).await.unwrap();
        assert!(!found.is_empty(), "{break_it} was not found");
        sqlx::raw_sql(sqlx::AssertSqlSafe(mend_it)).execute(&mut *admin).await.unwrap();
    }
    assert!(reconcile::drift(&world.hands, shard).await.unwrap().is_empty());
}

/// A11's watchdog: it ends what is too old and what may not be there, and nobody else.
#[tokio::test]
async fn the_watchdog_ends_only_what_it_must() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    let (shard, _) = world.shard_of(&tenant);
    let login = world.tenant_login(&tenant);
    let mut working = PgConnection::connect_with(&login).await.unwrap();
    let mut idle = PgConnection::connect_with(&login).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT 1").execute(&mut working).await.unwrap();
    assert_eq!(reconcile::watchdog(&world.hands).await.unwrap(), 0);
    for conn in [&mut working, &mut idle] {
        sqlx::query("SELECT 1").execute(conn).await.unwrap();
    }
    // Shut by hand, without the fence that ends sessions: the watchdog makes up for it.
    let shut = format!("ALTER ROLE {} NOLOGIN", tenant.role.as_deref().unwrap());
    let mut admin = world.hands.admin(shard).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(shut)).execute(&mut *admin).await.unwrap();
    assert_eq!(reconcile::watchdog(&world.hands).await.unwrap(), 2);
    sqlx::query("SELECT 1").execute(&mut *admin).await.expect("the admin's own session is left alone");
    assert!(sqlx::query("SELECT 1").execute(&mut idle).await.is_err());
}

/// A managed server gives no superuser. With an admin that may make roles, owns the database and may end sessions,
/// everything works but the revocations on the server's own catalogue, and `doctor` lists those.
#[tokio::test]
async fn a_shard_works_with_an_admin_that_is_no_superuser() {
    let mut world = World::with(WorldOptions { shards: 0, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    let server = Cluster::shared().await.server(1);
    let database = server.create_database("managed", None).await;
    let make = format!(
        "CREATE ROLE \"{database}_admin\" LOGIN CREATEROLE PASSWORD 'managed'; GRANT pg_signal_backend, pg_read_all_stats TO \"{database}_admin\";
         ALTER DATABASE \"{database}\" OWNER TO \"{database}_admin\"; ALTER SCHEMA public OWNER TO \"{database}_admin\""
    );
    let mut superuser = PgConnection::connect(&server.admin_url(&database)).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(make)).execute(&mut superuser).await.unwrap();
    let url = format!("postgres://{database}_admin:managed@127.0.0.1:{}/{database}", server.port());
    world.add_shard(&url, 10, 1).await.unwrap();

    let tenant = world.tenant("acme").await;
    PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    reconcile::repair_logins(&world.hands).await.unwrap();
    let run = tenant_suspend(&world.hands.cp, &tester(), &slug("acme"), "test").await.unwrap();
    assert_eq!(world.finish(run).await.state, RunState::Done);
    assert!(PgConnection::connect_with(&world.tenant_login(&tenant)).await.is_err());
    let run = tenant_resume(&world.hands.cp, &tester(), &slug("acme")).await.unwrap();
    assert_eq!(world.finish(run).await.state, RunState::Done);
    let mut session = PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    slots::refill(&world.hands, slots::Fill::Full).await.unwrap();
    let report = doctor::examine(&world.hands, |_| {}).await.unwrap();
    assert!(report.healthy(), "{:#?}", report.findings);
    assert!(
        report.findings.iter().any(|finding| finding.check == "open_to_public"),
        "what stays open is said"
    );

    let run = tenant_delete(&world.hands.cp, &tester(), &slug("acme"), "test").await.unwrap();
    world.finish(run).await;
    assert!(sqlx::query("SELECT 1").execute(&mut session).await.is_err());
    let run = tenant_purge(&world.hands.cp, &tester(), &slug("acme"), true).await.unwrap();
    assert_eq!(world.finish(run).await.state, RunState::Done);
    assert_eq!(world.orphans().await, Vec::<String>::new());
}

/// The older half of the tables first, then all of them: tenants and spare slots alike are brought up, and one that
/// fails stays behind alone.
#[tokio::test]
async fn tenants_are_brought_to_a_newer_version() {
    static OLD: std::sync::LazyLock<sqlx::migrate::Migrator> = std::sync::LazyLock::new(|| {
        sqlx::migrate::Migrator::with_migrations(TABLES.iter().take(1).cloned().collect())
    });
    let mut world = World::with(WorldOptions { shards: 2, tenant_cap: 10, slots: 1, tables: &OLD }).await;
    let good = world.tenant("good").await;
    let bad = world.tenant("bad").await;
    assert_eq!(good.version, Some(1));
    let (shard, _) = world.shard_of(&bad);
    let in_the_way = format!("CREATE TABLE {}.projects (x int)", bad.schema.as_deref().unwrap());
    sqlx::raw_sql(sqlx::AssertSqlSafe(in_the_way))
        .execute(&mut *world.hands.admin(shard).await.unwrap())
        .await
        .unwrap();

    world.hands.cp.tables = &TABLES;
    slots::refill(&world.hands, slots::Fill::Full).await.unwrap();
    let outcomes = fleet::migrate_tenants(&world.hands, |_| {}).await.unwrap();
    let failed: Vec<_> =
        outcomes.iter().filter(|outcome| outcome.error.is_some()).map(|outcome| &outcome.name).collect();
    assert_eq!(failed, ["bad"]);
    let newest = world.hands.cp.schema_version();
    assert_eq!((world.show("good").await.version, world.show("bad").await.version), (Some(newest), Some(1)));
    PgConnection::connect_with(&world.tenant_login(&bad)).await.expect("served as before");
    let stale: i64 = sqlx::query_scalar("SELECT count(*) FROM slot WHERE state = 'ready' AND version <> $1")
        .bind(newest)
        .fetch_one(world.db())
        .await
        .unwrap();
    assert_eq!(stale, 0);
    assert!(
        fleet::migrate_shards(&world.hands, |_| {})
            .await
            .unwrap()
            .iter()
            .all(|outcome| outcome.error.is_none())
    );
}

/// The secret behind a shard's reference is read again when the login it gave is refused.
#[tokio::test]
async fn a_rotated_admin_password_is_picked_up() {
    let mut world = World::with(WorldOptions { shards: 0, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    let server = Cluster::shared().await.server(0);
    let database = server.create_database("rotating", None).await;
    let mut superuser = PgConnection::connect(&server.admin_url(&database)).await.unwrap();
    let mut say = async |sql: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap();
    };
    say(format!("CREATE ROLE \"{database}_admin\" SUPERUSER LOGIN PASSWORD 'old'")).await;
    let url = |password: &str| {
        format!("postgres://{database}_admin:{password}@127.0.0.1:{}/{database}", server.port())
    };
    world.add_shard(&url("old"), 10, 0).await.unwrap();
    say(format!("ALTER ROLE \"{database}_admin\" PASSWORD 'new'")).await;
    say(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{database}_admin'"))
        .await;
    std::fs::write(world.folder.path().join("shard-1"), url("new")).unwrap();
    let shard = world.shards[0].clone();
    freehold::testkit::eventually(
        std::time::Duration::from_secs(10),
        "the new password is used",
        async || {
            let mut conn = world.hands.admin(&shard).await.map_err(|error| error.to_string())?;
            sqlx::query("SELECT 1").execute(&mut *conn).await.map(drop).map_err(|error| error.to_string())
        },
    )
    .await;
}
