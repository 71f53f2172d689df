//! Tasks that have to run for as long as the process does.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;

/// Between an end that should not have been and the next beginning.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// A task that ran for this long before it ended is begun again as if it were the first time.
const STEADY: Duration = Duration::from_secs(60);

/// Runs a task until `stop` is cancelled. One that panics, or ends before it was asked to, is begun again after a
/// moment, said in the log and counted in `tasks_restarted_total`. The task is given `stop` and ends by it; one that is
/// down at that moment is begun once more, so that what it does at the end is done.
pub async fn supervise<F>(name: &'static str, stop: CancellationToken, begin: impl Fn(CancellationToken) -> F)
where
    F: Future<Output = ()>,
{
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let task = AssertUnwindSafe(async { begin(stop.clone()).await });
        let panicked = task.catch_unwind().await.is_err();
        if stop.is_cancelled() {
            if panicked {
                tracing::error!(task = name, "a task panicked at its end");
            }
            return;
        }
        failures = if begun.elapsed() >= STEADY { 1 } else { failures + 1 };
        metrics::counter!("tasks_restarted_total", "task" => name).increment(1);
        tracing::error!(task = name, panicked, "a task ended that should not; it is begun again");
        stop.run_until_cancelled(tokio::time::sleep(AGAIN.after(failures))).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    /// Should fail: without `catch_unwind`.
    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_begun_again_until_it_is_stopped() {
        let begun = Arc::new(AtomicU32::new(0));
        let (stop, counted) = (CancellationToken::new(), begun.clone());
        let task = supervise("test", stop.clone(), move |stop| {
            let counted = counted.clone();
            async move {
                match counted.fetch_add(1, SeqCst) {
                    0 => panic!("the first time"),
                    1 => {}
                    _ => stop.cancelled().await,
                }
            }
        });
        let task = tokio::spawn(task);
        while begun.load(SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        assert!(!task.is_finished());
        stop.cancel();
        task.await.unwrap();
        assert_eq!(begun.load(SeqCst), 3);
    }

    /// Should fail: `return` as soon as `stop` is cancelled.
    #[tokio::test]
    async fn what_a_task_does_at_the_end_is_done_also_when_it_is_down() {
        let begun = Arc::new(AtomicU32::new(0));
        let (stop, counted) = (CancellationToken::new(), begun.clone());
        let stops = stop.clone();
        supervise("test", stop, move |stop| {
            let (counted, stops) = (counted.clone(), stops.clone());
            async move {
                counted.fetch_add(1, SeqCst);
                if !stop.is_cancelled() {
                    tokio::spawn(async move { stops.cancel() });
                    panic!("down");
                }
            }
        })
        .await;
        assert_eq!(begun.load(SeqCst), 2);
    }
}
