//! One shard's broker: the ledger behind a lock, the breaker, waiting and checkout.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::Connection;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::breaker::Breaker;
use super::faults;
use super::guard::Guard;
use super::ledger::{Answer, Counts, Grant, Ledger, Rules, Source};
use super::login::{Endpoint, Login};
use super::meters::Meters;
use super::pool::{Fitness, Held, Tenant};
use super::retries::Retries;
use super::seat::{AcquireError, Seat, close, close_aside};
use super::{BrokerConfig, probe};
use crate::kernel::{Error, MasterKey, codes};

type Waiter = oneshot::Sender<Seat>;

pub struct Shard {
    pub config: Arc<BrokerConfig>,
    key: MasterKey,
    pub meters: Arc<Meters>,
    ledger: Mutex<Ledger<Arc<Tenant>, Waiter>>,
    pub breaker: Mutex<Breaker>,
    /// Logins take turns, first come, first served: many at once slow down each other, the warm requests beside them, and
    /// in the end themselves so much that a busy server looks like a dead one.
    pub logins: Semaphore,
    retries: Mutex<Retries>,
    /// When the server was last asked whether it answers, and what came of it; the lock lets one ask for all.
    health: tokio::sync::Mutex<Option<(Instant, bool)>>,
    closed: AtomicBool,
    returned: Notify,
}

/// A place in the queue; dropping it gives it up.
struct Place<'a> {
    shard: &'a Shard,
    role: &'a str,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut ledger = self.shard.ledger.lock();
        ledger.cancel(self.role, self.id, Instant::now());
        self.shard.meters.waiting.set(ledger.counts().waiting as f64);
    }
}

impl Shard {
    pub fn new(label: &str, config: Arc<BrokerConfig>, key: MasterKey) -> Self {
        let rules = Rules {
            quantum: config.quantum,
            quiet_after: config.quiet_after,
            grow_after: config.grow_after,
            queue_limit: config.queue_limit,
        };
        Self {
            key,
            meters: Arc::new(Meters::new(label)),
            ledger: Mutex::new(Ledger::new(config.budget.max(1), rules)),
            breaker: Mutex::new(Breaker::new(config.breaker_failures, config.breaker_probe)),
            logins: Semaphore::new(config.logins_at_once.max(1)),
            retries: Mutex::new(Retries::new(config.budget)),
            health: tokio::sync::Mutex::new(None),
            closed: AtomicBool::new(false),
            returned: Notify::new(),
            config,
        }
    }

    pub fn counts(&self) -> Counts {
        self.ledger.lock().counts()
    }

    pub fn breaker_is_open(&self) -> bool {
        self.breaker.lock().is_open()
    }

    /// Whether work whose connection turned out to be dead may be begun once more.
    pub fn may_retry(&self) -> bool {
        let affordable = self.retries.lock().spend();
        if affordable {
            self.meters.retried();
        }
        affordable
    }

    /// A connection of the tenant, ready for use, in bounded time.
    pub async fn checkout(self: &Arc<Self>, login: &Login) -> Result<Guard, AcquireError> {
        self.retries.lock().earn();
        let mut seat = self.seat(login).await?;
        if seat.warm
            && let Some(mut held) = seat.take_warm()
        {
            match held.conn().fitness(&seat.tenant, &login.endpoint, self.config.ping_after) {
                Fitness::Good => return Ok(Guard::new(seat, held)),
                Fitness::Ask if self.answers(&mut held).await => return Ok(Guard::new(seat, held)),
                Fitness::Ask => seat.tenant.distrust(),
                Fitness::Stale => {}
            }
            close(held.conn().take()).await;
        }
        let held = seat.open(login).await?;
        Ok(Guard::new(seat, held))
    }

    async fn seat(self: &Arc<Self>, login: &Login) -> Result<Seat, AcquireError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AcquireError::Failed(
                Error::new(&codes::DRAINING).retry_after(Duration::from_secs(1)),
            ));
        }
        let (role, now) = (&login.role, Instant::now());
        let mut receiver = None;
        let (id, at_ceiling, look_after, grants) = {
            let mut ledger = self.ledger.lock();
            if let Some(tenant) = ledger.pool(role)
                && !tenant.admits(login)
            {
                let stale = Error::new(&codes::SHARD_UNAVAILABLE).detail("a newer placement is known");
                return Err(AcquireError::Refused(stale));
            }
            let new_pool = || Arc::new(Tenant::new(login, self.config.budget, &self.key, &self.meters));
            let answer = ledger.request(role, login.ceiling as usize, now, new_pool, || {
                let (sender, waiting) = oneshot::channel();
                receiver = Some(waiting);
                sender
            });
            match answer {
                Answer::Granted { pool, source } => return Ok(self.seat_for(pool, source, now)),
                Answer::Full => return Err(AcquireError::Failed(faults::tenant_busy())),
                Answer::Queued { id, at_ceiling } => {
                    self.meters.waiting.set(ledger.counts().waiting as f64);
                    // A raised ceiling may let earlier waiters in.
                    let grants = ledger.dispatch(now);
                    (id, at_ceiling, ledger.grow_after(), self.seats(grants))
                }
            }
        };
        hand_out(grants);
        let Some(receiver) = receiver else {
            return Err(AcquireError::Failed(Error::internal("queued without a waiter")));
        };
        let place = Place { shard: self, role, id };
        let patience = if at_ceiling { self.config.gate_timeout } else { self.config.budget_timeout };
        match self.wait(receiver, now + patience, look_after).await {
            Some(seat) => Ok(seat),
            None => {
                let own_share = self.ledger.lock().has_its_share(role);
                drop(place);
                let error = if own_share { faults::tenant_busy() } else { faults::shard_busy() };
                Err(AcquireError::Failed(error))
            }
        }
    }

    async fn wait(
        self: &Arc<Self>,
        mut receiver: oneshot::Receiver<Seat>,
        until: Instant,
        mut look_after: Duration,
    ) -> Option<Seat> {
        // Time alone makes some neighbours' connections free: those taken after a wait for one's own, then those of
        // tenants that go quiet. Nobody else would notice.
        loop {
            let left = until.checked_duration_since(Instant::now())?;
            match tokio::time::timeout(left.min(look_after), &mut receiver).await {
                Ok(seat) => return seat.ok(),
                Err(_) => {
                    look_after = self.config.quiet_after;
                    let grants = {
                        let mut ledger = self.ledger.lock();
                        let grants = ledger.dispatch(Instant::now());
                        self.seats(grants)
                    };
                    hand_out(grants);
                }
            }
        }
    }

    fn seat_for(self: &Arc<Self>, tenant: Arc<Tenant>, source: Source<Arc<Tenant>>, turn: Instant) -> Seat {
        let (warm, evicted) = match source {
            Source::Warm => (true, None),
            Source::Cold => (false, None),
            Source::Evict(victim) => {
                self.meters.evicted();
                (false, victim.take_idle().and_then(|mut held| held.conn().take()))
            }
        };
        Seat { shard: self.clone(), tenant, warm, evicted, turn }
    }

    /// Turns grants into seats; the ledger's lock is still held, so that the connections set aside are there.
    fn seats(self: &Arc<Self>, grants: Vec<Grant<Arc<Tenant>, Waiter>>) -> Vec<(Waiter, Seat)> {
        grants
            .into_iter()
            .map(|grant| (grant.waiter, self.seat_for(grant.pool, grant.source, grant.turn)))
            .collect()
    }

    /// Learns what a login took.
    pub fn login_took(&self, took: Duration) {
        self.ledger.lock().login_took(took);
    }

    pub fn release(self: Arc<Self>, seat: &Seat) {
        let grants = {
            let mut ledger = self.ledger.lock();
            let grants = ledger.release(&seat.tenant.role, seat.warm, seat.turn, Instant::now());
            let grants = self.seats(grants);
            if !grants.is_empty() {
                self.meters.waiting.set(ledger.counts().waiting as f64);
            }
            grants
        };
        hand_out(grants);
        if self.closed.load(Ordering::Acquire) {
            self.returned.notify_waiters();
        }
    }

    async fn answers(&self, held: &mut Held) -> bool {
        matches!(tokio::time::timeout(self.config.ping_timeout, held.conn().pg().ping()).await, Ok(Ok(())))
    }

    /// Runs one piece of work, and asks after the server's health while it takes long. `None` when the server does not
    /// answer any more.
    pub async fn while_alive<T>(&self, endpoint: &Endpoint, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(self.config.slow_after, &mut work).await {
                return Some(done);
            }
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                alive = self.is_alive(endpoint) => if !alive {
                    self.breaker.lock().trip(Instant::now());
                    self.meters.breaker_open.set(1.0);
                    return None;
                },
            }
        }
    }

    async fn is_alive(&self, endpoint: &Endpoint) -> bool {
        let mut health = self.health.lock().await;
        if let Some((at, alive)) = *health
            && at.elapsed() < self.config.slow_after
        {
            return alive;
        }
        // While the breaker is open this question is its probe. If it is not the time for one, what opened it holds.
        if !self.breaker.lock().admits(Instant::now()) {
            return false;
        }
        let alive = probe::answers(endpoint, self.config.slow_after).await;
        *health = Some((Instant::now(), alive));
        alive
    }

    /// Closes the tenant's idle connections and distrusts those in use.
    pub fn retire(self: &Arc<Self>, role: &str) {
        if let Some(tenant) = self.ledger.lock().pool(role) {
            tenant.distrust();
        }
        self.close_idle(role, |tenant, held| !held.conn().is_current(tenant));
    }

    /// Closes what has been idle for too long.
    pub fn sweep(self: &Arc<Self>) {
        let limit = self.config.idle_close;
        let roles = self.ledger.lock().with_idle();
        for role in roles {
            self.close_idle(&role, |tenant, held| {
                Tenant::idle_for(held) >= limit || !held.conn().is_current(tenant)
            });
        }
    }

    fn close_idle(self: &Arc<Self>, role: &str, unwanted: impl Fn(&Tenant, &mut Held) -> bool) {
        let mut closing = Vec::new();
        let grants = {
            let mut ledger = self.ledger.lock();
            let Some(tenant) = ledger.pool(role).cloned() else { return };
            let idle = ledger.borrow_idle(role);
            let mut kept: Vec<Held> =
                std::iter::repeat_with(|| tenant.take_idle()).take(idle).flatten().collect();
            closing.extend(
                kept.extract_if(.., |held| unwanted(&tenant, held)).map(|mut held| held.conn().take()),
            );
            let keep = kept.len();
            // Back in reverse, so that the last used is the first taken again.
            kept.into_iter().rev().for_each(drop);
            let grants = ledger.restore_idle(role, keep, idle - keep, Instant::now());
            self.seats(grants)
        };
        hand_out(grants);
        closing.into_iter().for_each(close_aside);
    }

    /// Refuses newcomers, closes what is idle, and waits for what is in use.
    pub async fn close(self: &Arc<Self>) {
        self.closed.store(true, Ordering::Release);
        loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            let roles = self.ledger.lock().with_idle();
            roles.iter().for_each(|role| self.close_idle(role, |_, _| true));
            let counts = self.counts();
            if counts.free == counts.budget {
                return;
            }
            returned.await;
        }
    }
}

/// Wakes those who got a seat. One who has just given up drops it, which hands it on.
fn hand_out(seats: Vec<(Waiter, Seat)>) {
    for (waiter, seat) in seats {
        drop(waiter.send(seat));
    }
}
