//! Work that a worker does again and again: repairs, samples, what is due. Each has a name, a pace and a limit, and none
//! can end another, or itself.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::kernel::{Error, Result, codes};

/// What comes at least this seldom is for what goes wrong over time, not for the first second.
const RARE: Duration = Duration::from_secs(60);
/// When it comes for the first time.
const RARE_FIRST: Duration = Duration::from_secs(10);

/// A kind of round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Names it in the log and in `worker_rounds_total`.
    pub name: &'static str,
    /// From one to the next.
    pub every: Duration,
    /// The longest one may take: one that hangs must not be the last.
    pub limit: Duration,
}

impl Round {
    /// Does it until `stop` is cancelled; what is in hand then is finished. Each one is counted by its outcome in
    /// `worker_rounds_total`, and one that failed is said in the log.
    pub async fn again_and_again<F>(self, stop: CancellationToken, work: impl Fn() -> F)
    where
        F: Future<Output = Result<()>>,
    {
        let first = if self.every < RARE { Duration::ZERO } else { RARE_FIRST };
        let mut tick = tokio::time::interval_at(Instant::now() + first, self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let done = caught(in_time(self.limit, async { work().await })).await;
            metrics::counter!("worker_rounds_total", "round" => self.name, "outcome" => outcome(&done))
                .increment(1);
            if let Err(error) = done {
                tracing::warn!(round = self.name, ?error, "a round failed; it will be tried again");
            }
        }
    }
}

/// How a piece of work went, as a label.
pub fn outcome(done: &Result<()>) -> &'static str {
    if done.is_ok() { "ok" } else { "failed" }
}

/// A panic is a failure like any other: it must not end the loop that it happened in.
///
/// # Errors
/// What the work says; `internal` when it panicked.
pub async fn caught(work: impl Future<Output = Result<()>>) -> Result<()> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(Error::internal("it panicked")))
}

/// # Errors
/// What the work says; `timeout` when it takes longer.
pub async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Error::new(&codes::TIMEOUT).detail("it was not done in time")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    /// Should fail: without `caught`, and without `in_time`.
    #[tokio::test]
    async fn neither_a_failure_nor_a_panic_nor_a_hang_is_the_last_round() {
        let rounds = Arc::new(AtomicU32::new(0));
        let (stop, counted) = (CancellationToken::new(), rounds.clone());
        let every = Duration::from_millis(1);
        let round = Round { name: "test", every, limit: Duration::from_millis(50) };
        let task = tokio::spawn(round.again_and_again(stop.clone(), move || {
            let counted = counted.clone();
            async move {
                match counted.fetch_add(1, SeqCst) {
                    0 => Err(Error::internal("the first")),
                    1 => panic!("the second"),
                    2 => std::future::pending().await,
                    _ => Ok(()),
                }
            }
        }));
        let all = async {
            while rounds.load(SeqCst) < 5 {
                tokio::time::sleep(every).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("it goes on");
        stop.cancel();
        task.await.unwrap();
    }
}
