//! Drives runs: lease, do the steps that are left, record each; after a failure retry or undo.
//!
//! A step works on a shard first. What it changes in the control database is part of the transaction that records it:
//! either both are true or neither. A step may be executed more than once (killed after its effect and before its
//! record), so each is idempotent. A worker that lost its lease is stopped in three places: its heartbeat sees the
//! higher fencing number, the record of its step changes no row, and the shard refuses its statement
//! (`freehold.raise_fence`).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::jobs::backoff::Backoff;
use crate::jobs::faults::{self, Moment};
use crate::jobs::run::{RunState, StepState};
use crate::jobs::wake;
use crate::kernel::ids::{RunId, TenantId};
use crate::kernel::{Code, Error, Result, codes};

/// How long a worker may be silent before another takes its run over.
const LEASE: Duration = Duration::from_secs(10);
/// Beyond what a lease and a wait can be: a time this far ahead was written before the database's clock went back, and
/// whoever believed it would wait for as long as the step was.
const AHEAD: Duration = Duration::from_secs(60);
/// A run that failed this often, since its last step, for a reason that does not pass waits for a person. One whose shard is
/// away only waits for the shard: nobody should have to resume every run by hand after an outage, nor because the first
/// answer after one is no.
const GIVE_UP: i32 = 30;
/// Between a failed attempt and the next.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// A step that takes longer hangs on a shard that neither answers nor refuses. It is tried again later, so that the
/// runs of other shards get its place.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// The same for a step that makes something in a cloud: longer than the cloud and whoever asks it are given themselves.
const SLOW_STEP_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// What a step changes in the control database, in the transaction of its record.
pub type Writes = Box<dyn for<'t> FnOnce(&'t mut PgConnection) -> BoxFuture<'t, Result<()>> + Send>;

/// One attempt's work on one step, outside the control database, and what is left to write there.
pub type Effect<C> = for<'a> fn(&'a C, &'a Held) -> BoxFuture<'a, Result<Option<Writes>>>;

/// Ends an effect with something to write in the control database.
pub fn write<F>(writes: F) -> Result<Option<Writes>>
where
    F: for<'t> FnOnce(&'t mut PgConnection) -> BoxFuture<'t, Result<()>> + Send + 'static,
{
    Ok(Some(Box::new(writes)))
}

/// One step of a kind of run.
pub struct StepDef<C: 'static> {
    pub name: &'static str,
    pub run: Effect<C>,
    /// Takes back what `run` did, also when `run` got only half-way. Without one, there is nothing to take back.
    pub undo: Option<Effect<C>>,
}

/// What happens when a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Try a passing trouble again, this many attempts in all, then undo. Any other failure undoes at once.
    Undo { attempts: i32 },
    /// Only forward: try again until it works.
    Retry,
}

/// How long a step may take. Workers have places of their own for each, so that what takes minutes is never in the way of
/// what takes milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Databases: a minute.
    Quick,
    /// Clouds: two hours.
    Slow,
}

impl Pace {
    const fn step_limit(self) -> Duration {
        match self {
            Self::Quick => STEP_LIMIT,
            Self::Slow => SLOW_STEP_LIMIT,
        }
    }
}

/// A kind of run: its name, its steps in order, and what a failure means.
pub struct Kind<C: 'static> {
    pub name: &'static str,
    pub steps: &'static [StepDef<C>],
    pub on_failure: OnFailure,
    pub pace: Pace,
}

impl<C> Kind<C> {
    pub fn step_names(&self) -> Vec<&'static str> {
        self.steps.iter().map(|step| step.name).collect()
    }
}

/// A run that this worker holds.
#[derive(Debug, sqlx::FromRow)]
pub struct Held {
    pub id: RunId,
    pub kind: String,
    pub subject: String,
    pub tenant: Option<TenantId>,
    pub input: Value,
    pub state: RunState,
    pub attempts: i32,
    /// Higher than that of any earlier holder.
    pub fence: i64,
}

impl Held {
    /// The values fixed when the run was recorded.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.input.clone()).map_err(Error::internal)
    }

    /// Makes sure, inside a control transaction, that the run is still ours; it stays so until the transaction ends. A
    /// run that we have ended is ours no more: if the answer to that commit was lost, nothing may follow it.
    pub async fn confirm(&self, conn: &mut PgConnection) -> Result<()> {
        let held: Option<i32> = sqlx::query_scalar(
            "SELECT 1 FROM run WHERE id = $1 AND fence = $2 AND leased_until IS NOT NULL FOR UPDATE",
        )
        .bind(self.id)
        .bind(self.fence)
        .fetch_optional(conn)
        .await?;
        held.map(|_| ()).ok_or_else(lost)
    }
}

fn lost() -> Error {
    Error::new(&codes::CONFLICT).detail("another worker has taken this run over")
}

/// Takes the next run that is due, or the named one. Nothing when there is none, or another worker holds it. After a step
/// of the database's clock a run may be taken from a worker that still has it: the fence is what tells them apart.
pub async fn lease(pool: &PgPool, worker: &str, only: Option<RunId>) -> Result<Option<Held>> {
    lease_where(pool, worker, only, None).await
}

/// Takes the next run that is due of these kinds. One of a kind that this build does not know is left to a newer one.
pub async fn lease_of(pool: &PgPool, worker: &str, kinds: &[&str]) -> Result<Option<Held>> {
    lease_where(pool, worker, None, Some(kinds)).await
}

async fn lease_where(
    pool: &PgPool,
    worker: &str,
    only: Option<RunId>,
    kinds: Option<&[&str]>,
) -> Result<Option<Held>> {
    Ok(sqlx::query_as(
        "UPDATE run SET state = CASE WHEN state = 'pending' THEN 'running' ELSE state END,
                fence = nextval('run_fence'), leased_by = $1, attempts = attempts + 1,
                leased_until = clock_timestamp() + make_interval(secs => $2)
          WHERE id = (SELECT id FROM run
                       WHERE state IN ('pending', 'running', 'undoing')
                         AND (not_before <= clock_timestamp()
                              OR not_before > clock_timestamp() + make_interval(secs => $4))
                         AND (leased_until IS NULL OR leased_until < clock_timestamp()
                              OR leased_until > clock_timestamp() + make_interval(secs => $4))
                         AND ($3::uuid IS NULL OR id = $3)
                         AND ($5::text[] IS NULL OR kind = ANY ($5))
                       ORDER BY not_before, id LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING id, kind, subject, tenant, input, state, attempts, fence",
    )
    .bind(worker)
    .bind(LEASE.as_secs_f64())
    .bind(only)
    .bind(AHEAD.as_secs_f64())
    .bind(kinds)
    .fetch_optional(pool)
    .await?)
}

/// Works on a held run until it is finished, has to wait, or is lost to another worker.
pub async fn drive<C: Sync>(pool: &PgPool, context: &C, kind: &Kind<C>, held: &Held) -> Result<RunState> {
    tokio::select! {
        outcome = attempt(pool, context, kind, held) => outcome,
        error = heartbeat(pool, held) => Err(error),
    }
}

async fn attempt<C>(pool: &PgPool, context: &C, kind: &Kind<C>, held: &Held) -> Result<RunState> {
    if held.state != RunState::Undoing {
        match forward(pool, context, kind, held).await {
            Ok(()) => return Ok(RunState::Done),
            Err(error) if is_lost(pool, held, &error).await => return Err(error),
            Err(error) => {
                tracing::warn!(run = %held.id, kind = kind.name, ?error, "a step failed");
                let passing = is_passing(&error);
                match kind.on_failure {
                    OnFailure::Undo { attempts } if !passing || held.attempts >= attempts => {
                        turn_round(pool, held, &error).await?;
                    }
                    OnFailure::Undo { .. } | OnFailure::Retry => {
                        return put_back(pool, held, RunState::Pending, &error).await;
                    }
                }
            }
        }
    }
    match backward(pool, context, kind, held).await {
        Ok(()) => Ok(RunState::Undone),
        Err(error) if is_lost(pool, held, &error).await => Err(error),
        Err(error) => put_back(pool, held, RunState::Undoing, &error).await,
    }
}

async fn forward<C>(pool: &PgPool, context: &C, kind: &Kind<C>, held: &Held) -> Result<()> {
    let done = states(pool, held).await?;
    for (index, step) in kind.steps.iter().enumerate() {
        if done.get(index) == Some(&StepState::Done) {
            continue;
        }
        let point = |moment| faults::point(kind.name, step.name, moment);
        point(Moment::BeforeEffect);
        let writes = in_time(kind.pace.step_limit(), (step.run)(context, held)).await?;
        point(Moment::AfterEffect);
        // The record of the last step and the end of the run are one commit.
        let ended = (index + 1 == kind.steps.len()).then_some(RunState::Done);
        let before_commit = || point(Moment::BeforeCommit);
        in_time(STEP_LIMIT, record(pool, held, index, StepState::Done, ended, writes, before_commit)).await?;
        point(Moment::AfterRecord);
    }
    if done.last() == Some(&StepState::Done) {
        // Nothing was left to do.
        close(pool, held, RunState::Done).await?;
    }
    Ok(())
}

async fn backward<C>(pool: &PgPool, context: &C, kind: &Kind<C>, held: &Held) -> Result<()> {
    let done = states(pool, held).await?;
    // The step that failed may have got half-way, so undo begins with the first one that is not recorded as done.
    let reached = done.iter().filter(|state| **state != StepState::Pending).count();
    for (index, step) in kind.steps.iter().enumerate().take(reached + 1).rev() {
        if done.get(index) == Some(&StepState::Undone) {
            continue;
        }
        let writes = match step.undo {
            Some(undo) => in_time(kind.pace.step_limit(), undo(context, held)).await?,
            None => None,
        };
        let ended = (index == 0).then_some(RunState::Undone);
        in_time(STEP_LIMIT, record(pool, held, index, StepState::Undone, ended, writes, || {})).await?;
    }
    if done.first() == Some(&StepState::Undone) {
        close(pool, held, RunState::Undone).await?;
    }
    Ok(())
}

/// A step's outcome; too long and a panic are failures like any other. A panic that went further would leave the run
/// leased and unrecorded, to be taken again every ten seconds for ever.
async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    // What the step shared with others is in databases: nothing half-changed is looked at after a panic.
    match tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => {
            Err(Error::new(&codes::INTERNAL).detail("the step panicked; the worker's output says why"))
        }
        Err(_) => Err(Error::new(&codes::TIMEOUT).detail("the step took too long")),
    }
}

async fn states(pool: &PgPool, held: &Held) -> Result<Vec<StepState>> {
    Ok(sqlx::query_scalar("SELECT state FROM run_step WHERE run = $1 ORDER BY position")
        .bind(held.id)
        .fetch_all(pool)
        .await?)
}

/// Marks a step and, after the last one, the run; tells followers. Changes nothing and returns no row unless the run is
/// held with this number; a row returned stays locked until the transaction ends.
const RECORD: &str = "WITH held AS (
       SELECT id FROM run WHERE id = $1 AND fence = $2 AND leased_until IS NOT NULL FOR UPDATE),
     step AS (
       UPDATE run_step SET state = $4, finished_at = clock_timestamp() FROM held
        WHERE run_step.run = held.id AND position = $3 + 1),
     ended AS (
       UPDATE run SET state = $5, leased_until = NULL, leased_by = NULL, progress = NULL, undo = undo OR $5 = 'undone',
              not_before = clock_timestamp(), finished_at = clock_timestamp()
         FROM held WHERE run.id = held.id AND $5 IS NOT NULL),
     goes_on AS (
       UPDATE run SET refusals = 0 FROM held WHERE run.id = held.id AND $5 IS NULL AND refusals > 0)
     SELECT 1 FROM held, pg_notify($6, $7)";

/// Records a step with all that it changes in the control database, and the end of the run if that was the last one.
async fn record(
    pool: &PgPool,
    held: &Held,
    index: usize,
    state: StepState,
    ended: Option<RunState>,
    writes: Option<Writes>,
    before_commit: impl FnOnce(),
) -> Result<()> {
    let mut tx = pool.begin().await?;
    // First the record, which locks the run: a worker that was overtaken gets no further.
    sqlx::query(RECORD)
        .bind(held.id)
        .bind(held.fence)
        .bind(i32::try_from(index).unwrap_or(i32::MAX))
        .bind(state)
        .bind(ended)
        .bind(wake::RUN)
        .bind(held.id.to_string())
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(lost)?;
    if let Some(writes) = writes {
        writes(&mut tx).await?;
    }
    before_commit();
    Ok(tx.commit().await?)
}

/// Ends a run that had nothing left to do.
async fn close(pool: &PgPool, held: &Held, state: RunState) -> Result<()> {
    let mut tx = pool.begin().await?;
    held.confirm(&mut tx).await?;
    set_state(&mut tx, held, state, None, Duration::ZERO).await?;
    wake::run_moved(&mut tx, held.id).await?;
    Ok(tx.commit().await?)
}

async fn set_state(
    tx: &mut PgConnection,
    held: &Held,
    state: RunState,
    error: Option<&Error>,
    wait: Duration,
) -> Result<()> {
    sqlx::query(
        "UPDATE run SET state = $2, error = coalesce($3, error), leased_until = NULL, leased_by = NULL,
                undo = undo OR $2 IN ('undoing', 'undone'),
                not_before = clock_timestamp() + make_interval(secs => $4),
                finished_at = CASE WHEN $2 IN ('done', 'undone') THEN clock_timestamp() END
          WHERE id = $1",
    )
    .bind(held.id)
    .bind(state)
    .bind(error.map(|error| format!("{}: {error}", error.code().name)))
    .bind(wait.as_secs_f64())
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends this attempt; the next is made later, unless there were too many refusals.
async fn put_back(pool: &PgPool, held: &Held, waiting: RunState, error: &Error) -> Result<RunState> {
    let mut tx = pool.begin().await?;
    held.confirm(&mut tx).await?;
    let refused = !is_passing(error);
    let refusals: i32 =
        sqlx::query_scalar("UPDATE run SET refusals = refusals + $2 WHERE id = $1 RETURNING refusals")
            .bind(held.id)
            .bind(i32::from(refused))
            .fetch_one(&mut *tx)
            .await?;
    let state = if refused && refusals >= GIVE_UP { RunState::Stuck } else { waiting };
    set_state(&mut tx, held, state, Some(error), AGAIN.after(held.attempts)).await?;
    wake::run_moved(&mut tx, held.id).await?;
    tx.commit().await?;
    Ok(state)
}

/// Turns the run round for good: from here it is only undone, whoever holds it.
async fn turn_round(pool: &PgPool, held: &Held, error: &Error) -> Result<()> {
    let mut tx = pool.begin().await?;
    held.confirm(&mut tx).await?;
    sqlx::query("UPDATE run SET state = 'undoing', undo = true, error = $2 WHERE id = $1")
        .bind(held.id)
        .bind(format!("{}: {error}", error.code().name))
        .execute(&mut *tx)
        .await?;
    wake::run_moved(&mut tx, held.id).await?;
    Ok(tx.commit().await?)
}

fn is_passing(error: &Error) -> bool {
    const PASSING: [&Code; 6] = [
        &codes::INFRA_UNAVAILABLE,
        &codes::SHARD_UNAVAILABLE,
        &codes::SHARD_BUSY,
        &codes::CONTROL_UNAVAILABLE,
        &codes::TIMEOUT,
        &codes::CONFLICT,
    ];
    PASSING.iter().any(|code| error.is(code))
}

/// A conflict means that someone with a higher fencing number was there. If the run is still ours, that was not another
/// holder but a migration or a repair of the same schema: the next attempt has a higher number.
async fn is_lost(pool: &PgPool, held: &Held, error: &Error) -> bool {
    if !error.is(&codes::CONFLICT) {
        return false;
    }
    let ours = async {
        let mut tx = pool.begin().await?;
        held.confirm(&mut tx).await
    };
    ours.await.is_err()
}

/// Renews the lease while the work goes on; returns only when the run is lost.
async fn heartbeat(pool: &PgPool, held: &Held) -> Error {
    loop {
        tokio::time::sleep(LEASE / 4).await;
        let renewed = sqlx::query(
            "UPDATE run SET leased_until = clock_timestamp() + make_interval(secs => $3) WHERE id = $1 AND fence = $2
                AND leased_until IS NOT NULL",
        )
        .bind(held.id)
        .bind(held.fence)
        .bind(LEASE.as_secs_f64())
        .execute(pool)
        .await;
        match renewed {
            Ok(done) if done.rows_affected() == 0 => return lost(),
            // A control database that is away for a moment is no reason to drop the work: the fence decides.
            Ok(_) | Err(_) => {}
        }
    }
}
