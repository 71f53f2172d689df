//! A neighbour at its connection limit, with statements that would run for ever and a time-out of its own of none (A11).
//! How long they run, and what a quiet tenant on the same shard notices of it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::control_plane::tenants::TenantDetail;
use crate::data_plane::broker::faults;
use crate::testkit::TestApp;
use crate::testkit::load::Tenant;
use crate::testkit::wire::{self, Shot, Target, apart};

/// Connections of the quiet tenant's clients.
const CLIENTS: usize = 4;
/// A statement that still runs then is one that nobody ends.
const GIVEN_UP: Duration = Duration::from_secs(50);

/// What the neighbour's statements do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// One holds a lock and the others wait for it: connections are taken, and nothing else.
    Waiting,
    /// Compute: a core is taken for each as well.
    Burning,
}

/// How the two tenants behave.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// How long the quiet tenant is watched, alone and beside the noise. Less than the watchdog's 30 s.
    pub lasting: Duration,
    /// The quiet tenant's requests a second.
    pub rate: f64,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub noise: Noise,
    /// Sessions at once: the most that the neighbour's login may have.
    pub statements: usize,
    /// How long the first and the last of them ran until the watchdog ended them.
    pub first_ended: f64,
    pub last_ended: f64,
    /// Statements that ended by themselves, or that never began.
    pub not_ended_by_the_watchdog: usize,
    pub alone: wire::Report,
    pub beside: wire::Report,
}

impl Report {
    /// The quiet tenant's p99 beside the noise, as a multiple of its p99 alone.
    pub fn ratio(&self) -> f64 {
        self.beside.latency.p99 / self.alone.latency.p99
    }
}

/// Watches the quiet tenant alone, then beside the noise, and waits until that has ended. The noise is as many sessions
/// as the neighbour's login may have.
///
/// # Panics
/// When the shard refuses the neighbour before its limit, or lets it over it.
pub async fn run(app: &TestApp, noisy: &TenantDetail, quiet: &Tenant, noise: Noise, plan: Plan) -> Report {
    watch(app, quiet, Duration::from_secs(1), plan.rate).await;
    let alone = watch(app, quiet, plan.lasting, plan.rate).await;
    let sessions = all_sessions(app, noisy).await;
    let statements = sessions.len();
    let (ended, beside) = tokio::join!(
        join_all(sessions.into_iter().map(|session| make(session, noise))),
        watch(app, quiet, plan.lasting, plan.rate)
    );
    let times = || ended.iter().map(|(took, _)| took.as_secs_f64());
    Report {
        noise,
        statements,
        first_ended: times().fold(f64::INFINITY, f64::min),
        last_ended: times().fold(0.0, f64::max),
        not_ended_by_the_watchdog: ended.iter().filter(|(_, ended)| !ended).count(),
        alone,
        beside,
    }
}

/// As many sessions as the shard lets the tenant's login have.
async fn all_sessions(app: &TestApp, tenant: &TenantDetail) -> Vec<PgConnection> {
    let limit: i32 = sqlx::query_scalar("SELECT rolconnlimit FROM pg_roles WHERE rolname = $1")
        .bind(tenant.role.as_deref())
        .fetch_one(&mut *app.world.shard_conn(0).await)
        .await
        .expect("the tenant's login");
    let login = app.world.tenant_login(tenant);
    let mut sessions = Vec::new();
    for _ in 0..limit {
        sessions.push(PgConnection::connect_with(&login).await.expect("the neighbour is within its limit"));
    }
    assert!(PgConnection::connect_with(&login).await.is_err(), "the neighbour has no limit");
    sessions
}

async fn watch(app: &TestApp, quiet: &Tenant, lasting: Duration, rate: f64) -> wire::Report {
    let target = Target { addr: app.replicas[0].addr };
    let path = format!("/api/v1/projects/{}", quiet.project());
    let shot =
        Shot::get(&path, &format!("{}.localhost", quiet.slug()), quiet.key()).stamped(&quiet.stamp(), 1);
    apart(move || async move { target.open(CLIENTS, rate, lasting, |_, _| shot.clone()).await }).await
}

/// One session of the noise, logged in as the tenant itself. How long its statement ran, and whether it was ended from
/// outside.
async fn make(mut conn: PgConnection, noise: Noise) -> (Duration, bool) {
    let begun = Instant::now();
    let statement = async {
        match noise {
            Noise::Waiting => wait(&mut conn).await,
            Noise::Burning => burn(&mut conn).await,
        }
    };
    let outcome = tokio::time::timeout(GIVEN_UP, statement).await;
    let ended = outcome.is_ok_and(|outcome| outcome.is_err_and(|error| faults::is_connection_fault(&error)));
    (begun.elapsed(), ended)
}

/// No time-outs of its own: a login may take them away.
async fn take_time(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SET statement_timeout = 0").execute(&mut *conn).await?;
    sqlx::query("SET idle_in_transaction_session_timeout = 0").execute(conn).await?;
    Ok(())
}

/// Waits for a lock, and keeps it for as long as the session lives.
async fn wait(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    take_time(conn).await?;
    let mut tx = conn.begin().await?;
    sqlx::query("SELECT 1 FROM counters FOR UPDATE").execute(&mut *tx).await?;
    loop {
        sqlx::query("SELECT 1").execute(&mut *tx).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn burn(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    take_time(conn).await?;
    sqlx::query(
        "SELECT count(*) FROM generate_series(1, 10000) a, generate_series(1, 10000) b,
                              generate_series(1, 10000) c, generate_series(1, 10000) d",
    )
    .execute(conn)
    .await?;
    Ok(())
}
