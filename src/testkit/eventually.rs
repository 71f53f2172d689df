//! Waiting without sleeping for a guessed time.

use std::fmt::Display;
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(10);

/// Looks again and again until `look` finds something, and gives that. What it says instead, as `Err`, is what the
/// failure reports as last seen.
///
/// # Panics
/// When `deadline` has passed, with `what`, the last thing seen and the caller's place.
#[track_caller]
pub fn eventually<T, S, F>(deadline: Duration, what: &str, mut look: F) -> impl Future<Output = T>
where
    F: AsyncFnMut() -> Result<T, S>,
    S: Display,
{
    let caller = Location::caller();
    async move {
        let end = Instant::now() + deadline;
        let mut last = "nothing: the first look did not end".to_owned();
        loop {
            // A look that hangs must not outlast the deadline.
            match tokio::time::timeout_at(end, look()).await {
                Ok(Ok(found)) => return found,
                Ok(Err(seen)) => last = seen.to_string(),
                Err(_) => last = format!("{last} (and then a look that did not end)"),
            }
            assert!(Instant::now() < end, "{caller}: not within {deadline:?}: {what}; last seen: {last}");
            tokio::time::sleep(POLL).await;
        }
    }
}
