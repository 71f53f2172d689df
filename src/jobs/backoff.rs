//! How long to wait before the next try: the one back-off of this program.

use std::time::Duration;

use crate::kernel::Entropy;

/// Twice as long after each try, spread over the upper half, so that those who failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits from half of `first` on, and never longer than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The wait after so many tries; `jitter` is a random number in `0..1`. Pure.
    pub fn wait(self, tries: i32, jitter: f64) -> Duration {
        let doubled = self.first.as_secs_f64() * 2f64.powi(tries.saturating_sub(1).clamp(0, 30));
        let whole = doubled.min(self.longest.as_secs_f64());
        Duration::from_secs_f64(whole * (0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }

    /// The wait after so many tries, with a random number of its own.
    pub fn after(self, tries: i32) -> Duration {
        let random = u32::from_ne_bytes(Entropy::default().bytes());
        self.wait(tries, f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_its_end_and_is_spread_over_the_upper_half() {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let whole = |tries| backoff.wait(tries, 1.0);
        assert_eq!([whole(1), whole(2), whole(3)], [200, 400, 800].map(Duration::from_millis));
        for tries in [-3, 0] {
            assert_eq!(whole(tries), Duration::from_millis(200), "{tries}");
        }
        for tries in [30, i32::MAX] {
            assert_eq!(whole(tries), Duration::from_secs(30), "{tries}");
        }
        assert_eq!(backoff.wait(2, 0.0), Duration::from_millis(200));
        let waits: Vec<_> = (0..32).map(|_| backoff.after(2)).collect();
        assert!(waits.iter().all(|wait| (200..=400).contains(&wait.as_millis())), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]), "spread: {waits:?}");
    }
}
