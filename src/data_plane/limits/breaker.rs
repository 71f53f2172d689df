//! Keeps requests away from a Redis that fails: the first failure opens it, one probe a second may close it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

const PROBE_EVERY_MS: u64 = 1_000;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Ask Redis.
    Closed,
    /// Do not; and it is this caller's turn to start a probe in the background.
    Probe,
    /// Do not.
    Open,
}

pub struct Breaker {
    start: Instant,
    /// 0 when closed, else the millisecond of the next probe.
    probe_at: AtomicU64,
    /// How often it has opened or closed.
    switches: AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { start: Instant::now(), probe_at: AtomicU64::new(0), switches: AtomicU64::new(0) }
    }
}

impl Breaker {
    pub fn gate(&self) -> Gate {
        let at = self.probe_at.load(SeqCst);
        if at == 0 {
            return Gate::Closed;
        }
        let now = self.now_ms();
        if now >= at && self.probe_at.compare_exchange(at, now + PROBE_EVERY_MS, SeqCst, SeqCst).is_ok() {
            return Gate::Probe;
        }
        Gate::Open
    }

    /// Redis failed. True for the failure that opened the breaker.
    pub fn open(&self) -> bool {
        let opened =
            self.probe_at.compare_exchange(0, self.now_ms() + PROBE_EVERY_MS, SeqCst, SeqCst).is_ok();
        self.switches.fetch_add(opened.into(), SeqCst);
        opened
    }

    /// A probe was answered.
    pub fn close(&self) {
        let was_open = self.probe_at.swap(0, SeqCst) != 0;
        self.switches.fetch_add(was_open.into(), SeqCst);
    }

    pub fn is_open(&self) -> bool {
        self.probe_at.load(SeqCst) != 0
    }

    pub fn switches(&self) -> u64 {
        self.switches.load(SeqCst)
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_opens_one_probe_a_second_closes() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.gate(), Gate::Closed);
        assert!(breaker.open());
        assert!(!breaker.open());
        assert_eq!(breaker.gate(), Gate::Open);
        breaker.start -= std::time::Duration::from_secs(2);
        assert_eq!(breaker.gate(), Gate::Probe);
        assert_eq!(breaker.gate(), Gate::Open, "one probe at a time");
        breaker.close();
        assert_eq!(breaker.gate(), Gate::Closed);
    }
}
