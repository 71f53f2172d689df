//! Jobs in tenants' schemas (trust A9): on the right tenant's rows, whatever becomes of the worker.

use std::path::Path;
use std::time::Duration;

use freehold::app;
use freehold::control_plane::{Hands, reconcile, tenant_jobs, worker};
use freehold::data_plane::{RegularJob, TenantContext, idempotency};
use freehold::db::admin::ShardAdmins;
use freehold::db::control;
use freehold::jobs::queue::{job_add, job_close, job_lease};
use freehold::kernel::{Error, Result};
use freehold::product::opsflow::trim;
use freehold::product::{Current, Product};
use freehold::testkit::fire::jobs::{self, Plan, inside};
use freehold::testkit::{World, eventually};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

/// The real worker, killed at each moment of a job and at any. Shown to fail: let `TenantJobs::carry_out` fall back on
/// some tenant when a job names none, or do every job in the tenant of the one before: rows of other tenants go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_killed_workers_touch_their_own_tenants_rows_only() {
    let world = World::new(Current::migrations()).await;
    let plan = Plan { tenants: 2, rounds: 3, jobs: 6 };
    let report = jobs::run(&world, Path::new(env!("CARGO_BIN_EXE_freehold")), plan).await;
    assert_eq!((report.lost, report.left, report.foreign, report.unfinished), (0, 0, 0, 0), "{report:#?}");
    assert_eq!(report.refused, report.without_tenant, "a job without a tenant was done: {report:#?}");
    assert_eq!(report.killed_at_a_point, plan.rounds, "{report:#?}");
    assert!(report.taken_over > 0, "nothing was taken over, so this shows little: {report:#?}");
}

/// A product whose job leaves a row that says for whom it was meant and who wrote it.
struct Stamping;

impl Product for Stamping {
    const NAME: &'static str = "Stamping";
    const REGULAR_JOBS: &'static [RegularJob] =
        &[RegularJob { kind: "stamp", every: Duration::from_secs(3600) }];

    fn migrations() -> &'static sqlx::migrate::Migrator {
        Current::migrations()
    }

    fn routes() -> OpenApiRouter {
        OpenApiRouter::new()
    }

    async fn demo(_: &TenantContext) -> Result<()> {
        Ok(())
    }

    async fn forget_person(_: &TenantContext, _: &str) -> Result<()> {
        Ok(())
    }

    async fn job(tenant: &TenantContext, kind: &str, payload: &Value) -> Result<()> {
        if kind != "stamp" {
            return Err(Error::internal("not mine"));
        }
        // A regular job says nothing; then it is meant for whoever it is done for.
        let meant = payload["role"].as_str().map(str::to_owned);
        let id = &tenant.request_id;
        tenant
            .write(async move |conn| {
                sqlx::query(
                    "INSERT INTO idempotency (actor, key, request_hash)
                     VALUES (coalesce($1, session_user), $2 || ' by ' || session_user, '\\x00')
                     ON CONFLICT DO NOTHING",
                )
                .bind(meant)
                .bind(id)
                .execute(conn)
                .await?;
                Ok(())
            })
            .await
    }
}

/// What a doomed worker calls itself in the control database.
const DOOMED: &str = "doomed";

/// A worker in a runtime of its own, which can be ended in the middle of anything.
fn worker_of(world: &World) -> Runtime {
    let runtime = Runtime::new().unwrap();
    let inside = runtime.enter();
    let mut hands = Hands { admins: ShardAdmins::with(world.hands.master.clone()), ..world.hands.clone() };
    hands.cp.db = control::pool(&SecretString::from(world.control_url.clone()), DOOMED).unwrap();
    hands.tenant_jobs = app::tenant_jobs::<Stamping>(&hands);
    tokio::spawn(worker::work(hands, CancellationToken::new()));
    drop(inside);
    runtime
}

/// What a job writes is in its own tenant's schema, by its own tenant's login, once. Shown to fail: as above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_write_into_their_own_tenants_schema_only() {
    const EACH: usize = 30;
    let world = World::new(Current::migrations()).await;
    let mut tenants = Vec::new();
    for slug in ["alpha", "beta", "gamma"] {
        tenants.push(world.tenant_with(slug, "free").await);
    }
    let now = world.hands.cp.clock.now();
    let mut tx = world.db().begin().await.unwrap();
    for _ in 0..EACH {
        for tenant in &tenants {
            let payload = json!({ "role": tenant.role });
            job_add(&mut tx, "stamp", Some(tenant.tenant.id), None, payload, now).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
    let done = async || -> i64 {
        let sql = "SELECT count(*) FROM job WHERE state = 'done' AND kind = 'stamp'";
        sqlx::query_scalar(sql).fetch_one(world.db()).await.unwrap()
    };
    for wanted in [5, 25, 50, i64::try_from(EACH * tenants.len()).unwrap()] {
        let runtime = worker_of(&world);
        eventually(Duration::from_secs(60), "some jobs are done", async || {
            let done = done().await;
            if done >= wanted { Ok(()) } else { Err(format!("{done} of {wanted}")) }
        })
        .await;
        runtime.shutdown_background();
        jobs::end_leases(&world, DOOMED).await;
    }
    for tenant in &tenants {
        let own = tenant.role.as_deref().unwrap();
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT actor, key FROM idempotency")
            .fetch_all(&mut inside(&world, tenant).await)
            .await
            .unwrap();
        assert_eq!(rows.len(), EACH, "{rows:?}");
        for (meant, key) in &rows {
            assert!(meant == own && key.ends_with(&format!(" by {own}")), "in {own}: {meant} {key}");
        }
    }
}

/// Each active tenant gets its regular job when its time has come, and not again before the next.
#[tokio::test]
async fn regular_jobs_come_when_they_are_due() {
    let world = World::new(Current::migrations()).await;
    for slug in ["one", "two"] {
        world.tenant_with(slug, "free").await;
    }
    let mut hands = world.hands.clone();
    assert_eq!(tenant_jobs::add_due(&hands).await.unwrap(), 0, "without a product there are none");
    hands.tenant_jobs = app::tenant_jobs::<Current>(&hands);
    assert_eq!(tenant_jobs::add_due(&hands).await.unwrap(), 0, "too young to have anything to trim");
    hands.cp.clock.advance(chrono::Duration::hours(25));
    assert_eq!(tenant_jobs::add_due(&hands).await.unwrap(), 4, "the platform's and the product's");
    assert_eq!(tenant_jobs::add_due(&hands).await.unwrap(), 0, "they have theirs for today");
    hands.cp.clock.advance(chrono::Duration::hours(25));
    sqlx::query("UPDATE job SET state = 'done'").execute(world.db()).await.unwrap();
    sqlx::query("UPDATE tenant SET state = 'suspended' WHERE slug = 'one'")
        .execute(world.db())
        .await
        .unwrap();
    assert_eq!(tenant_jobs::add_due(&hands).await.unwrap(), 2, "a suspended tenant is left alone");
    let kinds: Vec<String> = sqlx::query_scalar("SELECT DISTINCT kind FROM job ORDER BY kind")
        .fetch_all(world.db())
        .await
        .unwrap();
    assert_eq!(kinds, [idempotency::TIDY.kind, trim::KIND]);
}

/// An adopter's product need not know of it. Should fail: leave `TIDY` out of what `app::tenant_jobs` makes regular.
#[tokio::test]
async fn kept_answers_go_whatever_the_product() {
    let world = World::new(Current::migrations()).await;
    let quiet = world.tenant_with("quiet", "free").await;
    let mut own = inside(&world, &quiet).await;
    for (key, hours) in [("old", 25), ("young", 1)] {
        sqlx::query(
            "INSERT INTO idempotency (actor, key, request_hash, created_at)
             VALUES ('a client', $1, '\\x00', now() - make_interval(hours => $2))",
        )
        .bind(key)
        .bind(hours)
        .execute(&mut own)
        .await
        .unwrap();
    }
    let mut hands = world.hands.clone();
    hands.tenant_jobs = app::tenant_jobs::<Stamping>(&hands);
    hands.cp.clock.advance(chrono::Duration::hours(25));
    assert_eq!(tenant_jobs::add_due(&hands).await.unwrap(), 2, "the platform's and the product's");
    while let Some(job) = job_lease(world.db()).await.unwrap() {
        let done = reconcile::do_job(&hands, &job).await;
        job_close(world.db(), &job, &done).await.unwrap();
        done.unwrap();
    }
    let left: Vec<String> = sqlx::query_scalar("SELECT key FROM idempotency WHERE actor = 'a client'")
        .fetch_all(&mut own)
        .await
        .unwrap();
    assert_eq!(left, ["young"]);
}
