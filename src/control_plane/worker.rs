//! The worker: carries out runs and jobs as they appear, and repairs what has drifted, until it is told to stop.
//!
//! Any number of workers may run. What must not be done twice at once is leased; the rest is safe to do twice.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use sqlx::postgres::PgListener;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::infra::{dedicated, lookout, resources};
use super::slots::Fill;
use super::{Hands, idempotency, probe, reconcile, runs, slots, tenant_jobs};
use crate::jobs::faults::{self, Moment};
use crate::jobs::saga::Pace;
use crate::jobs::{queue, saga, wake};
use crate::kernel::{Error, Result, codes};

/// Runs carried out side by side, of each pace: what waits for a cloud takes no place from what waits for a database.
const RUNS_AT_ONCE: usize = 4;
/// Jobs carried out side by side.
pub const JOBS_AT_ONCE: usize = 4;
/// How often to look for work that no notification told of: expired leases, retries that are due.
const LOOK: Duration = Duration::from_millis(500);

/// Longest wait for the control database to say what is to be done. A database behind a cut cable says nothing, and
/// nothing but a limit of our own ends the wait before the operating system does after a quarter of an hour.
const LEASE_LIMIT: Duration = Duration::from_secs(5);
/// How often a silent listener asks whether anyone is there, and how long it waits for an answer.
const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(2);
/// No news for this long: a good moment to make spare slots.
const CALM: Duration = Duration::from_millis(250);
/// Spare slots are made this often also when there is no such moment.
const FULL_AT_LEAST: Duration = Duration::from_secs(5);
/// A worker whose shards were not looked at for this long does not work: new tenants are refused by then.
const SILENT: Duration = Duration::from_secs(15);

/// When a worker last did what only a working one does: it asked the control database for its shards, looked at each,
/// and recorded what it saw. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    fn beat(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// How long ago that was; `None` when it never was.
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().map(|at| at.elapsed())
    }

    /// Whether it was lately.
    pub fn beats(&self) -> bool {
        self.age().is_some_and(|age| age < SILENT)
    }
}

/// A repair that a module above this one brings along.
pub struct Chore {
    pub name: &'static str,
    /// From one to the next.
    pub seconds: u64,
    pub repair: fn(Hands) -> Repair,
}

/// Works until `stop` is cancelled, then finishes what is in hand.
pub async fn work(hands: Hands, stop: CancellationToken) {
    work_with(hands, &[], stop).await;
}

/// The same, with others' repairs beside its own.
pub async fn work_with(hands: Hands, chores: &'static [Chore], stop: CancellationToken) {
    work_seen(hands, chores, stop, Pulse::default()).await;
}

/// The same, for someone who wants to see that it does.
pub async fn work_seen(hands: Hands, chores: &'static [Chore], stop: CancellationToken, pulse: Pulse) {
    let tasks = TaskTracker::new();
    let alarm = Arc::new(Notify::new());
    tasks.spawn(stop.clone().run_until_cancelled_owned(listen(hands.clone(), alarm.clone())));

    for pace in [Pace::Quick, Pace::Slow] {
        tasks.spawn(take_runs(hands.clone(), pace, alarm.clone(), stop.clone(), tasks.clone()));
    }
    tasks.spawn(take_jobs(hands.clone(), alarm.clone(), stop.clone(), tasks.clone()));

    let every = |name: &'static str, seconds: u64, repair: fn(Hands) -> Repair| {
        let (hands, stop, pulse) = (hands.clone(), stop.clone(), pulse.clone());
        tasks.spawn(async move {
            // The rare ones are for what goes wrong over time, not for the first second.
            let period = Duration::from_secs(seconds);
            let first = if seconds < 60 { Duration::ZERO } else { Duration::from_secs(10) };
            let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + first, period);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while stop.run_until_cancelled(tick.tick()).await.is_some() {
                // Long enough for any that works; one that hangs must not be the last.
                let done = caught(in_time(period * 10, repair(hands.clone()))).await;
                metrics::counter!("worker_rounds_total", "round" => name, "outcome" => outcome(&done))
                    .increment(1);
                match done {
                    Ok(()) if name == PROBE => pulse.beat(),
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(reconciler = name, ?error, "a repair failed; it will be tried again");
                    }
                }
            }
        });
    };
    every(PROBE, 2, |hands| Box::pin(async move { probe::probe_all(&hands).await }));
    every("slot_repair", 5, |hands| Box::pin(async move { slots::repair(&hands).await }));
    every("watchdog", 3, |hands| Box::pin(async move { reconcile::watchdog(&hands).await.map(drop) }));
    every("logins", 60, |hands| Box::pin(async move { reconcile::repair_logins(&hands).await.map(drop) }));
    every("purge_due", 60, |hands| Box::pin(async move { reconcile::purge_due(&hands.cp).await.map(drop) }));
    every("regular_jobs", 60, |hands| Box::pin(async move { tenant_jobs::add_due(&hands).await.map(drop) }));
    every("resources_due", 2, |hands| Box::pin(async move { resources::begin_due(&hands).await.map(drop) }));
    every("infra_seen", 10, |hands| Box::pin(async move { dedicated::seen(&hands).await }));
    every("infra_lookout", 60, |hands| Box::pin(async move { lookout::look(&hands).await.map(drop) }));
    every("sweep", 600, |hands| {
        Box::pin(async move {
            let mut control = hands.cp.db.acquire().await?;
            idempotency::sweep(&mut control, hands.cp.clock.now()).await?;
            queue::job_sweep(&mut control, hands.cp.clock.now()).await
        })
    });
    for chore in chores {
        every(chore.name, chore.seconds, chore.repair);
    }
    tasks.spawn(refill(hands.clone(), alarm, stop.clone()));

    stop.cancelled().await;
    tasks.close();
    // A run that does not end in time is taken over by another worker when its lease runs out.
    if tokio::time::timeout(Duration::from_secs(10), tasks.wait()).await.is_err() {
        tracing::warn!("stopping with work in hand; another worker will take it over");
    }
}

const PROBE: &str = "probe";

fn outcome(done: &Result<()>) -> &'static str {
    if done.is_ok() { "ok" } else { "failed" }
}

/// A panic is a failure like any other: it must not end the loop that it happened in, and with it that repair for as
/// long as the worker runs.
async fn caught(repair: impl Future<Output = Result<()>>) -> Result<()> {
    AssertUnwindSafe(repair).catch_unwind().await.unwrap_or_else(|_| Err(Error::internal("it panicked")))
}

/// What a repair does.
pub type Repair = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Error::new(&codes::TIMEOUT).detail("the databases did not answer in time")))
}

/// Turns notifications into wake-ups. Without them the loops still look every half second.
async fn listen(hands: Hands, alarm: Arc<Notify>) {
    loop {
        let outcome = async {
            let mut listener = PgListener::connect_with(&hands.cp.db).await?;
            listener.listen(wake::WORK).await?;
            alarm.notify_waiters();
            loop {
                match tokio::time::timeout(HEARTBEAT, listener.recv()).await {
                    Ok(heard) => drop(heard?),
                    Err(_) => {
                        let alive = sqlx::query("SELECT 1").execute(&mut listener);
                        tokio::time::timeout(HEARTBEAT_LIMIT, alive)
                            .await
                            .map_err(|_| sqlx::Error::PoolTimedOut)??;
                        continue;
                    }
                }
                alarm.notify_waiters();
            }
        };
        let outcome: Result<(), sqlx::Error> = outcome.await;
        tracing::debug!(?outcome, "the worker's listener is reconnecting");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits for the alarm, which the caller began to listen for before it found nothing to do: a notification that comes in
/// between must not wait for the next look.
async fn pause(alarm: Notified<'_>, stop: &CancellationToken) {
    tokio::select! {
        () = alarm => {}
        () = tokio::time::sleep(LOOK) => {}
        () = stop.cancelled() => {}
    }
}

async fn take_runs(
    hands: Hands,
    pace: Pace,
    alarm: Arc<Notify>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let kinds = runs::names_of(pace, hands.cloud.is_there());
    let places = Arc::new(Semaphore::new(RUNS_AT_ONCE));
    while !stop.is_cancelled() {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let ringing = alarm.notified();
        match in_time(LEASE_LIMIT, saga::lease_of(&hands.cp.db, &hands.worker, &kinds)).await {
            Ok(Some(held)) => {
                let hands = hands.clone();
                tasks.spawn(async move {
                    let state = match runs::drive(&hands, &held).await {
                        Ok(state) => {
                            tracing::info!(run = %held.id, kind = held.kind, ?state, "run");
                            state.as_str()
                        }
                        Err(error) => {
                            tracing::warn!(run = %held.id, kind = held.kind, ?error, "an attempt ended early");
                            "lost"
                        }
                    };
                    metrics::counter!("worker_attempts_total", "kind" => held.kind.clone(), "state" => state)
                        .increment(1);
                    drop(place);
                });
            }
            Ok(None) => {
                drop(place);
                pause(ringing, &stop).await;
            }
            Err(error) => {
                drop(place);
                tracing::warn!(?error, "no runs can be taken");
                stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await;
            }
        }
    }
}

async fn take_jobs(hands: Hands, alarm: Arc<Notify>, stop: CancellationToken, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(JOBS_AT_ONCE));
    while !stop.is_cancelled() {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let ringing = alarm.notified();
        match in_time(LEASE_LIMIT, queue::job_lease(&hands.cp.db)).await {
            Ok(Some(job)) => {
                let hands = hands.clone();
                tasks.spawn(async move {
                    let done = caught(reconcile::do_job(&hands, &job)).await;
                    if let Err(error) = &done {
                        tracing::warn!(job = %job.id, kind = job.kind, ?error, "a job failed");
                    }
                    metrics::counter!("worker_jobs_total", "kind" => job.kind.clone(), "outcome" => outcome(&done))
                        .increment(1);
                    if let Err(error) = queue::job_close(&hands.cp.db, &job, &done).await {
                        tracing::warn!(job = %job.id, ?error, "a job's outcome could not be recorded; it will be done again");
                    }
                    faults::point("job", &job.kind, Moment::AfterRecord);
                    drop(place);
                });
            }
            Ok(None) => {
                drop(place);
                pause(ringing, &stop).await;
            }
            Err(_) => {
                drop(place);
                stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await;
            }
        }
    }
}

/// Keeps spare slots ready: a few whenever something happened, and all of them when nothing does or it has been long.
async fn refill(hands: Hands, alarm: Arc<Notify>, stop: CancellationToken) {
    let mut filled = Instant::now();
    while !stop.is_cancelled() {
        let ringing = alarm.notified();
        fill(&hands, Fill::Low).await;
        tokio::select! {
            () = ringing => if filled.elapsed() < FULL_AT_LEAST { continue },
            () = tokio::time::sleep(CALM) => {}
            () = stop.cancelled() => return,
        }
        let ringing = alarm.notified();
        fill(&hands, Fill::Full).await;
        filled = Instant::now();
        tokio::select! {
            () = ringing => {}
            () = tokio::time::sleep(FULL_AT_LEAST) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn fill(hands: &Hands, to: Fill) {
    if let Err(error) = caught(async { slots::refill(hands, to).await.map(drop) }).await {
        tracing::warn!(?error, "slots could not be refilled");
    }
}
