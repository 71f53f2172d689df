//! What this process believes of one tenant's count of requests, and when that is enough to let one through without asking.
//! Pure.
//!
//! Unlike a burst, a month's limit is exact: none passes beyond it. A request is let through on trust only when it could not
//! pass it, whatever the other replicas did since Redis was last asked: they are held to the plan's rate, so at most the
//! burst and the rate over that time passed. Nearer to the limit Redis is asked for each request, and decides in one step.
//! For a plan of a million requests at a hundred a second, that is the last few hundred of them.

use super::super::gcra::Policy;
use crate::billing::quotas::Month;

/// A limit is tried again this often once it is reached, in microseconds: somebody may have raised it.
const AGAIN_US: i64 = 1_000_000;
/// What is owed is counted by then, in microseconds, unless Redis is away. Far more than it takes.
const COUNTED_WITHIN_US: i64 = 1_000_000;
/// Requests that all replicas together may owe: one in so many of the limit, and at most so many.
const TRUST_PART: i64 = 1_024;
const TRUST_MOST: i64 = 50_000;

/// What a tenant may do in a month, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub month: Month,
    /// None: requests are counted, without a limit.
    pub limit: Option<i64>,
    pub rate: Policy,
    /// Server processes that share the tenant's traffic.
    pub replicas: i64,
}

impl Quota {
    fn limit(self) -> i64 {
        self.limit.unwrap_or(i64::MAX)
    }

    /// Requests that one process may owe.
    fn most_owed(self) -> i64 {
        (self.limit() / TRUST_PART).min(TRUST_MOST) / self.replicas
    }

    /// Requests that all replicas together may have let through in so many microseconds, besides what they owed before.
    fn most_passed(self, us: i64) -> i64 {
        let rate = us.max(0) / self.rate.interval_us.max(1) + 1;
        rate.saturating_add(self.rate.burst).saturating_add(self.rate.trust())
    }
}

/// What to do about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The answer is known. With `first`, it is the first that is owed: somebody has to see that it is counted.
    Here { allowed: bool, used: i64, first: bool },
    /// Ask Redis, and count what is owed on the way.
    Ask { owed: i64, known: i64 },
}

/// One tenant's count as seen from here. Times are microseconds of this process's own clock.
#[derive(Debug, Default)]
pub struct Count {
    month: Option<Month>,
    /// What was counted when that was last said, and when it was asked for. None when it has to be asked first.
    told: Option<(i64, i64)>,
    owed: i64,
    /// Whether what is known here is not yet written down.
    unwritten: bool,
}

impl Count {
    /// Decides about a request, or says that Redis has to. One that `passes` is let through in any case, and counted.
    pub fn look(&mut self, quota: Quota, passes: bool, now: i64) -> Next {
        self.turn(quota.month);
        let Some((used, at)) = self.told else {
            return Next::Ask { owed: self.pay(), known: 0 };
        };
        if used >= quota.limit() {
            return match passes {
                false if now - at < AGAIN_US => Next::Here { allowed: false, used, first: false },
                _ => Next::Ask { owed: self.pay(), known: used },
            };
        }
        let elsewhere = quota.most_owed() * quota.replicas + quota.most_passed(now - at + COUNTED_WITHIN_US);
        if self.owed < quota.most_owed() && used.saturating_add(elsewhere) < quota.limit() {
            let first = self.owe();
            return Next::Here { allowed: true, used: used + self.owed, first };
        }
        Next::Ask { owed: self.pay(), known: used }
    }

    /// Decides without Redis: each replica takes it that the others let as many through as it does itself. What passes is
    /// owed.
    ///
    /// Gives whether it passes, how many were used as far as is known here, and whether it is the first that is owed.
    pub fn alone(&mut self, quota: Quota, passes: bool) -> (bool, i64, bool) {
        self.turn(quota.month);
        let used = self.told.map_or(0, |(used, _)| used);
        let everywhere = self.owed.saturating_mul(quota.replicas).saturating_add(used);
        let allowed = passes || everywhere < quota.limit();
        let first = allowed && self.owe();
        (allowed, used + self.owed, first)
    }

    /// Another month begins at nothing. What was owed for the last is dropped: it is over.
    pub fn turn(&mut self, month: Month) {
        if self.month != Some(month) {
            *self = Self { month: Some(month), ..Self::default() };
        }
    }

    fn owe(&mut self) -> bool {
        self.owed += 1;
        self.owed == 1
    }

    /// Takes over what is owed, to be counted now.
    pub fn pay(&mut self) -> i64 {
        std::mem::take(&mut self.owed)
    }

    /// What was taken over was not counted: it is owed again. True when nothing else was.
    pub fn unpaid(&mut self, month: Month, owed: i64) -> bool {
        if self.month != Some(month) || owed == 0 {
            return false;
        }
        let first = self.owed == 0;
        self.owed += owed;
        first
    }

    /// Notes what was counted, as it was said in answer to a question sent at `sent`. True when it is the first that is not
    /// yet written down.
    pub fn learn(&mut self, month: Month, used: i64, sent: i64) -> bool {
        if self.month != Some(month) {
            return false;
        }
        let news = self.told.is_none_or(|(before, _)| used > before);
        // A count only goes up, so the larger one is the truer; and it was true at the later time, too, or less than true.
        self.told = Some(self.told.map_or((used, sent), |(before, at)| (before.max(used), at.max(sent))));
        news && !std::mem::replace(&mut self.unwritten, true)
    }

    /// What is known of this month and when it was asked for.
    pub fn told(&self, month: Month) -> Option<(i64, i64)> {
        self.told.filter(|_| self.month == Some(month))
    }

    /// What is to be written down: month and count. It counts as written from here on.
    pub fn write(&mut self) -> Option<(Month, i64)> {
        self.unwritten = false;
        Some((self.month?, self.told?.0))
    }

    /// It was not written. True when nothing else waits to be.
    pub fn unwritten(&mut self) -> bool {
        !std::mem::replace(&mut self.unwritten, true)
    }

    /// The month that is counted.
    pub fn month(&self) -> Option<Month> {
        self.month
    }

    /// Whether something would be lost by forgetting it.
    pub fn matters(&self) -> bool {
        self.owed > 0 || self.unwritten
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn month(text: &str) -> Month {
        Month::holding(text.parse().unwrap())
    }

    fn quota(limit: i64, replicas: i64) -> Quota {
        Quota {
            month: month("2026-11-21"),
            limit: Some(limit),
            // One in ten milliseconds, forty at once.
            rate: Policy { interval_us: 10_000, burst: 40 },
            replicas,
        }
    }

    #[test]
    fn far_from_the_limit_on_trust_and_near_it_by_asking() {
        let quota = quota(100_000, 1);
        let mut count = Count::default();
        assert_eq!(count.look(quota, false, 0), Next::Ask { owed: 0, known: 0 }, "nothing is known");
        assert!(count.learn(quota.month, 1, 0));
        for n in 1..=97 {
            let want = Next::Here { allowed: true, used: 1 + n, first: n == 1 };
            assert_eq!(count.look(quota, false, 0), want);
        }
        assert_eq!(count.look(quota, false, 0), Next::Ask { owed: 97, known: 1 }, "no more on trust");
        // Of the last 97 + 101 + 40 + 2 each is asked for.
        count.learn(quota.month, 99_759, 0);
        assert!(matches!(count.look(quota, false, 0), Next::Here { allowed: true, .. }));
        count.learn(quota.month, 99_760, 0);
        assert_eq!(count.look(quota, false, 0), Next::Ask { owed: 1, known: 99_760 });
        // After a while more may have passed elsewhere.
        let mut count = Count::default();
        count.turn(quota.month);
        count.learn(quota.month, 90_000, 0);
        assert!(matches!(count.look(quota, false, 90_000_000), Next::Here { .. }));
        assert!(matches!(count.look(quota, false, 99_000_000), Next::Ask { .. }));
    }

    #[test]
    fn a_limit_that_is_reached_is_known_for_a_second_and_a_larger_one_at_once() {
        let small = quota(10, 1);
        let mut count = Count::default();
        count.turn(small.month);
        count.learn(small.month, 10, 0);
        assert_eq!(count.look(small, false, 999_999), Next::Here { allowed: false, used: 10, first: false });
        assert_eq!(count.look(small, false, 1_000_000), Next::Ask { owed: 0, known: 10 });
        assert_eq!(
            count.look(small, true, 0),
            Next::Ask { owed: 0, known: 10 },
            "one that passes is counted"
        );
        assert!(matches!(count.look(quota(20, 1), false, 0), Next::Ask { .. }));
        assert!(matches!(count.look(quota(1_000_000, 1), false, 0), Next::Here { allowed: true, .. }));
    }

    #[test]
    fn a_new_month_begins_at_nothing() {
        let old = quota(10, 1);
        let mut count = Count::default();
        count.turn(old.month);
        count.learn(old.month, 10, 0);
        let new = Quota { month: month("2026-12-01"), ..old };
        assert_eq!(count.look(new, false, 0), Next::Ask { owed: 0, known: 0 });
        assert!(!count.learn(old.month, 10, 0), "an answer about the old one says nothing about this");
        assert_eq!(count.told(new.month), None);
        assert!(!count.unpaid(old.month, 5));
    }

    #[test]
    fn without_redis_each_replica_takes_its_share() {
        let quota = quota(100, 4);
        let mut count = Count::default();
        count.turn(quota.month);
        count.learn(quota.month, 60, 0);
        let passed = (0..100).filter(|_| count.alone(quota, false).0).count();
        assert_eq!(passed, 10);
        assert_eq!(count.alone(quota, true), (true, 71, false));
        assert_eq!(count.pay(), 11);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// So many requests at a replica.
        Ask(usize, u8),
        /// A replica counts what it owes.
        Pay(usize),
        /// Time goes by, in milliseconds; all that is owed is counted when it is much.
        Wait(u16),
        /// Redis forgets; the first that asks brings what it knows and what is written down.
        Flush,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0usize..3, 1u8..200).prop_map(|(replica, n)| Step::Ask(replica, n)),
            2 => (0usize..3).prop_map(Step::Pay),
            2 => (0u16..900).prop_map(Step::Wait),
            1 => Just(Step::Flush),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        /// Three replicas over one counter, held to the plan's rate together: never one more than the limit, and when all
        /// is paid the counter says what passed. A flush forgets nothing that was written down.
        ///
        /// Shown to fail: `elsewhere` without what passed since (`most_passed`).
        #[test]
        fn none_passes_beyond_the_limit(left in 1i64..2_500, burst in 1i64..400, steps in steps()) {
            // Large enough that each may owe a hundred, and near its end.
            let limit = 310_000;
            let quota = Quota { rate: Policy { interval_us: 2_000, burst }, ..quota(limit, 3) };
            let mut replicas: [Count; 3] = Default::default();
            let (mut now, mut passed) = (1_000_000_i64, limit - left);
            let (mut redis, mut written) = (Some(passed), passed);
            // The plan's rate, as the other limiter keeps it.
            let mut tat = 0;
            // The counter's script.
            let visit = |redis: &mut Option<i64>, written: i64, known: i64, owed: i64, asked: bool| {
                let used = redis.unwrap_or(written).max(known) + owed;
                let allowed = !asked || used < limit;
                let used = used + i64::from(asked && allowed);
                *redis = Some(used);
                (allowed, used)
            };
            for step in steps {
                match step {
                    Step::Ask(replica, times) => for _ in 0..times {
                        let (decision, after) = super::super::super::gcra::decide(quota.rate, tat, now);
                        if !decision.allowed { break }
                        tat = after;
                        let count = &mut replicas[replica];
                        let allowed = match count.look(quota, false, now) {
                            Next::Here { allowed, .. } => allowed,
                            Next::Ask { owed, known } => {
                                let (allowed, used) = visit(&mut redis, written, known, owed, true);
                                count.learn(quota.month, used, now);
                                allowed
                            }
                        };
                        passed += i64::from(allowed);
                        prop_assert!(passed <= limit, "{passed} of {limit}");
                    },
                    Step::Pay(replica) => {
                        let count = &mut replicas[replica];
                        let owed = count.pay();
                        let known = count.told(quota.month).map_or(0, |(used, _)| used);
                        let (_, used) = visit(&mut redis, written, known, owed, false);
                        count.turn(quota.month);
                        count.learn(quota.month, used, now);
                    }
                    Step::Wait(ms) => {
                        // What is owed is counted in time. Who owes nothing hears nothing, however much others count.
                        for count in &mut replicas {
                            let owed = count.pay();
                            if owed > 0 {
                                let known = count.told(quota.month).map_or(0, |(used, _)| used);
                                let (_, used) = visit(&mut redis, written, known, owed, false);
                                count.learn(quota.month, used, now);
                            }
                        }
                        now += i64::from(ms) * 1_000;
                    }
                    Step::Flush => {
                        // All was counted and written down.
                        for count in &mut replicas {
                            let owed = count.pay();
                            let known = count.told(quota.month).map_or(0, |(used, _)| used);
                            let (_, used) = visit(&mut redis, written, known, owed, false);
                            written = written.max(used);
                        }
                        redis = None;
                    }
                }
            }
            for count in &mut replicas {
                let owed = count.pay();
                let known = count.told(quota.month).map_or(0, |(used, _)| used);
                visit(&mut redis, written, known, owed, false);
            }
            prop_assert_eq!(redis.unwrap_or(written), passed);
        }
    }
}
