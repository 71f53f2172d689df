//! Shards that are away, workers that meet, and what is left when both are over: nothing waits for ever, nothing waits for
//! somebody else's shard, and nothing needs a person.

use std::time::Duration;

use freehold::control_plane::access::tenant_suspend;
use freehold::control_plane::provisioning::NewTenant;
use freehold::control_plane::slots::{self, slot_claim, slot_fill};
use freehold::control_plane::tenants::TenantRef;
use freehold::control_plane::{doctor, reconcile, worker};
use freehold::db::schema::Schema;
use freehold::jobs::queue::{self, JobState, job_add, job_close, job_lease, job_list, job_sweep};
use freehold::jobs::run::{RunState, run_by_id};
use freehold::jobs::saga;
use freehold::kernel::ids::RunId;
use freehold::kernel::{Error, codes};
use freehold::local::PostgresOptions;
use freehold::testkit::{World, WorldOptions, eventually, extra_postgres, tester};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::provisioning::TABLES;

/// Enough that they would take the places for half a minute.
const SILENCED: usize = 40;

fn named(slug: &str) -> TenantRef {
    TenantRef::Slug(slug.to_owned())
}

/// Points every shard's admin at a port where nobody listens, or back at its server.
async fn shards_away(world: &World, away: bool) {
    for (index, url) in world.shard_urls.iter().enumerate() {
        let mut parsed = reqwest::Url::parse(url).unwrap();
        if away {
            parsed.set_port(Some(1)).unwrap();
        }
        std::fs::write(world.folder.path().join(format!("shard-{}", index + 1)), parsed.as_str()).unwrap();
        world.hands.admins.forget(world.shards[index].id);
    }
}

async fn due_now(world: &World, run: RunId, attempts: i32) {
    sqlx::query("UPDATE run SET not_before = clock_timestamp(), attempts = $2 WHERE id = $1")
        .bind(run)
        .bind(attempts)
        .execute(world.db())
        .await
        .unwrap();
}

/// A suspended tenant's login is shut when its shard comes back, however long that takes.
#[tokio::test]
async fn a_run_outlives_any_outage_of_its_shard() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    shards_away(&world, true).await;
    let run = tenant_suspend(&world.hands.cp, &tester(), &named("acme"), "abuse").await.unwrap();
    due_now(&world, run, 500).await;
    let held = saga::lease(world.db(), "test", Some(run)).await.unwrap().unwrap();
    freehold::control_plane::runs::drive(&world.hands, &held).await.unwrap();
    let waiting = run_by_id(&mut world.db().acquire().await.unwrap(), run).await.unwrap();
    assert_eq!(waiting.state, RunState::Pending, "{:?}", waiting.error);

    shards_away(&world, false).await;
    due_now(&world, run, 501).await;
    assert_eq!(world.finish(run).await.state, RunState::Done);
    assert!(PgConnection::connect_with(&world.tenant_login(&tenant)).await.is_err());
}

/// Ten purges that wait for their shard do not keep the eleventh waiting.
#[tokio::test]
async fn a_purge_that_cannot_go_on_does_not_hold_up_the_others() {
    let world = World::new(&TABLES).await;
    let cp = &world.hands.cp;
    for number in 0..11 {
        let slug = format!("gone-{number}");
        world.create(&NewTenant { slug: slug.clone(), name: None, plan: None }).await.unwrap();
    }
    // As if made and deleted long ago: only the records matter here.
    sqlx::raw_sql(
        "UPDATE run SET state = 'done', finished_at = now();
         UPDATE tenant SET state = 'deleting', purge_after = now() - interval '1 day'",
    )
    .execute(world.db())
    .await
    .unwrap();
    assert_eq!(reconcile::purge_due(cp).await.unwrap(), 10);
    assert_eq!(reconcile::purge_due(cp).await.unwrap(), 1, "the ten are under way");
    assert_eq!(reconcile::purge_due(cp).await.unwrap(), 0);
}

async fn spare(world: &World) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM slot WHERE state = 'ready'").fetch_one(world.db()).await.unwrap()
}

/// Workers that are woken by the same notification make what is missing once.
#[tokio::test]
async fn slots_are_filled_once_by_many_workers() {
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    let shard = &world.shards[0];
    let fill = || slot_fill(&world.hands, shard, 3, || {});
    let (a, b, c) = tokio::join!(fill(), fill(), fill());
    assert_eq!(a.unwrap() + b.unwrap() + c.unwrap(), 3);
    assert_eq!(spare(&world).await, 3);
}

/// While two versions run, the older workers take the newer slots as they are, and do not make others without end.
#[tokio::test]
async fn slots_of_a_newer_version_count_and_can_be_claimed() {
    static OLD: std::sync::LazyLock<sqlx::migrate::Migrator> = std::sync::LazyLock::new(|| {
        sqlx::migrate::Migrator::with_migrations(TABLES.iter().take(1).cloned().collect())
    });
    let mut world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 2, tables: &TABLES }).await;
    world.hands.cp.tables = &OLD;
    assert_eq!(slots::refill(&world.hands, slots::Fill::Full).await.unwrap(), 0);
    let mut control = world.db().acquire().await.unwrap();
    let version = world.hands.cp.schema_version();
    assert!(slot_claim(&mut control, world.shards[0].id, version).await.unwrap().is_some());
}

/// A shard that is away keeps its broken slots to itself.
#[tokio::test]
async fn slots_of_a_shard_that_is_away_wait_and_the_others_are_repaired() {
    let world = World::with(WorldOptions { shards: 2, tenant_cap: 10, slots: 1, tables: &TABLES }).await;
    sqlx::query("UPDATE slot SET state = 'broken'").execute(world.db()).await.unwrap();
    sqlx::query("UPDATE shard SET last_failure = 'away' WHERE name = 'shard-1'")
        .execute(world.db())
        .await
        .unwrap();
    slots::repair(&world.hands).await.unwrap();
    let left: Vec<String> =
        sqlx::query_scalar("SELECT shard.name FROM slot JOIN shard ON shard.id = slot.shard")
            .fetch_all(world.db())
            .await
            .unwrap();
    assert_eq!(left, ["shard-1"]);
}

/// Two migrations of one schema at once: its statements are carried out once.
#[tokio::test]
async fn a_schema_is_migrated_once_by_two_at_once() {
    static OLD: std::sync::LazyLock<sqlx::migrate::Migrator> = std::sync::LazyLock::new(|| {
        sqlx::migrate::Migrator::with_migrations(TABLES.iter().take(1).cloned().collect())
    });
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &OLD }).await;
    let tenant = world.tenant("acme").await;
    let (shard, _) = world.shard_of(&tenant);
    let migrate = async || {
        let fence = slots::next_fence(&mut *world.db().acquire().await?).await?;
        let schema = Schema {
            name: tenant.schema.as_deref().unwrap(),
            database: shard.database()?,
            credential_version: 1,
            fence: Some(fence),
        };
        schema.migrate(&mut *world.hands.admin(shard).await?, &TABLES).await
    };
    let newest = freehold::db::migrations::target(&TABLES);
    let (one, other) = tokio::join!(migrate(), migrate());
    for outcome in [one, other] {
        match outcome {
            Ok(version) => assert_eq!(version, newest),
            // The lower number came second.
            Err(error) => assert!(error.is(&codes::CONFLICT), "{error:?}"),
        }
    }
}

/// A login that is gone for good does not keep the others from being set right.
#[tokio::test]
async fn one_login_beyond_repair_does_not_keep_the_others_from_theirs() {
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 3, tables: &TABLES }).await;
    let names: Vec<String> = sqlx::query_scalar("SELECT schema_name FROM slot ORDER BY schema_name")
        .fetch_all(world.db())
        .await
        .unwrap();
    let mut admin = world.shard_conn(0).await;
    let mut say = async |sql: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *admin).await.unwrap();
    };
    for name in &names {
        say(format!("ALTER ROLE {name} SET work_mem = '1GB'")).await;
    }
    let gone = &names[1];
    say(format!("DROP SCHEMA {gone} CASCADE; DROP OWNED BY {gone}; DROP ROLE {gone}")).await;
    assert_eq!(reconcile::repair_logins(&world.hands).await.unwrap(), 2);
    let left = reconcile::drift(&world.hands, &world.shards[0]).await.unwrap();
    assert_eq!(left.iter().map(|drift| &drift.role).collect::<Vec<_>>(), [gone]);
}

/// `doctor` is for bad days: a shard that it cannot read is one finding among the others.
#[tokio::test]
async fn doctor_reports_a_shard_it_cannot_read() {
    let world = World::new(&TABLES).await;
    sqlx::raw_sql("ALTER SCHEMA freehold RENAME TO elsewhere")
        .execute(&mut *world.shard_conn(0).await)
        .await
        .unwrap();
    let report = doctor::examine(&world.hands, |_| {}).await.unwrap();
    let unreadable: Vec<_> = report.findings.iter().filter(|finding| finding.check == "unreadable").collect();
    assert_eq!(unreadable.iter().map(|finding| finding.place.as_str()).collect::<Vec<_>>(), ["shard-1"]);
}

/// A job that failed while the same was asked for again makes room for it; a person's retry says so.
#[tokio::test]
async fn a_failed_job_gives_way_to_the_same_that_waits() {
    let world = World::new(&TABLES).await;
    let now = world.hands.cp.clock.now();
    let mut control = world.db().acquire().await.unwrap();
    let add = async |control: &mut PgConnection| {
        job_add(control, "test", None, Some("key"), json!({}), now).await.unwrap();
    };
    add(&mut control).await;
    let first = job_lease(world.db()).await.unwrap().unwrap();
    add(&mut control).await;
    job_close(world.db(), &first, &Err(Error::new(&codes::TIMEOUT))).await.unwrap();
    let second = job_lease(world.db()).await.unwrap().expect("the one that waits");
    assert_ne!(second.id, first.id);
    assert!(job_lease(world.db()).await.unwrap().is_none(), "the first is not done again");

    sqlx::query("UPDATE job SET state = 'dead' WHERE id = $1")
        .bind(first.id)
        .execute(world.db())
        .await
        .unwrap();
    job_close(world.db(), &second, &Err(Error::new(&codes::TIMEOUT))).await.unwrap();
    let refused = queue::job_retry(&mut control, first.id).await.unwrap_err();
    assert!(refused.is(&codes::STATE_CONFLICT), "{refused:?}");

    // Long after it was done, what is done is forgotten, however long it took; what is dead is not.
    let lately = now + chrono::Duration::days(6);
    sqlx::query("UPDATE job SET state = 'done', finished_at = $2 WHERE id = $1")
        .bind(second.id)
        .bind(lately)
        .execute(world.db())
        .await
        .unwrap();
    job_sweep(&mut control, now + chrono::Duration::days(8)).await.unwrap();
    assert_eq!(job_list(&mut control, &queue::JobFilter::default()).await.unwrap().items.len(), 2);
    job_sweep(&mut control, lately + chrono::Duration::days(8)).await.unwrap();
    let left = job_list(&mut control, &queue::JobFilter::default()).await.unwrap().items;
    assert_eq!(left.iter().map(|job| (job.id, job.state)).collect::<Vec<_>>(), [(first.id, JobState::Dead)]);
}

/// A job that takes its worker down each time is given up like any other.
#[tokio::test]
async fn a_job_whose_workers_die_is_given_up() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    let mut control = world.db().acquire().await.unwrap();
    sqlx::query("DELETE FROM job").execute(&mut *control).await.unwrap();
    let now = world.hands.cp.clock.now();
    job_add(&mut control, "align_login", Some(tenant.tenant.id), None, json!({}), now).await.unwrap();
    sqlx::query("UPDATE job SET attempts = max_attempts").execute(&mut *control).await.unwrap();
    let held = job_lease(world.db()).await.unwrap().unwrap();
    let outcome = reconcile::do_job(&world.hands, &held).await;
    assert!(outcome.is_err());
    job_close(world.db(), &held, &outcome).await.unwrap();
    let dead = queue::JobFilter { state: Some(JobState::Dead), ..Default::default() };
    assert_eq!(job_list(&mut control, &dead).await.unwrap().items.len(), 1);
}

/// Many runs of a shard that takes connections and never answers do not keep the places from the runs of another. Each
/// of the first would wait three seconds, four at a time. Shown to fail: without `expect_answer` in `Hands::admin`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_a_silent_shard_do_not_hold_up_those_of_another() {
    let mut world = World::with(WorldOptions { shards: 0, tenant_cap: 100, slots: 0, tables: &TABLES }).await;
    let silent = extra_postgres(PostgresOptions { fsync: false, ..Default::default() }).await;
    world.add_shard(&silent.url("postgres"), 100, 0).await.unwrap();
    for tenant in 0..SILENCED {
        world.tenant(&format!("silent-{tenant}")).await;
    }
    world.add_shard(&World::shard_database(0).await, 1_000, 0).await.unwrap();
    let well = world.tenant("well").await;
    assert_eq!(world.shard_of(&well).0.name, "shard-2");

    silent.pause().await;
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker::work(world.hands.clone(), stop.clone()));
    eventually(Duration::from_secs(20), "the silence is noticed", async || {
        let failure: Option<String> =
            sqlx::query_scalar("SELECT last_failure FROM shard WHERE name = 'shard-1'")
                .fetch_one(world.db())
                .await
                .unwrap();
        failure.map(drop).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let cp = &world.hands.cp;
    for tenant in 0..SILENCED {
        tenant_suspend(cp, &tester(), &named(&format!("silent-{tenant}")), "test").await.unwrap();
    }
    let run = tenant_suspend(cp, &tester(), &named("well"), "test").await.unwrap();
    eventually(Duration::from_secs(15), "the other shard's run is done", async || {
        let state = run_by_id(&mut world.db().acquire().await.unwrap(), run).await.unwrap().state;
        if state == RunState::Done { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
    silent.resume().await;
    eventually(Duration::from_secs(60), "the others are done when their shard is back", async || {
        let open: i64 = sqlx::query_scalar("SELECT count(*) FROM run WHERE state NOT IN ('done', 'undone')")
            .fetch_one(world.db())
            .await
            .unwrap();
        if open == 0 { Ok(()) } else { Err(format!("{open} are open")) }
    })
    .await;
    stop.cancel();
    working.await.unwrap();
}
