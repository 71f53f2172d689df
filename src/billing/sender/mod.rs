//! Batches on their way to Stripe. Any number of senders run: a lane (one customer's one meter) is one sender's at a time,
//! an attempt is on record before the call, and Stripe tells copies by the batch's identifier. So a batch counts
//! **effectively once**: as long as what is unknown is known within 20 hours, or settled by what Stripe counted.
//!
//! | file | holds |
//! |---|---|
//! | `decide` | what an answer means. Pure |
//! | `breaker` | leaves Stripe alone while it is away |
//! | `lanes` | leases, attempts, outcomes |
//! | `pace` | as fast as Stripe takes events, all processes together |
//! | `link` | the row on how Stripe and we fare |
//! | `orphans` | what was sent for a customer that is deleted at Stripe |
//! | `settle` | what stayed unknown too long, settled by what Stripe counted |
//! | `watch` | the alarms |

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tokio::time::Instant;

use super::stripe::{MeterEvent, Stripe, Trouble};
use super::{Billing, incidents};
use crate::control_plane::ControlPlane;
use crate::jobs::faults::{self, Moment};
use crate::kernel::Result;
use breaker::{Breaker, Gate};
use decide::{Fitness, Next, Via};
use lanes::{Lane, Stays};
use pace::Pace;

pub mod breaker;
pub mod decide;
pub mod lanes;
pub mod link;
pub mod orphans;
pub mod pace;
pub mod settle;
pub mod watch;

/// Lanes that one process sends in at once.
const LANES_AT_ONCE: usize = 16;
/// Batches that a lane sends before another gets its turn.
const BATCHES_PER_LANE: usize = 50;
/// The longest a round begins new calls; less than what a round may take.
const ROUND: Duration = Duration::from_secs(60);
/// Stripe not heard for longer, it is asked something cheap first: is it there, and how far apart are our clocks?
const UNHEARD: chrono::TimeDelta = chrono::TimeDelta::minutes(2);
/// While nothing may be sent, how often that is looked at.
const LOOK_AGAIN: chrono::TimeDelta = chrono::TimeDelta::minutes(1);
/// How long everybody waits after a 429 that does not say.
const TOO_MUCH: Duration = Duration::from_secs(1);

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub attempts: u64,
    pub delivered: u64,
    /// Delivered before, as Stripe said.
    pub duplicates: u64,
    pub unknown: u64,
    pub again: u64,
    pub rejected: u64,
    pub quarantined: u64,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.unknown += other.unknown;
        self.again += other.again;
        self.rejected += other.rejected;
        self.quarantined += other.quarantined;
    }
}

/// Sends what is due, as long as a round lasts. Any number of processes may do it at once.
pub async fn send_due(billing: &Billing) -> Result<Sent> {
    if !billing.settings.enabled() {
        return Ok(Sent::default());
    }
    Sender::of(billing).round(ROUND).await
}

/// One process's sender.
pub struct Sender {
    cp: ControlPlane,
    stripe: Stripe,
    livemode: bool,
    breaker: Breaker,
    pace: Pace,
    lease: Duration,
    /// Our key was refused: nothing more in this round.
    halted: AtomicBool,
}

impl Sender {
    pub fn of(billing: &Billing) -> Self {
        let cp = billing.cp.clone();
        let livemode = billing.settings.livemode();
        let rate = billing.settings.events_per_second;
        Self {
            pace: Pace::new(cp.db.clone(), cp.clock.clone(), livemode, rate),
            stripe: billing.stripe.clone(),
            breaker: billing.breaker.clone(),
            lease: lanes::LEASE,
            halted: AtomicBool::new(false),
            livemode,
            cp,
        }
    }

    /// With leases that run out sooner.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sends what is due until nothing is, or `limit` is over.
    ///
    /// # Errors
    /// Of the control database. What is in flight then is finished by whoever takes its lane next.
    pub async fn round(&self, limit: Duration) -> Result<Sent> {
        let mut sent = Sent::default();
        if !self.may_send().await? {
            return Ok(sent);
        }
        let end = Instant::now() + limit;
        let mut lanes = FuturesUnordered::new();
        let mut failed = None;
        loop {
            while failed.is_none() && lanes.len() < LANES_AT_ONCE && self.goes_on(end) {
                match lanes::take(&self.cp.db, self.livemode, self.cp.clock.now(), self.lease).await {
                    Ok(Some(lane)) => lanes.push(self.lane(lane, end)),
                    Ok(None) => break,
                    Err(error) => failed = Some(error),
                }
            }
            match lanes.next().await {
                Some(Ok(of_lane)) => sent += of_lane,
                Some(Err(error)) => failed = failed.or(Some(error)),
                None => break,
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(sent),
        }
    }

    fn goes_on(&self, end: Instant) -> bool {
        Instant::now() < end && !self.halted.load(Ordering::Relaxed) && self.breaker.is_open()
    }

    /// Whether anything may be sent: Stripe is there, it takes our key, and our clocks agree.
    async fn may_send(&self) -> Result<bool> {
        let probe = match self.breaker.gate() {
            Gate::Shut => return Ok(false),
            Gate::Probe => true,
            Gate::Open => false,
        };
        let mut conn = self.cp.db.acquire().await?;
        let mut link = link::link(&mut conn, self.livemode).await?;
        drop(conn);
        let now = self.cp.clock.now();
        let barred = link.halted_reason.is_some() || decide::clock_is_off(link.skew_seconds);
        let silence = link.heard_at().map(|at| now - at);
        // A moment in the future was written by a clock that has gone back since.
        let unheard = |longest| silence.is_none_or(|silence| silence > longest || silence < -longest);
        if probe || unheard(if barred { LOOK_AGAIN } else { UNHEARD }) {
            let answer = self.stripe.meters().await;
            self.breaker.saw(&answer);
            match &answer {
                Ok(_) if link.halted_reason.is_some() => {
                    link::go_on(&self.cp.db, self.livemode).await?;
                    watch::key_works(&self.cp, self.livemode).await?;
                }
                Err(trouble @ Trouble::Key { .. }) => self.halt(&trouble.to_string()).await?,
                _ => {}
            }
            if answer.is_err() {
                return Ok(false);
            }
            let mut conn = self.cp.db.acquire().await?;
            link = link::link(&mut conn, self.livemode).await?;
        }
        watch::clock(&self.cp, self.livemode, link.skew_seconds).await?;
        Ok(link.halted_reason.is_none() && !decide::clock_is_off(link.skew_seconds))
    }

    /// Sends what is due in a lane, one after the other, and lets the lane go.
    async fn lane(&self, lane: Lane, end: Instant) -> Result<Sent> {
        let mut sent = Sent::default();
        for _ in 0..BATCHES_PER_LANE {
            if !self.goes_on(end) || !self.one(&lane, &mut sent).await? {
                break;
            }
        }
        lanes::release(&self.cp.db, &lane).await?;
        Ok(sent)
    }

    /// One batch. Says whether the lane goes on.
    async fn one(&self, lane: &Lane, sent: &mut Sent) -> Result<bool> {
        let (db, clock) = (&self.cp.db, &self.cp.clock);
        let Some(mut due) = lanes::next_due(db, lane, self.livemode, clock.now()).await? else {
            return Ok(false);
        };
        let fitness = match lanes::carry(db, lane, &mut due, clock.now()).await? {
            Some(Stays::Void(why)) => {
                lanes::give_up(db, lane, due.id, why, clock.now()).await?;
                return Ok(true);
            }
            Some(Stays::Quarantined(why)) => Fitness::Quarantine(why),
            None => decide::fitness(due.event_at, due.first_sent_at, clock.now()),
        };
        if let Fitness::Quarantine(why) = fitness {
            if lanes::quarantine(db, lane, due.id, why, clock.now()).await? {
                sent.quarantined += 1;
                self.alarm(watch::kind::QUARANTINED, lane, &due.id.to_string(), why).await?;
            }
            return Ok(true);
        }
        self.pace.turn().await?;
        let Some(attempt) = lanes::begin(db, lane, &due, self.livemode, clock.now(), self.lease).await?
        else {
            return Ok(false);
        };
        faults::point("sender", "send", Moment::BeforeEffect);
        let event = MeterEvent {
            event_name: attempt.event_name.clone(),
            customer: attempt.customer.clone(),
            value: attempt.quantity,
            identifier: attempt.identifier.clone(),
            timestamp: attempt.event_at,
        };
        let key = decide::idempotency_key(&attempt.identifier, attempt.salt);
        let answer = self.stripe.meter_event(&event, key).await;
        faults::point("sender", "send", Moment::AfterEffect);
        self.breaker.saw(&answer);
        sent.attempts += 1;
        let next = decide::next(&answer, attempt.attempts, self.jitter());
        let next = decide::in_view_of(next, attempt.before);
        if !lanes::record(db, lane, &attempt, &next, clock.now()).await? {
            tracing::warn!(
                batch = attempt.identifier,
                "its lane was taken over: the outcome is another's to write"
            );
            return Ok(false);
        }
        faults::point("sender", "send", Moment::AfterRecord);
        count(&next);
        match next {
            Next::Delivered(via) => {
                sent.delivered += 1;
                sent.duplicates += u64::from(via == Via::Duplicate400);
                return Ok(true);
            }
            Next::Rejected(why) => {
                sent.rejected += 1;
                self.alarm(watch::kind::REJECTED, lane, &attempt.identifier, &why).await?;
                return Ok(true);
            }
            Next::Doubtful(why) => {
                sent.quarantined += 1;
                self.alarm(watch::kind::QUARANTINED, lane, &attempt.id.to_string(), &why).await?;
                return Ok(true);
            }
            Next::Again { wait, .. } => {
                sent.again += 1;
                if let Err(Trouble::Later { status: 429, after }) = answer {
                    let pause = after.map_or(TOO_MUCH, |_| wait);
                    link::hold_off(db, self.livemode, clock.now(), pause).await?;
                }
            }
            Next::Unknown { .. } => sent.unknown += 1,
            Next::Halt(why) => self.halt(&why).await?,
        }
        Ok(false)
    }

    async fn halt(&self, why: &str) -> Result<()> {
        self.halted.store(true, Ordering::Relaxed);
        link::halt(&self.cp.db, self.livemode, self.cp.clock.now(), why).await?;
        watch::key_refused(&self.cp, self.livemode, why).await
    }

    async fn alarm(&self, kind: &str, lane: &Lane, subject: &str, why: &str) -> Result<()> {
        let mut conn = self.cp.db.acquire().await?;
        let detail = json!({ "meter": lane.meter, "why": why });
        incidents::open(&mut conn, kind, subject, Some(lane.tenant), detail, self.cp.clock.now())
            .await
            .map(drop)
    }

    fn jitter(&self) -> f64 {
        f64::from(u16::from_le_bytes(self.cp.entropy.bytes::<2>())) / f64::from(u16::MAX)
    }
}

fn count(next: &Next) {
    let outcome = match next {
        Next::Delivered(Via::Duplicate400) => "duplicate",
        Next::Delivered(_) => "delivered",
        Next::Rejected(_) => "rejected",
        Next::Doubtful(_) => "in_doubt",
        Next::Again { .. } => "not_now",
        Next::Unknown { .. } => "unknown",
        Next::Halt(_) => "key_refused",
    };
    metrics::counter!("billing_meter_events_total", "outcome" => outcome).increment(1);
}
