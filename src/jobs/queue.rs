//! The job queue: one retryable side effect each, written in the transaction that makes it necessary.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::jobs::backoff::Backoff;
use crate::jobs::wake;
use crate::kernel::ids::{JobId, TenantId};
use crate::kernel::page::{Asked, Page};
use crate::kernel::{Error, Result, codes};

const LEASE: Duration = Duration::from_secs(60);
/// A lease this far ahead was written before the database's clock went back. A wait may be much longer than a lease, so
/// one that was is not told from one that is.
const AHEAD: Duration = Duration::from_secs(90);
/// The longest a job may take. Less than the lease, so that nobody does it again while it is being done.
pub const JOB_LIMIT: Duration = Duration::from_secs(50);
/// Between a failed attempt and the next.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(1024));
/// How long a job that is done stays to be looked at.
const KEEP_DAYS: i64 = 7;
/// Jobs that are forgotten in one statement.
const FORGOTTEN_AT_ONCE: i64 = 5_000;

/// Where a job is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum JobState {
    Ready,
    Running,
    Done,
    /// Failed too often; `freehold job retry` tries again.
    Dead,
}

impl JobState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }
}

/// A job, as people and scripts see it.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Job {
    pub id: JobId,
    pub kind: String,
    pub tenant: Option<TenantId>,
    pub state: JobState,
    pub attempts: i32,
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// A job that this worker holds.
#[derive(Debug, sqlx::FromRow)]
pub struct HeldJob {
    pub id: JobId,
    pub kind: String,
    pub tenant: Option<TenantId>,
    pub payload: Value,
    pub attempts: i32,
    pub max_attempts: i32,
    pub fence: i64,
}

impl HeldJob {
    /// The tenant this job is for. A job that needs one and has none is refused; there is no default.
    pub fn require_tenant(&self) -> Result<TenantId> {
        self.tenant
            .ok_or_else(|| Error::internal(format!("job {} of kind {} names no tenant", self.id, self.kind)))
    }
}

/// Adds a job in the caller's transaction. A waiting job with the same kind and key is enough.
pub async fn job_add(
    conn: &mut PgConnection,
    kind: &str,
    tenant: Option<TenantId>,
    dedup_key: Option<&str>,
    payload: Value,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO job (id, kind, tenant, dedup_key, payload, state, created_at)
         VALUES ($1, $2, $3, $4, $5, 'ready', $6)
         ON CONFLICT (kind, dedup_key) WHERE state = 'ready' DO NOTHING",
    )
    .bind(JobId::new())
    .bind(kind)
    .bind(tenant)
    .bind(dedup_key)
    .bind(payload)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    wake::workers(conn).await
}

/// Takes the next job that is due, or one whose worker fell silent.
pub async fn job_lease(pool: &PgPool) -> Result<Option<HeldJob>> {
    Ok(sqlx::query_as(
        "UPDATE job SET state = 'running', attempts = attempts + 1, fence = nextval('run_fence'),
                leased_until = clock_timestamp() + make_interval(secs => $1)
          WHERE id = (SELECT id FROM job
                       WHERE state IN ('ready', 'running') AND not_before <= clock_timestamp()
                         AND (leased_until IS NULL OR leased_until < clock_timestamp()
                              OR leased_until > clock_timestamp() + make_interval(secs => $2))
                       ORDER BY not_before, id LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING id, kind, tenant, payload, attempts, max_attempts, fence",
    )
    .bind(LEASE.as_secs_f64())
    .bind(AHEAD.as_secs_f64())
    .fetch_optional(pool)
    .await?)
}

/// Keeps one waiting job per key.
const ONE_WAITING: &str = "job_dedup";

const CLOSE: &str = "UPDATE job SET state = $3, error = $4, leased_until = NULL,
        not_before = clock_timestamp() + make_interval(secs => $5),
        finished_at = CASE WHEN $3 IN ('done', 'dead') THEN clock_timestamp() END
  WHERE id = $1 AND fence = $2";

/// What the record says of a failure; its cause is in the log.
fn said(error: &Error) -> String {
    format!("{}: {error}", error.code().name)
}

/// Records how a held job went. Without effect when another worker has taken it over meanwhile. A job that failed while
/// the same was asked for again is done: the one that waits does its work.
pub async fn job_close(pool: &PgPool, job: &HeldJob, outcome: &Result<()>) -> Result<()> {
    let (state, error) = match outcome {
        Ok(()) => (JobState::Done, None),
        Err(error) if job.attempts >= job.max_attempts => (JobState::Dead, Some(said(error))),
        Err(error) => (JobState::Ready, Some(said(error))),
    };
    let wait = AGAIN.after(job.attempts).as_secs_f64();
    let close = |state: JobState| {
        sqlx::query(CLOSE)
            .bind(job.id)
            .bind(job.fence)
            .bind(state)
            .bind(error.clone())
            .bind(wait)
            .execute(pool)
    };
    match close(state).await {
        Err(error) if crate::db::violated(&error) == Some(ONE_WAITING) => close(JobState::Done).await?,
        closed => closed?,
    };
    Ok(())
}

/// Forgets jobs that are long done. Dead ones stay until someone has looked at them.
pub async fn job_sweep(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<()> {
    loop {
        let gone = sqlx::query(
            "DELETE FROM job WHERE id IN (SELECT id FROM job WHERE state = 'done' AND finished_at < $1
                                           ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        )
        .bind(now - chrono::Duration::days(KEEP_DAYS))
        .bind(FORGOTTEN_AT_ONCE)
        .execute(&mut *conn)
        .await?;
        if gone.rows_affected() < FORGOTTEN_AT_ONCE.unsigned_abs() {
            return Ok(());
        }
    }
}

/// Which jobs to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobFilter {
    pub state: Option<JobState>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Jobs, newest first.
pub async fn job_list(conn: &mut PgConnection, filter: &JobFilter) -> Result<Page<Job>> {
    let asked: Asked<JobId> = Asked::of(filter.limit, filter.cursor.as_deref())?;
    let mut query = sqlx::QueryBuilder::new(
        "SELECT id, kind, tenant, state, attempts, error, created_at, finished_at FROM job WHERE true",
    );
    if let Some(state) = filter.state {
        query.push(" AND state = ").push_bind(state);
    }
    if let Some(last) = asked.after {
        query.push(" AND id < ").push_bind(last);
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(asked.rows());
    let rows = query.build_query_as().fetch_all(conn).await?;
    Ok(asked.page(rows, |job: &Job| job.id))
}

/// Puts a dead job back in the queue.
pub async fn job_retry(conn: &mut PgConnection, id: JobId) -> Result<Job> {
    let job = sqlx::query_as(
        "UPDATE job SET state = 'ready', attempts = 0, not_before = clock_timestamp(), finished_at = NULL
          WHERE id = $1 AND state = 'dead'
         RETURNING id, kind, tenant, state, attempts, error, created_at, finished_at",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await
    .map_err(|error| match crate::db::violated(&error) {
        Some(ONE_WAITING) => {
            Error::new(&codes::STATE_CONFLICT).detail("the same job is waiting already").source(error)
        }
        _ => error.into(),
    })?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no dead job {id}")))?;
    wake::workers(conn).await?;
    Ok(job)
}
