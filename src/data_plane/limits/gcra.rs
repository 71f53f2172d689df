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

/// Decides about one request at `now_us` and gives the TAT to keep. `tat_us` is what was kept, 0 for nothing.
pub fn decide(policy: Policy, tat_us: i64, now_us: i64) -> (Decision, i64) {
    // A TAT beyond a whole window can only come from a clock that went back or a plan that grew: a full bucket's debt
    // is the worst a tenant can owe.
    let tat = tat_us.clamp(now_us, now_us + policy.window_us());
    let after = tat + policy.interval_us;
    let excess = after - (now_us + policy.window_us());
    if excess > 0 {
        return (Decision { allowed: false, remaining: 0, retry_us: excess, reset_us: tat - now_us }, tat);
    }
    let decision = Decision {
        allowed: true,
        remaining: -excess / policy.interval_us,
        retry_us: 0,
        reset_us: after - now_us,
    };
    (decision, after)
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

        /// A clock that jumps back never locks a tenant out for longer than one window.
        #[test]
        fn a_clock_that_goes_back_costs_at_most_a_window(rate in 1u32..100, burst in 1u32..100, back in 0i64..i64::MAX / 4) {
            let policy = Policy::new(rate, burst);
            let (decision, _) = decide(policy, 1_000_000 + back, 1_000_000);
            prop_assert!(decision.retry_us <= policy.interval_us);
        }
    }
}
