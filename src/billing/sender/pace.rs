//! How fast meter events are sent: Stripe takes so many a second from all senders together. Turns are reserved in the
//! control database, a few at a time, so that any number of processes share them and none has to know the others.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::Mutex;

use super::link;
use crate::kernel::{Clock, Result};
use chrono::{DateTime, TimeDelta, Utc};

/// How much of a second is reserved at once.
const ROUNDS_PER_SECOND: u32 = 50;
/// A turn that is further away was reserved by another clock.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// A process's place in the order.
pub struct Pace {
    db: PgPool,
    clock: Clock,
    livemode: bool,
    step: Duration,
    turns: u32,
    reserved: Mutex<Vec<DateTime<Utc>>>,
}

impl Pace {
    /// `rate` events a second among all processes.
    pub fn new(db: PgPool, clock: Clock, livemode: bool, rate: u32) -> Self {
        let (step, turns) = turns_of(rate);
        Self { db, clock, livemode, step, turns, reserved: Mutex::new(Vec::new()) }
    }

    /// Waits until it is this process's turn.
    pub async fn turn(&self) -> Result<()> {
        let at = {
            let mut reserved = self.reserved.lock().await;
            if reserved.is_empty() {
                let first =
                    link::reserve(&self.db, self.livemode, self.clock.now(), self.turns, self.step).await?;
                // The last is taken first.
                reserved.extend((0..self.turns).rev().map(|turn| first + delta(self.step * turn)));
            }
            reserved.pop()
        };
        let wait = at.and_then(|at| (at - self.clock.now()).to_std().ok()).unwrap_or_default();
        if !wait.is_zero() {
            tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
        }
        Ok(())
    }
}

fn delta(wait: Duration) -> TimeDelta {
    TimeDelta::from_std(wait).unwrap_or_default()
}

/// The time between two turns, and how many are reserved at once.
fn turns_of(rate: u32) -> (Duration, u32) {
    let rate = rate.max(1);
    (Duration::from_secs(1) / rate, (rate / ROUNDS_PER_SECOND).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_add_up_to_the_rate() {
        for rate in [0, 1, 22, 25, 900, 1000] {
            let (step, turns) = turns_of(rate);
            let per_second = Duration::from_secs(1).as_secs_f64() / step.as_secs_f64();
            assert!((per_second - f64::from(rate.max(1))).abs() < 0.1, "{rate}: {per_second}");
            assert!(turns >= 1 && step * turns <= Duration::from_secs(1), "{rate}");
        }
    }
}
