//! How much a tenant's idle connections are worth keeping: used often and lately is worth more.

use std::time::{Duration, Instant};

/// After this long without use, past use counts half.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// A use count that fades with time. Frequency and recency in one number, so that a tenant seen a hundred times an
/// hour ago gives way to one seen twice a second ago.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    uses: f64,
    at: Instant,
}

impl Worth {
    pub fn new(now: Instant) -> Self {
        Self { uses: 0.0, at: now }
    }

    /// Counts one use.
    pub fn touch(&mut self, now: Instant) {
        self.uses = self.at(now) + 1.0;
        self.at = now;
    }

    /// The faded count.
    pub fn at(&self, now: Instant) -> f64 {
        let halvings = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.uses * (-halvings).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn often_and_lately_beats_once_and_long_ago() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let uses = |times: &[u64]| {
            let mut worth = Worth::new(start);
            times.iter().for_each(|t| worth.touch(after(*t)));
            worth.at(after(600))
        };
        assert!(uses(&[599, 599]) > uses(&[599]), "frequency");
        assert!(uses(&[599]) > uses(&[500]), "recency");
        assert!(uses(&[598, 599]) > uses(&[0; 100]), "a busy past fades");
        assert!((uses(&[570]) - 0.5).abs() < 1e-9, "half after one half-life");
    }
}
