//! How much connections are worth keeping: used often and lately is worth more. And what is remembered of tenants that
//! have none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After this long without use, past use counts half.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// A use of a further connection counts as this many halvings of one of the only connection: without it a request waits
/// for a moment, without the only one it logs in.
const EXTRA: f64 = 3.0;

/// A use count that fades with time. Frequency and recency in one number, so that a tenant seen a hundred times an
/// hour ago gives way to one seen twice a second ago.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    /// The binary logarithm of the count. What fades by halves then fades by subtraction, and comparing hundreds of them
    /// takes no exponential each.
    log: f64,
    at: Instant,
}

impl Worth {
    /// Never used.
    pub fn new(now: Instant) -> Self {
        Self { log: f64::NEG_INFINITY, at: now }
    }

    /// Counts one use.
    pub fn touch(&mut self, now: Instant) {
        self.log = (self.log_at(now).exp2() + 1.0).log2();
        self.at = now;
    }

    /// The logarithm of the faded count: enough to compare by.
    pub fn log_at(&self, now: Instant) -> f64 {
        self.log - now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64()
    }
}

/// How often a tenant needed its first, second, third … connection.
///
/// The last connection of several is worth what it alone serves, and not its share of everything: of eight connections
/// of a busy tenant the eighth may be needed once a minute.
#[derive(Clone, Debug)]
pub struct Demand {
    all: Worth,
    /// Uses with exactly two, three … connections in use, its own included.
    more: Vec<Worth>,
}

impl Demand {
    pub fn new(now: Instant) -> Self {
        Self::from(Worth::new(now))
    }

    /// Counts one use, with `running` connections in use, its own included.
    pub fn touch(&mut self, running: usize, now: Instant) {
        self.all.touch(now);
        if let Some(more) = running.checked_sub(2) {
            if self.more.len() <= more {
                self.more.resize(more + 1, Worth::new(now));
            }
            self.more[more].touch(now);
        }
    }

    /// The worth of the last of `conns` connections, as [`Worth::log_at`].
    pub fn of_last(&self, conns: usize, now: Instant) -> f64 {
        match conns.checked_sub(2) {
            None => self.all.log_at(now),
            Some(more) => self.more.get(more).map_or(f64::NEG_INFINITY, |worth| worth.log_at(now) - EXTRA),
        }
    }

    pub fn all(&self) -> Worth {
        self.all
    }
}

impl From<Worth> for Demand {
    fn from(all: Worth) -> Self {
        Self { all, more: Vec::new() }
    }
}

/// What is remembered of tenants without a connection, so that a busy one that lost its last comes back as what it is
/// and not as a one-off visitor. Bounded: when full, the half that is worth less is forgotten.
#[derive(Debug)]
pub struct History {
    limit: usize,
    worths: HashMap<Arc<str>, Worth>,
}

impl History {
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), worths: HashMap::new() }
    }

    /// Remembers a tenant that lost its last connection.
    pub fn keep(&mut self, role: Arc<str>, worth: Worth, now: Instant) {
        self.worths.insert(role, worth);
        if self.worths.len() <= self.limit {
            return;
        }
        let mut all: Vec<(f64, Arc<str>)> =
            self.worths.iter().map(|(role, worth)| (worth.log_at(now), role.clone())).collect();
        let goes = all.len() - self.limit / 2;
        all.select_nth_unstable_by(goes - 1, |(left, _), (right, _)| left.total_cmp(right));
        all[..goes].iter().for_each(|(_, role)| {
            self.worths.remove(role);
        });
    }

    /// What was remembered of a tenant that gets a connection again.
    pub fn recall(&mut self, role: &str) -> Option<Worth> {
        self.worths.remove(role)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.worths.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn often_and_lately_beats_once_and_long_ago() {
        let start = Instant::now();
        let uses = |times: &[u64]| {
            let mut worth = Worth::new(start);
            times.iter().for_each(|t| worth.touch(start + secs(*t)));
            worth.log_at(start + secs(600)).exp2()
        };
        assert!(uses(&[599, 599]) > uses(&[599]), "frequency");
        assert!(uses(&[599]) > uses(&[500]), "recency");
        assert!(uses(&[598, 599]) > uses(&[0; 100]), "a busy past fades");
        assert!((uses(&[570]) - 0.5).abs() < 1e-9, "half after one half-life");
        assert_eq!(uses(&[]), 0.0, "never used, worth nothing");
    }

    #[test]
    fn the_last_of_several_is_worth_what_it_alone_serves() {
        let now = Instant::now();
        let mut demand = Demand::new(now);
        (0..100).for_each(|_| demand.touch(1, now));
        (0..10).for_each(|_| demand.touch(2, now));
        demand.touch(3, now);
        let worth = |conns| (demand.of_last(conns, now).exp2() * 8.0).round();
        assert_eq!([1, 2, 3, 4].map(worth), [888.0, 10.0, 1.0, 0.0], "a further one counts an eighth");
    }

    #[test]
    fn a_full_history_forgets_what_is_worth_least() {
        let now = Instant::now();
        let mut history = History::new(100);
        for n in 0..1_000_u32 {
            let mut worth = Worth::new(now);
            // Every tenth is busy.
            (0..if n % 10 == 0 { 50 } else { 1 }).for_each(|_| worth.touch(now));
            history.keep(n.to_string().into(), worth, now);
            assert!(history.len() <= 100);
        }
        let busy = (0..1_000).step_by(10).filter(|n| history.recall(&n.to_string()).is_some()).count();
        // The limit is 100 and there are 100 busy ones among a thousand; half of the room is kept at each clearing.
        assert!(busy >= 50, "only {busy} of the busy ones are remembered");
    }
}
