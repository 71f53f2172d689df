//! The generic cell rate algorithm: a bucket in one number, the *theoretical arrival time* (TAT). Pure; the script
//! that runs in Redis mirrors it line by line, and a test runs both side by side.

/// A sustained rate, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Microseconds between two requests at the sustained rate.
    pub interval_us: i64,
    /// Requests that may come at once.
    pub burst: i64,
}

impl Policy {
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { interval_us: 1_000_000 / i64::from(per_second.max(1)), burst: i64::from(burst.max(1)) }
    }

    /// This process's share, when each of `replicas` has to decide alone.
    pub fn share(self, replicas: u32) -> Self {
        let replicas = i64::from(replicas.max(1));
        Self { interval_us: self.interval_us * replicas, burst: (self.burst / replicas).max(1) }
    }

    /// Requests that all replicas together may let through before they have paid for them: a sixteenth of the burst.
    pub fn trust(self) -> i64 {
        self.burst / 16
    }

    fn trust_us(self) -> i64 {
        self.trust() * self.interval_us
    }

    /// The whole bucket in microseconds: the time an empty one takes to fill.
    pub fn window_us(self) -> i64 {
        self.interval_us * self.burst
    }
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Requests that may follow at once.
    pub remaining: i64,
    /// Microseconds until a refused request would pass; 0 for an allowed one.
    pub retry_us: i64,
    /// Microseconds until the bucket is full again.
    pub reset_us: i64,
}

impl Decision {
    /// What follows from a bucket's state after it was settled. `excess_us` is what the request at hand was over, or
    /// (when negative) under a whole window of debt.
    pub fn of(policy: Policy, allowed: bool, excess_us: i64, tat_us: i64, now_us: i64) -> Self {
        Self {
            allowed,
            remaining: if allowed { (-excess_us).max(0) / policy.interval_us } else { 0 },
            retry_us: if allowed { 0 } else { excess_us },
            reset_us: (tat_us - now_us).max(0),
        }
    }
}

/// A bucket after it was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub decision: Decision,
    /// The TAT to keep.
    pub tat_us: i64,
}

/// Decides about one request at `now_us`. `tat_us` is what was kept, 0 for nothing.
pub fn decide(policy: Policy, tat_us: i64, now_us: i64) -> (Decision, i64) {
    let settled = settle(policy, tat_us, now_us, 0, 1);
    (settled.decision, settled.tat_us)
}

/// Pays for `owed` requests that were let through already, and then, if `asked` is 1, decides about one more.
pub fn settle(policy: Policy, tat_us: i64, now_us: i64, owed: i64, asked: i64) -> Settled {
    // A TAT beyond what can be owed can only come from a clock that went back or a plan that grew: the most that a
    // tenant can owe is a whole window, and what the replicas let through on trust.
    let full = now_us + policy.window_us();
    let worst = full + policy.trust_us();
    let tat = tat_us.clamp(now_us, worst);
    let tat = (tat + owed * policy.interval_us).min(worst);
    let excess = tat + asked * policy.interval_us - full;
    let allowed = asked == 0 || excess <= 0;
    let tat_us = if allowed { tat + asked * policy.interval_us } else { tat };
    Settled { decision: Decision::of(policy, allowed, excess, tat_us, now_us), tat_us }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let policy = Policy::new(20, 40);
        let (mut tat, now) = (0, 1_700_000_000_000_000);
        for n in (0..40).rev() {
            let (decision, after) = decide(policy, tat, now);
            assert!(decision.allowed);
            assert_eq!(decision.remaining, n);
            tat = after;
        }
        let (refused, kept) = decide(policy, tat, now);
        assert_eq!((refused.allowed, refused.retry_us, refused.reset_us), (false, 50_000, 2_000_000));
        assert_eq!(kept, tat, "a refused request costs nothing");
        assert!(decide(policy, tat, now + 50_000).0.allowed);
        assert!(!decide(policy, tat, now + 49_999).0.allowed);
    }

    proptest! {
        /// In any stretch of time, no more pass than the burst plus the rate over that stretch; and whoever waits as
        /// long as told passes.
        #[test]
        fn never_more_than_promised(
            rate in 1u32..2_000,
            burst in 1u32..500,
            steps in prop::collection::vec(0i64..200_000, 1..400),
        ) {
            let policy = Policy::new(rate, burst);
            let mut now = 1_000_000_000;
            let mut tat = 0;
            let mut passed: Vec<i64> = Vec::new();
            for step in steps {
                now += step;
                let (decision, after) = decide(policy, tat, now);
                if decision.allowed {
                    passed.push(now);
                    prop_assert!((0..policy.burst).contains(&decision.remaining));
                } else {
                    prop_assert!(decision.retry_us > 0);
                    prop_assert!(decide(policy, after, now + decision.retry_us).0.allowed);
                    prop_assert!(!decide(policy, after, now + decision.retry_us - 1).0.allowed);
                }
                tat = after;
            }
            for (i, from) in passed.iter().enumerate() {
                let most = policy.burst + (now - from) / policy.interval_us;
                prop_assert!((passed.len() - i) as i64 <= most);
            }
        }

        /// Requests let through on trust and paid later cost the same as if they had been paid at once.
        #[test]
        fn what_is_owed_is_paid(rate in 1u32..2_000, burst in 16u32..500, paid in 0i64..30, step in 0i64..10_000) {
            let policy = Policy::new(rate, burst);
            let owed = policy.trust();
            let start = 1_000_000_000;
            let before = settle(policy, 0, start, 0, 0).tat_us + paid * policy.interval_us;
            let at_once = (0..owed).fold(before, |tat, _| tat + policy.interval_us);
            let later = settle(policy, before, start + step, owed, 0).tat_us;
            prop_assert!(later >= at_once.min(start + step + policy.window_us() + policy.trust_us()));
            prop_assert!(later <= at_once.max(start + step + owed * policy.interval_us));
        }

        /// `remaining` is the truth: exactly that many more pass at the same moment.
        #[test]
        fn remaining_is_exact(rate in 1u32..5_000, burst in 1u32..100, wait in 0i64..3_000_000) {
            let policy = Policy::new(rate, burst);
            let (_, tat) = decide(policy, 0, 1_000_000);
            let (first, mut tat) = decide(policy, tat, 1_000_000 + wait);
            let mut more = 0;
            loop {
                let (next, after) = decide(policy, tat, 1_000_000 + wait);
                if !next.allowed { break }
                more += 1;
                tat = after;
            }
            prop_assert_eq!(more, first.remaining);
        }

        /// A clock that jumps back never locks a tenant out for longer than what can be owed.
        #[test]
        fn a_clock_that_goes_back_costs_at_most_a_window(rate in 1u32..100, burst in 1u32..100, back in 0i64..i64::MAX / 4) {
            let policy = Policy::new(rate, burst);
            let (decision, _) = decide(policy, 1_000_000 + back, 1_000_000);
            prop_assert!(decision.retry_us <= policy.interval_us + policy.trust_us());
        }
    }
}
