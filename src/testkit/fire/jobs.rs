//! Jobs of many tenants, interleaved, on workers that are killed (A9). What is looked at is OpsFlow's trim on the real
//! `freehold worker`: half of the tenants are told to keep ten days of activity and half four hundred, so a trim that
//! lands in another schema takes rows that had to stay, or leaves rows that had to go. Tenants without a job keep all. Beside
//! it goes the platform's own job, which takes the answers that were kept for repeats.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};

use crate::control_plane::tenants::TenantDetail;
use crate::data_plane::idempotency;
use crate::jobs::faults::Moment;
use crate::jobs::queue::job_add;
use crate::product::opsflow::trim;
use crate::testkit::load::scatter;
use crate::testkit::{World, eventually};

/// Long enough for a worker to start and to do all that is left.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rows of each age that every tenant gets in every round.
const ROWS: i64 = 200;
/// Ages in days: below every limit, between the two, above both.
const AGES: [i32; 3] = [1, 20, 500];

/// When a worker kills itself: a job's record is one statement, so there is nothing between it and its commit.
const MOMENTS: [Moment; 3] = [Moment::BeforeEffect, Moment::AfterEffect, Moment::AfterRecord];

/// How much is done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Tenants of each sort: short memory, long memory, no jobs.
    pub tenants: usize,
    pub rounds: usize,
    /// Jobs of each tenant in each round.
    pub jobs: usize,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub jobs: usize,
    /// Workers killed with jobs in hand: at a fault point, and at any moment.
    pub killed_at_a_point: usize,
    pub killed_anywhere: usize,
    /// Jobs that were begun again after their worker was killed.
    pub taken_over: usize,
    /// Rows that went though no job of their own tenant removes them.
    pub lost: i64,
    /// Rows that a job of their own tenant had to remove and that are still there.
    pub left: i64,
    /// Rows that bear another tenant's stamp.
    pub foreign: i64,
    /// Jobs of tenants that did not end as done.
    pub unfinished: i64,
    /// Jobs without a tenant that were asked for, and that were refused.
    pub without_tenant: i64,
    pub refused: i64,
    pub seconds: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Memory {
    Short,
    Long,
    NoJobs,
}

impl Memory {
    fn days(self) -> Option<u16> {
        match self {
            Self::Short => Some(10),
            Self::Long => Some(400),
            Self::NoJobs => None,
        }
    }

    /// Whether rows of this age stay.
    fn keeps(self, age: i32) -> bool {
        self.days().is_none_or(|days| age < i32::from(days))
    }
}

struct Scene<'a> {
    world: &'a World,
    /// The `freehold` binary.
    program: &'a Path,
    tenants: Vec<(TenantDetail, Memory)>,
}

/// Runs the rounds. `program` is the `freehold` binary.
///
/// # Panics
/// When a worker does not do what it has to in a minute.
pub async fn run(world: &World, program: &Path, plan: Plan) -> Report {
    let begun = Instant::now();
    let mut tenants = Vec::new();
    for index in 0..plan.tenants {
        for (sort, memory) in [("short", Memory::Short), ("long", Memory::Long), ("none", Memory::NoJobs)] {
            tenants.push((world.tenant_with(&format!("{sort}-{index}"), "free").await, memory));
        }
    }
    let scene = Scene { world, program, tenants };
    let mut report = Report::default();
    for round in 0..plan.rounds {
        scene.round(round, plan.jobs, &mut report).await;
    }
    scene.count(plan.rounds, &mut report).await;
    report.seconds = begun.elapsed().as_secs_f64();
    report
}

impl Scene<'_> {
    async fn round(&self, round: usize, jobs: usize, report: &mut Report) {
        for (tenant, _) in &self.tenants {
            plant(&mut inside(self.world, tenant).await, &tenant.tenant.slug, round).await;
        }
        report.jobs += self.ask(jobs).await;
        report.without_tenant += 1;
        let moment = MOMENTS[round % MOMENTS.len()];
        report.killed_at_a_point += usize::from(self.die_at(moment, round).await);
        end_leases(self.world, WORKER).await;
        report.killed_anywhere += usize::from(self.die_anywhere(round).await);
        end_leases(self.world, WORKER).await;
        let mut worker = self.worker(&[]);
        eventually(PATIENCE, "every job is done or dead", async || {
            let open = self.jobs_in("SELECT count(*) FROM job WHERE state IN ('ready', 'running')").await;
            if open == 0 { Ok(()) } else { Err(format!("{open} jobs are open")) }
        })
        .await;
        worker.kill().await.expect("our own process");
    }

    /// Adds the tenants' jobs in turn, and one that names no tenant.
    async fn ask(&self, jobs: usize) -> usize {
        let now = self.world.hands.cp.clock.now();
        let mut tx = self.world.db().begin().await.expect("the control database");
        let mut asked = 0;
        for _ in 0..jobs {
            for (tenant, memory) in &self.tenants {
                let Some(days) = memory.days() else { continue };
                let payload = json!({ "activity_days": days });
                job_add(&mut tx, trim::KIND, Some(tenant.tenant.id), None, payload, now)
                    .await
                    .expect("a job");
                asked += 1;
            }
        }
        for (tenant, _) in self.tenants.iter().filter(|(_, memory)| memory.days().is_some()) {
            job_add(&mut tx, idempotency::TIDY.kind, Some(tenant.tenant.id), None, json!({}), now)
                .await
                .expect("a job");
            asked += 1;
        }
        job_add(&mut tx, trim::KIND, None, None, json!({ "activity_days": 1 }), now).await.expect("a job");
        // Once is enough to be refused; the other attempts would only make everyone wait.
        sqlx::query("UPDATE job SET max_attempts = 1 WHERE tenant IS NULL")
            .execute(&mut *tx)
            .await
            .expect("a job");
        tx.commit().await.expect("the control database");
        asked
    }

    fn worker(&self, settings: &[(&str, &str)]) -> Child {
        Command::new(self.program)
            .arg("worker")
            .env_clear()
            .env("FREEHOLD_CONTROL_URL", &self.world.control_url)
            .env("FREEHOLD_MASTER_KEY", &self.world.master_hex)
            .env("FREEHOLD_HOME", self.world.folder.path())
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the freehold binary")
    }

    /// A worker that kills itself at this moment of a trim. Whether it did.
    async fn die_at(&self, moment: Moment, round: usize) -> bool {
        let fault = format!("job:{}:{}", trim::KIND, moment.as_str());
        let mark = self.world.folder.path().join(format!("job-fault-{round}"));
        let mark_text = mark.to_string_lossy();
        let mut worker = self.worker(&[("FREEHOLD_FAULT", &fault), ("FREEHOLD_FAULT_MARK", &mark_text)]);
        tokio::time::timeout(PATIENCE, worker.wait()).await.expect("it dies").expect("our own process");
        mark.exists()
    }

    /// A worker that is killed from outside, with jobs in hand. Whether it had any.
    async fn die_anywhere(&self, round: usize) -> bool {
        let mut worker = self.worker(&[]);
        eventually(PATIENCE, "a job is in hand, or all are done", async || {
            let busy = "SELECT count(*) FROM job WHERE state = 'running'";
            let open = "SELECT count(*) FROM job WHERE state = 'ready'";
            if self.jobs_in(busy).await > 0 || self.jobs_in(open).await == 0 {
                Ok(())
            } else {
                Err("not yet")
            }
        })
        .await;
        tokio::time::sleep(Duration::from_micros(scatter(round) as u64 % 8_000)).await;
        worker.kill().await.expect("our own process");
        self.jobs_in("SELECT count(*) FROM job WHERE state = 'running'").await > 0
    }

    async fn jobs_in(&self, count: &'static str) -> i64 {
        sqlx::query_scalar(count).fetch_one(self.world.db()).await.expect("the control database")
    }

    async fn count(&self, rounds: usize, report: &mut Report) {
        let rounds = i64::try_from(rounds).expect("few rounds");
        for (tenant, memory) in &self.tenants {
            let mut conn = inside(self.world, tenant).await;
            for age in AGES {
                let (there, foreign) = activity(&mut conn, &tenant.tenant.slug, age).await;
                report.foreign += foreign;
                let wanted = if memory.keeps(age) { rounds * ROWS } else { 0 };
                report.lost += (wanted - there).max(0);
                report.left += (there - wanted).max(0);
            }
            let expired: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM idempotency WHERE created_at < clock_timestamp() - interval '1 day'",
            )
            .fetch_one(&mut conn)
            .await
            .expect("the tenant's schema");
            match memory {
                Memory::NoJobs => report.lost += rounds * ROWS - expired,
                _ => report.left += expired,
            }
        }
        report.unfinished =
            self.jobs_in("SELECT count(*) FROM job WHERE tenant IS NOT NULL AND state <> 'done'").await;
        report.refused =
            self.jobs_in("SELECT count(*) FROM job WHERE tenant IS NULL AND state = 'dead'").await;
        let again = self.jobs_in("SELECT count(*) FROM job WHERE tenant IS NOT NULL AND attempts > 1").await;
        report.taken_over = usize::try_from(again).unwrap_or_default();
    }
}

/// What the real worker calls itself in the control database.
const WORKER: &str = "freehold-worker";

/// A dead worker's jobs are taken over when its leases run out, in a minute. Here they are ended by hand, once the last of
/// its sessions is gone: a statement that it sent before it died may still take a job.
///
/// # Panics
/// When its sessions stay.
pub async fn end_leases(world: &World, worker: &str) {
    eventually(PATIENCE, "the dead worker's sessions end", async || {
        let sessions: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
        )
        .bind(worker)
        .fetch_one(world.db())
        .await
        .expect("the control database");
        if sessions == 0 { Ok(()) } else { Err(format!("{sessions} sessions")) }
    })
    .await;
    sqlx::query("UPDATE job SET leased_until = clock_timestamp() WHERE state = 'running'")
        .execute(world.db())
        .await
        .expect("the control database");
}

/// A session of the shard's admin whose unqualified names are one tenant's.
///
/// # Panics
/// When the shard does not answer.
pub async fn inside(world: &World, tenant: &TenantDetail) -> PgConnection {
    let (_, url) = world.shard_of(tenant);
    let mut conn = PgConnection::connect(url).await.expect("the shard");
    sqlx::query("SELECT set_config('search_path', $1, false)")
        .bind(tenant.schema.as_deref())
        .execute(&mut conn)
        .await
        .expect("a setting");
    conn
}

async fn plant(conn: &mut PgConnection, slug: &str, round: usize) {
    for age in AGES {
        sqlx::query(
            "INSERT INTO activity (id, at, actor_id, actor_name, action, project_id, changes)
             SELECT gen_random_uuid(), clock_timestamp() - make_interval(days => $1, secs => n), 'fire', $2,
                    'task.created', gen_random_uuid(), '{}'
               FROM generate_series(1, $3) n",
        )
        .bind(age)
        .bind(slug)
        .bind(ROWS)
        .execute(&mut *conn)
        .await
        .expect("the tenant's schema");
    }
    sqlx::query(
        "INSERT INTO idempotency (actor, key, request_hash, created_at)
         SELECT $1, $2 || '-' || n, '\\x00', clock_timestamp() - interval '2 days' FROM generate_series(1, $3) n",
    )
    .bind(slug)
    .bind(round.to_string())
    .bind(ROWS)
    .execute(conn)
    .await
    .expect("the tenant's schema");
}

/// Rows of one age that bear the tenant's name, and those that bear another's.
async fn activity(conn: &mut PgConnection, slug: &str, age: i32) -> (i64, i64) {
    sqlx::query_as(
        "SELECT count(*) FILTER (WHERE actor_name = $1), count(*) FILTER (WHERE actor_name <> $1) FROM activity
          WHERE at BETWEEN clock_timestamp() - make_interval(days => $2 + 1)
                       AND clock_timestamp() - make_interval(days => $2)",
    )
    .bind(slug)
    .bind(age)
    .fetch_one(conn)
    .await
    .expect("the tenant's schema")
}
