//! The worker: carries out runs and jobs as they appear, and repairs what has drifted, until it is told to stop.
//!
//! Any number of workers may run. What must not be done twice at once is leased; the rest is safe to do twice.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::infra::{dedicated, lookout, resources};
use super::slots::Fill;
use super::{Hands, idempotency, probe, reconcile, runs, slots, tenant_jobs, trim};
use crate::jobs::faults::{self, Moment};
use crate::jobs::listen::{Heard, listen};
use crate::jobs::rounds::{Round, caught, in_time, outcome};
use crate::jobs::saga::Pace;
use crate::jobs::supervise::supervise;
use crate::jobs::{queue, saga, wake};
use crate::kernel::Result;

/// Runs carried out side by side, of each pace: what waits for a cloud takes no place from what waits for a database.
const RUNS_AT_ONCE: usize = 4;
/// Jobs carried out side by side.
pub const JOBS_AT_ONCE: usize = 4;
/// How often to look for work that no notification told of: expired leases, retries that are due.
const LOOK: Duration = Duration::from_millis(500);

/// Longest wait for the control database to say what is to be done. A database behind a cut cable says nothing, and
/// nothing but a limit of our own ends the wait before the operating system does after a quarter of an hour.
const LEASE_LIMIT: Duration = Duration::from_secs(5);
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

/// What a repair does.
pub type Repair = BoxFuture<'static, Result<()>>;

/// A repair that comes again: one of this module's, or one that a module above it brings along.
pub struct Chore {
    pub name: &'static str,
    /// From one to the next.
    pub seconds: u64,
    pub repair: fn(Hands) -> Repair,
}

impl Chore {
    fn round(&self) -> Round {
        let every = Duration::from_secs(self.seconds);
        // Long enough for any that works.
        Round { name: self.name, every, limit: every * 10 }
    }
}

/// Looks at every shard. Of its own, because the worker's [`Pulse`] is its.
const PROBE: Chore = Chore {
    name: "probe",
    seconds: 2,
    repair: |hands| Box::pin(async move { probe::probe_all(&hands).await }),
};

/// All others; a new one is one entry.
const CHORES: &[Chore] = &[
    Chore {
        name: "slot_repair",
        seconds: 5,
        repair: |hands| Box::pin(async move { slots::repair(&hands).await }),
    },
    Chore {
        name: "watchdog",
        seconds: 3,
        repair: |hands| Box::pin(async move { reconcile::watchdog(&hands).await.map(drop) }),
    },
    Chore {
        name: "logins",
        seconds: 60,
        repair: |hands| Box::pin(async move { reconcile::repair_logins(&hands).await.map(drop) }),
    },
    Chore {
        name: "purge_due",
        seconds: 60,
        repair: |hands| Box::pin(async move { reconcile::purge_due(&hands.cp).await.map(drop) }),
    },
    Chore {
        name: "regular_jobs",
        seconds: 60,
        repair: |hands| Box::pin(async move { tenant_jobs::add_due(&hands).await.map(drop) }),
    },
    Chore {
        name: "resources_due",
        seconds: 2,
        repair: |hands| Box::pin(async move { resources::begin_due(&hands).await.map(drop) }),
    },
    Chore {
        name: "infra_seen",
        seconds: 10,
        repair: |hands| Box::pin(async move { dedicated::seen(&hands).await }),
    },
    Chore {
        name: "infra_lookout",
        seconds: 60,
        repair: |hands| Box::pin(async move { lookout::look(&hands).await.map(drop) }),
    },
    Chore { name: "sweep", seconds: 600, repair: |hands| Box::pin(sweep(hands)) },
    Chore { name: "trim", seconds: 3600, repair: |hands| Box::pin(async move { trim::trim(&hands).await }) },
];

/// Forgets what is long done.
async fn sweep(hands: Hands) -> Result<()> {
    let mut control = hands.cp.db.acquire().await?;
    idempotency::sweep(&mut control, hands.cp.clock.now()).await?;
    queue::job_sweep(&mut control, hands.cp.clock.now()).await
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
    let hand = Hand { hands: hands.clone(), alarm, tasks: tasks.clone() };
    let own = hand.clone();
    tasks.spawn(supervise("worker_listener", stop.clone(), move |stop| hear(own.clone(), stop)));
    for pace in [Pace::Quick, Pace::Slow] {
        let own = hand.clone();
        tasks.spawn(supervise("worker_runs", stop.clone(), move |stop| take_runs(own.clone(), pace, stop)));
    }
    let own = hand.clone();
    tasks.spawn(supervise("worker_jobs", stop.clone(), move |stop| take_jobs(own.clone(), stop)));
    tasks.spawn(supervise("worker_slots", stop.clone(), move |stop| refill(hand.clone(), stop)));

    let probed = hands.clone();
    tasks.spawn(PROBE.round().again_and_again(stop.clone(), move || {
        let (hands, pulse) = (probed.clone(), pulse.clone());
        async move {
            (PROBE.repair)(hands).await?;
            pulse.beat();
            Ok(())
        }
    }));
    for chore in CHORES.iter().chain(chores) {
        let hands = hands.clone();
        tasks.spawn(chore.round().again_and_again(stop.clone(), move || (chore.repair)(hands.clone())));
    }

    stop.cancelled().await;
    tasks.close();
    // A run that does not end in time is taken over by another worker when its lease runs out.
    if tokio::time::timeout(Duration::from_secs(10), tasks.wait()).await.is_err() {
        tracing::warn!("stopping with work in hand; another worker will take it over");
    }
}

/// What a worker's own tasks share.
#[derive(Clone)]
struct Hand {
    hands: Hands,
    /// Rings when there may be work.
    alarm: Arc<Notify>,
    /// What is in hand.
    tasks: TaskTracker,
}

/// Turns notifications into wake-ups. Without them the loops still look every half second.
async fn hear(Hand { hands, alarm, .. }: Hand, stop: CancellationToken) {
    let hearing = listen(&hands.cp.db, wake::WORK, |heard| match heard {
        Heard::Listening | Heard::Note(_) => alarm.notify_waiters(),
        Heard::Lost => {}
    });
    stop.run_until_cancelled(hearing).await;
}

/// There was nothing to take: waits for the alarm, which the caller began to listen for before it looked, because a
/// notification that comes in between must not wait for the next look. Where the control database did not say what there
/// is to do, for a moment.
async fn idle(what: &'static str, looked: Result<()>, alarm: Notified<'_>, stop: &CancellationToken) {
    let Err(error) = looked else {
        tokio::select! {
            () = alarm => {}
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => {}
        }
        return;
    };
    metrics::counter!("worker_rounds_total", "round" => what, "outcome" => "failed").increment(1);
    tracing::warn!(?error, "no {what} can be taken");
    stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await;
}

async fn take_runs(Hand { hands, alarm, tasks }: Hand, pace: Pace, stop: CancellationToken) {
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
            nothing => {
                drop(place);
                idle("runs", nothing.map(drop), ringing, &stop).await;
            }
        }
    }
}

async fn take_jobs(Hand { hands, alarm, tasks }: Hand, stop: CancellationToken) {
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
            nothing => {
                drop(place);
                idle("jobs", nothing.map(drop), ringing, &stop).await;
            }
        }
    }
}

/// Keeps spare slots ready: a few whenever something happened, and all of them when nothing does or it has been long.
async fn refill(Hand { hands, alarm, .. }: Hand, stop: CancellationToken) {
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
