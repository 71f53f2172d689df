//! The record of a run: its state, its steps, who holds it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::jobs::wake;
use crate::kernel::ids::{RunId, TenantId};
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result, codes};

/// Where a run is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum RunState {
    /// Recorded, or waiting for its next attempt.
    Pending,
    /// A worker holds it.
    Running,
    /// A step failed for good; what was done is being undone.
    Undoing,
    /// Every step is done.
    Done,
    /// Every step is undone; nothing is left behind.
    Undone,
    /// Given up after many attempts; `freehold run resume` tries again.
    Stuck,
}

impl RunState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Stuck => "stuck",
        }
    }

    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Running | Self::Undoing)
    }
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum StepState {
    Pending,
    Done,
    Undone,
}

/// One step of a run.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Step {
    pub name: String,
    pub state: StepState,
    pub finished_at: Option<DateTime<Utc>>,
}

/// How far a long step is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RunProgress {
    /// Changes made.
    pub done: u64,
    /// Changes to make.
    pub planned: u64,
    /// What is being worked at, the longest first.
    pub working: Vec<String>,
}

/// A run, as people and scripts see it.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Run {
    pub id: RunId,
    /// What kind of change: `provision`, `suspend`, `purge`, …
    pub kind: String,
    pub subject: String,
    pub tenant: Option<TenantId>,
    pub state: RunState,
    /// Why the last attempt failed.
    pub error: Option<String>,
    pub attempts: i32,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// Of the step that is at work, when it is one that takes long.
    #[sqlx(json(nullable))]
    pub progress: Option<RunProgress>,
    #[sqlx(skip)]
    pub steps: Vec<Step>,
}

/// A run to be recorded.
pub struct NewRun<'a> {
    pub kind: &'a str,
    pub subject: String,
    pub tenant: Option<TenantId>,
    pub input: Value,
    pub steps: &'a [&'a str],
    /// How many of the first steps the recording transaction has done itself.
    pub done: usize,
}

/// Records a run in the caller's transaction and wakes a worker if anything is left to do.
///
/// # Errors
/// `state_conflict` when another run on the same subject is open.
pub async fn run_record(conn: &mut PgConnection, new: &NewRun<'_>, now: DateTime<Utc>) -> Result<RunId> {
    let id = RunId::new();
    let finished = new.done == new.steps.len();
    sqlx::query(
        "WITH recorded AS (
           INSERT INTO run (id, kind, subject, tenant, state, input, created_at, finished_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id)
         INSERT INTO run_step (run, position, name, state, finished_at)
         SELECT recorded.id, s.position, s.name,
                CASE WHEN s.position <= $10 THEN 'done' ELSE 'pending' END,
                CASE WHEN s.position <= $10 THEN $7 END
           FROM recorded, unnest($9::text[]) WITH ORDINALITY AS s (name, position)",
    )
    .bind(id)
    .bind(new.kind)
    .bind(&new.subject)
    .bind(new.tenant)
    .bind(if finished { RunState::Done } else { RunState::Pending })
    .bind(&new.input)
    .bind(now)
    .bind(finished.then_some(now))
    .bind(new.steps)
    .bind(i64::try_from(new.done).unwrap_or(i64::MAX))
    .execute(&mut *conn)
    .await
    .map_err(|error| match crate::db::violated(&error) {
        Some("run_one_open") => Error::new(&codes::STATE_CONFLICT)
            .detail("another change of it is under way")
            .hint("see it with: freehold run list --open")
            .source(error),
        _ => error.into(),
    })?;
    if !finished {
        wake::workers(conn).await?;
    }
    Ok(id)
}

const RUN_COLUMNS: &str =
    "SELECT id, kind, subject, tenant, state, error, attempts, created_at, finished_at, progress FROM run";

/// A run with its steps.
pub async fn run_by_id(conn: &mut PgConnection, id: RunId) -> Result<Run> {
    let mut run: Run = sqlx::query_as(
        "SELECT id, kind, subject, tenant, state, error, attempts, created_at, finished_at, progress FROM run
          WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no run {id}")))?;
    run.steps =
        sqlx::query_as("SELECT name, state, finished_at FROM run_step WHERE run = $1 ORDER BY position")
            .bind(id)
            .fetch_all(conn)
            .await?;
    Ok(run)
}

/// Says how far the step at work is, and tells followers. Without effect when the run is held with another number.
pub async fn run_progress(pool: &PgPool, id: RunId, fence: i64, progress: &RunProgress) -> Result<()> {
    sqlx::query(
        "WITH told AS (UPDATE run SET progress = $3 WHERE id = $1 AND fence = $2 AND leased_until IS NOT NULL
                       RETURNING id)
         SELECT pg_notify($4, $5) FROM told",
    )
    .bind(id)
    .bind(fence)
    .bind(sqlx::types::Json(progress))
    .bind(wake::RUN)
    .bind(id.to_string())
    .execute(pool)
    .await?;
    Ok(())
}

/// Which runs to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RunFilter {
    /// Only runs of this tenant.
    pub tenant: Option<TenantId>,
    /// Only runs that are not finished.
    pub open: Option<bool>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Runs, newest first, without their steps.
pub async fn run_list(conn: &mut PgConnection, filter: &RunFilter) -> Result<Page<Run>> {
    let limit = page::limit(filter.limit)?;
    let mut query = sqlx::QueryBuilder::new(RUN_COLUMNS);
    query.push(" WHERE true");
    if let Some(tenant) = filter.tenant {
        query.push(" AND tenant = ").push_bind(tenant);
    }
    if filter.open == Some(true) {
        query.push(" AND state IN ('pending', 'running', 'undoing', 'stuck')");
    }
    if let Some(cursor) = &filter.cursor {
        let last: RunId = page::decode(cursor)?;
        query.push(" AND id < ").push_bind(last);
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit) + 1);
    let rows = query.build_query_as().fetch_all(conn).await?;
    Ok(Page::build(rows, limit, |run: &Run| run.id))
}

/// Turns a run round that waits or is stuck: from here it is only undone.
///
/// # Errors
/// `state_conflict` when it is finished, or somebody is at work on it.
pub async fn run_turn(conn: &mut PgConnection, id: RunId) -> Result<()> {
    let turned = sqlx::query(
        "UPDATE run SET state = 'undoing', undo = true, attempts = 0, refusals = 0, not_before = clock_timestamp(), leased_until = NULL
          WHERE id = $1 AND state IN ('pending', 'running', 'undoing', 'stuck')
            AND (leased_until IS NULL OR leased_until < clock_timestamp())",
    )
    .bind(id)
    .execute(&mut *conn)
    .await?;
    if turned.rows_affected() == 1 {
        return wake::workers(conn).await;
    }
    let run = run_by_id(conn, id).await?;
    let why = if run.state.is_open() { "is being carried out at this moment" } else { "is finished" };
    Err(Error::new(&codes::STATE_CONFLICT)
        .detail(format!("run {id} {why}"))
        .hint("see how far it is with: freehold run show"))
}

/// Puts a stuck run back to work.
pub async fn run_retry(conn: &mut PgConnection, id: RunId) -> Result<()> {
    let run = run_by_id(conn, id).await?;
    if !run.state.is_open() && run.state != RunState::Stuck {
        return Err(Error::new(&codes::STATE_CONFLICT).detail(format!("run {id} is finished")));
    }
    sqlx::query(
        "UPDATE run SET attempts = 0, refusals = 0, not_before = clock_timestamp(),
                state = CASE WHEN state <> 'stuck' THEN state WHEN undo THEN 'undoing' ELSE 'pending' END
          WHERE id = $1 AND state IN ('pending', 'running', 'undoing', 'stuck')",
    )
    .bind(id)
    .execute(&mut *conn)
    .await?;
    wake::workers(conn).await
}
