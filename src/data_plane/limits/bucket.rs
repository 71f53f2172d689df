//! What this process believes of one tenant's bucket in Redis, and when that is enough to answer without asking. Pure.
//!
//! Redis is asked for every request of a tenant that is near its limit, and for the first one of any tenant. Far from
//! the limit (half of the burst is left) a request is let through on trust: it is noted as owed, and paid a moment
//! later together with others. How much may be owed at a time is bounded, so the bound on what passes is too: in any
//! stretch of time, all replicas together let through the burst, the rate over that stretch, and a sixteenth of the
//! burst. Nothing is lost the other way: only what was let through is paid.
//!
//! Once Redis has refused a request, nothing can pass until the time it named: until then the answer is known here.

use super::gcra::{Decision, Policy, settle};

/// What Redis said: the state after settling, on its clock.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub decision: Decision,
    pub tat_us: i64,
    pub now_us: i64,
}

/// What to do about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The answer is known. With `first`, it is the first that is owed: somebody has to see that it is paid.
    Here { decision: Decision, first: bool },
    /// Ask Redis, and pay what is owed on the way.
    Ask { owed: i64 },
}

/// One tenant's bucket as seen from here. Times are microseconds of this process's own clock unless they say otherwise.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Of which policy the rest speaks; `None` when Redis has to be asked first.
    policy: Option<Policy>,
    /// The TAT in Redis once everything owed is paid, on the clock of Redis.
    tat_us: i64,
    /// How far the clock of Redis is ahead.
    ahead_us: i64,
    owed: i64,
    refused_until: i64,
}

impl Bucket {
    /// Decides about a request, or says that Redis has to. `most` is how much this process may owe.
    pub fn look(&mut self, policy: Policy, most: i64, now: i64) -> Next {
        if self.policy == Some(policy) {
            let there = now + self.ahead_us;
            if now < self.refused_until {
                let decision = Decision::of(policy, false, self.refused_until - now, self.tat_us, there);
                return Next::Here { decision, first: false };
            }
            if self.owed < most {
                let settled = settle(policy, self.tat_us, there, 0, 1);
                if settled.decision.allowed && settled.decision.remaining * 2 >= policy.burst {
                    self.tat_us = settled.tat_us;
                    self.owed += 1;
                    return Next::Here { decision: settled.decision, first: self.owed == 1 };
                }
            }
        }
        Next::Ask { owed: self.pay() }
    }

    pub fn owes(&self) -> bool {
        self.owed > 0
    }

    /// Takes over what is owed, to be paid now.
    pub fn pay(&mut self) -> i64 {
        std::mem::take(&mut self.owed)
    }

    /// Notes an answer to a question that was sent at `sent`.
    pub fn learn(&mut self, policy: Policy, told: Told, sent: i64, now: i64) {
        let paid_later = told.tat_us + self.owed * policy.interval_us;
        // Answers may be noted in another order than they were given: the latest state owes the most.
        self.tat_us = if self.policy == Some(policy) { self.tat_us.max(paid_later) } else { paid_later };
        self.policy = Some(policy);
        // Taken as late as possible, so that the bucket seems rather emptier than fuller.
        self.ahead_us = told.now_us - now;
        // Counted from before Redis looked: never refused for longer than Redis would.
        self.refused_until = if told.decision.allowed { 0 } else { sent + told.decision.retry_us };
    }

    /// Redis is away: what was known is worth nothing when it is back.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Policy = Policy { interval_us: 10_000, burst: 160 };

    /// Redis, as far as one bucket is concerned.
    #[derive(Default)]
    struct Redis(i64);

    impl Redis {
        fn ask(&mut self, policy: Policy, owed: i64, asked: i64, now_us: i64) -> Told {
            let settled = settle(policy, self.0, now_us, owed, asked);
            self.0 = settled.tat_us;
            Told { decision: settled.decision, tat_us: settled.tat_us, now_us }
        }
    }

    #[test]
    fn far_from_the_limit_on_trust_and_near_it_by_asking() {
        let (mut bucket, mut redis) = (Bucket::default(), Redis::default());
        assert_eq!(bucket.look(RATE, 10, 0), Next::Ask { owed: 0 }, "nothing is known");
        bucket.learn(RATE, redis.ask(RATE, 0, 1, 0), 0, 0);
        for n in 0..10 {
            let Next::Here { decision, first } = bucket.look(RATE, 10, 0) else { panic!("request {n}") };
            assert_eq!((decision.remaining, first), (158 - n, n == 0));
        }
        assert_eq!(bucket.look(RATE, 10, 0), Next::Ask { owed: 10 }, "no more on trust");
        // Another replica took most of it meanwhile.
        redis.ask(RATE, 9, 1, 0);
        for _ in 0..6 {
            redis.ask(RATE, 10, 0, 0);
        }
        let told = redis.ask(RATE, 10, 1, 0);
        assert_eq!(told.decision.remaining, 78);
        bucket.learn(RATE, told, 0, 0);
        assert_eq!(bucket.look(RATE, 10, 0), Next::Ask { owed: 0 }, "less than half is left");
        // A plan that changes makes what is known worthless.
        let more = Policy { burst: 3_200, ..RATE };
        assert_eq!(bucket.look(more, 10, 0), Next::Ask { owed: 0 });
    }

    #[test]
    fn a_refusal_holds_for_as_long_as_was_said() {
        let (mut bucket, mut redis) = (Bucket::default(), Redis::default());
        for _ in 0..16 {
            redis.ask(RATE, 10, 0, 5_000_000);
        }
        // Sent at 0, answered at 300: Redis looked somewhere between.
        bucket.learn(RATE, redis.ask(RATE, 0, 1, 5_000_000), 0, 300);
        let Next::Here { decision, first: false } = bucket.look(RATE, 10, 4_000) else { panic!("unknown") };
        assert_eq!((decision.allowed, decision.retry_us), (false, 6_000));
        assert_eq!(bucket.look(RATE, 10, 10_000), Next::Ask { owed: 0 });
    }

    /// Some requests at a replica each, and whether it pays afterwards.
    fn steps() -> impl Strategy<Value = Vec<(usize, u8, i64, bool)>> {
        prop::collection::vec((0usize..3, 0u8..150, 0i64..100_000, any::<bool>()), 1..60)
    }

    proptest! {
        /// Three replicas over one Redis, whoever pays when: never more than promised in any stretch of time, and
        /// everything that is let through is paid in the end.
        ///
        /// Shown to fail: let a replica owe twice as much.
        #[test]
        fn replicas_together_pass_no_more_than_promised(rate in 1u32..50, burst in 1u32..400, steps in steps()) {
            let policy = Policy::new(rate, burst);
            let (most, mut redis, mut now) = (policy.trust() / 3, Redis::default(), 1_000_000_000);
            let mut replicas: [Bucket; 3] = Default::default();
            // A bucket as large as what is promised, for whatever passed: it overflows when some stretch of time had
            // more than that.
            let promised = (policy.burst + policy.trust()) * policy.interval_us;
            let mut passed_until = 0;
            for (replica, count, step, pays) in steps {
                now += step;
                let bucket = &mut replicas[replica];
                for _ in 0..count {
                    let decision = match bucket.look(policy, most, now) {
                        Next::Here { decision, .. } => decision,
                        Next::Ask { owed } => {
                            let told = redis.ask(policy, owed, 1, now);
                            bucket.learn(policy, told, now, now);
                            told.decision
                        }
                    };
                    if decision.allowed {
                        passed_until = now.max(passed_until) + policy.interval_us;
                        prop_assert!(passed_until - now <= promised, "{} too many", (passed_until - now - promised) / policy.interval_us);
                    }
                }
                if pays {
                    let owed = bucket.pay();
                    bucket.learn(policy, redis.ask(policy, owed, 0, now), now, now);
                }
            }
        }
    }
}
