//! One cached entry, and the signals that make it doubtful.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::Lookup;
use super::freshness::Weather;

/// A value, when it was asked for, and whether something has happened since.
pub struct Held<T> {
    pub value: Arc<T>,
    asked: Instant,
    /// How often everything had been doubted when it was asked for.
    flushes: u64,
    doubted: AtomicBool,
}

impl<T> Held<T> {
    pub fn new(value: Arc<T>, flushes: u64) -> Self {
        Self { value, asked: Instant::now(), flushes, doubted: AtomicBool::new(false) }
    }

    pub fn age(&self) -> Duration {
        self.asked.elapsed()
    }

    pub fn doubt(&self) {
        self.doubted.store(true, SeqCst);
    }

    pub fn doubted(&self, signals: &Signals) -> bool {
        self.doubted.load(SeqCst) || self.flushes != signals.flushes()
    }
}

/// After a failed lookup, one request in this time tries again.
const TRY_EVERY_MS: u64 = 1_000;

/// What happened, as counters that lookups compare before and after.
pub struct Signals {
    start: Instant,
    tenant_changes: AtomicU64,
    key_changes: AtomicU64,
    people_changes: AtomicU64,
    flushes: AtomicU64,
    lookups: AtomicU64,
    listening: AtomicBool,
    /// 0: the last lookup succeeded. Else the millisecond from which the next may try.
    try_at: AtomicU64,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            tenant_changes: AtomicU64::new(0),
            key_changes: AtomicU64::new(0),
            people_changes: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            lookups: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            try_at: AtomicU64::new(0),
        }
    }
}

impl Signals {
    /// Counts a change of the kind this lookup is about.
    pub fn count(&self, lookup: &Lookup) {
        self.counter(lookup).fetch_add(1, SeqCst);
    }

    pub fn changes(&self, lookup: &Lookup) -> u64 {
        self.counter(lookup).load(SeqCst)
    }

    fn counter(&self, lookup: &Lookup) -> &AtomicU64 {
        match lookup {
            Lookup::Key(_) | Lookup::Support(_) => &self.key_changes,
            Lookup::Account(_) | Lookup::Session(_) => &self.people_changes,
            Lookup::Tenant(_) | Lookup::Slug(_) | Lookup::Domain(_) => &self.tenant_changes,
        }
    }

    /// Everything cached so far is doubtful.
    pub fn flush(&self) {
        self.tenant_changes.fetch_add(1, SeqCst);
        self.key_changes.fetch_add(1, SeqCst);
        self.people_changes.fetch_add(1, SeqCst);
        self.flushes.fetch_add(1, SeqCst);
    }

    pub fn flushes(&self) -> u64 {
        self.flushes.load(SeqCst)
    }

    /// Counts a question to the control database.
    pub fn looked(&self) {
        self.lookups.fetch_add(1, SeqCst);
    }

    pub fn lookups(&self) -> u64 {
        self.lookups.load(SeqCst)
    }

    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, SeqCst);
    }

    pub fn weather(&self) -> Weather {
        Weather { listening: self.listening.load(SeqCst), reachable: self.try_at.load(SeqCst) == 0 }
    }

    /// A lookup was answered.
    pub fn reached(&self) {
        self.try_at.store(0, SeqCst);
    }

    /// A lookup failed. True for the first of a series.
    pub fn missed(&self) -> bool {
        self.try_at.swap(self.now_ms() + TRY_EVERY_MS, SeqCst) == 0
    }

    /// Whether a refresh may go out now: always in good weather, once a second after a failure.
    pub fn may_try(&self) -> bool {
        let at = self.try_at.load(SeqCst);
        let now = self.now_ms();
        at == 0 || (now >= at && self.try_at.compare_exchange(at, now + TRY_EVERY_MS, SeqCst, SeqCst).is_ok())
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_doubts_what_came_before_it_only() {
        let signals = Signals::default();
        let before = Held::new(Arc::new(1), signals.flushes());
        signals.flush();
        let after = Held::new(Arc::new(2), signals.flushes());
        assert!(before.doubted(&signals));
        assert!(!after.doubted(&signals));
        after.doubt();
        assert!(after.doubted(&signals));
    }

    #[test]
    fn after_a_failure_one_caller_a_second_tries() {
        let mut signals = Signals::default();
        signals.start -= Duration::from_secs(1);
        assert!(signals.may_try() && signals.may_try());
        assert!(signals.missed());
        assert!(!signals.missed(), "only the first failure is worth a log line");
        assert!(!signals.weather().reachable);
        assert!(!signals.may_try());
        signals.try_at.store(1, SeqCst);
        assert!(signals.may_try());
        assert!(!signals.may_try());
        signals.reached();
        assert!(signals.weather().reachable && signals.may_try());
    }
}
