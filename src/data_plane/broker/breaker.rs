//! When a shard does not answer, say so at once instead of letting every request find out slowly.

use std::time::{Duration, Instant};

/// A circuit breaker over connection attempts. Pure: time comes in as an argument.
#[derive(Debug)]
pub struct Breaker {
    /// Failures in a row that open it.
    threshold: u32,
    /// While open, one attempt is let through this often.
    probe_every: Duration,
    failures: u32,
    /// `Some` while open: when the next probe may go out.
    next_probe: Option<Instant>,
}

impl Breaker {
    pub fn new(threshold: u32, probe_every: Duration) -> Self {
        Self { threshold, probe_every, failures: 0, next_probe: None }
    }

    /// Whether a connection may be tried now. While open, a `true` is the one probe of its second: the next one is
    /// booked here and not when the probe ends, so that a probe whose future is dropped blocks nobody.
    pub fn admits(&mut self, now: Instant) -> bool {
        match &mut self.next_probe {
            None => true,
            Some(at) if now >= *at => {
                *at = now + self.probe_every;
                true
            }
            Some(_) => false,
        }
    }

    /// The server answered (a refusal is an answer too).
    pub fn answered(&mut self) {
        self.failures = 0;
        self.next_probe = None;
    }

    /// The server did not answer.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.threshold {
            self.next_probe = Some(now + self.probe_every);
        }
    }

    /// Opens at once: the server is known not to answer. When it is open already, nothing changes: many find out at the
    /// same time, and each of them putting the next probe off would keep a shard shut that is back.
    pub fn trip(&mut self, now: Instant) {
        if !self.is_open() {
            self.failures = self.threshold;
            self.failed(now);
        }
    }

    pub fn is_open(&self) -> bool {
        self.next_probe.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn opens_after_failures_in_a_row_and_lets_one_probe_a_second_through() {
        let (mut breaker, start) = (Breaker::new(3, SECOND), Instant::now());
        breaker.failed(start);
        breaker.failed(start);
        breaker.answered();
        breaker.failed(start);
        breaker.failed(start);
        assert!(!breaker.is_open() && breaker.admits(start), "two in a row are not three");
        breaker.failed(start);
        assert!(breaker.is_open() && !breaker.admits(start));
        assert!(!breaker.admits(start + SECOND / 2));
        assert!(breaker.admits(start + SECOND), "one probe");
        assert!(!breaker.admits(start + SECOND), "and only one");
        assert!(breaker.admits(start + SECOND * 2), "a lost probe does not block the next");
        breaker.answered();
        assert!(!breaker.is_open() && breaker.admits(start + SECOND * 2));
    }

    #[test]
    fn a_trip_opens_at_once_and_puts_no_probe_off() {
        let (mut breaker, start) = (Breaker::new(3, SECOND), Instant::now());
        breaker.trip(start);
        assert!(breaker.is_open());
        breaker.trip(start + SECOND / 2);
        assert!(breaker.admits(start + SECOND));
    }
}
