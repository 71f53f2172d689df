//! The connection broker: lends a request its tenant's own database connection, within a budget per shard.
//!
//! A connection is logged in as one tenant and belongs to it until it is closed (nothing is ever re-labelled with
//! `SET ROLE` or `search_path`), so a connection that comes back in a bad state can harm nobody else.
//!
//! | file | holds |
//! |---|---|
//! | `ledger` | who may use which connection: budget, ceilings, order, eviction. Pure |
//! | `worth`, `breaker`, `retries` | the value of a connection, history; fail fast while a shard is down; how often to try again. Pure |
//! | `login`, `pool` | how a tenant's connection is opened; its idle connections (bb8) |
//! | `shard`, `seat`, `guard` | waiting and checkout; opening and closing; how a connection comes back |
//! | `faults`, `probe`, `meters` | what an error says, whether a server answers, numbers |
//!
//! Start reading at [`Broker::read`].

mod breaker;
pub mod faults;
mod guard;
pub mod ledger;
mod login;
mod meters;
mod pool;
mod probe;
mod retries;
mod seat;
mod shard;
mod worth;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use sqlx::{Connection, PgConnection};

pub use login::{Endpoint, Login, Tls};

use crate::kernel::ids::ShardId;
use crate::kernel::{Error, MasterKey, Result};
use guard::Guard;
use seat::AcquireError;
use shard::Shard;

/// The broker's limits. The times bound how long a request waits; none of them is a statement's time limit, which
/// PostgreSQL keeps (`statement_timeout` on the role).
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Connections per shard, from this process.
    pub budget: usize,
    /// Longest wait of a request whose tenant is at its ceiling.
    pub gate_timeout: Duration,
    /// Longest wait for a connection of the shard's budget.
    pub budget_timeout: Duration,
    /// Longest login, its wait for its turn included. Under a second, so that a shard that swallows packets still means an answer within one.
    pub connect_timeout: Duration,
    /// Logins at the same time. A login keeps a processor of the shard's server busy for milliseconds, so a few are as
    /// many a second as a hundred are.
    pub logins_at_once: usize,
    /// A connection unused for this long is closed.
    pub idle_close: Duration,
    /// A connection unused for this long is asked before it is used again.
    pub ping_after: Duration,
    /// Longest answer to that question.
    pub ping_timeout: Duration,
    /// How long a tenant may keep a connection for its own waiters while a poorer one waits.
    pub quantum: Duration,
    /// A connection unused for this long no longer counts as its tenant's working set.
    pub quiet_after: Duration,
    /// A tenant that has connections waits for one of them at least this long before another tenant's is closed for it;
    /// and as long as logins take at the time, up to 100 ms.
    pub grow_after: Duration,
    /// Longest rollback of a connection whose request was dropped; it is closed afterwards.
    pub release_timeout: Duration,
    /// A statement that takes longer makes the broker ask whether the server answers at all.
    pub slow_after: Duration,
    /// Failed connection attempts in a row after which a shard counts as down.
    pub breaker_failures: u32,
    /// How often a shard that is down is tried.
    pub breaker_probe: Duration,
    /// Most requests of one tenant that wait at a time.
    pub queue_limit: usize,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            budget: 40,
            gate_timeout: Duration::from_secs(1),
            budget_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(900),
            logins_at_once: 4,
            idle_close: Duration::from_secs(60),
            ping_after: Duration::from_secs(30),
            ping_timeout: Duration::from_millis(250),
            quantum: Duration::from_millis(50),
            quiet_after: Duration::from_millis(250),
            grow_after: Duration::from_millis(5),
            release_timeout: Duration::from_secs(2),
            slow_after: Duration::from_millis(400),
            breaker_failures: 3,
            breaker_probe: Duration::from_secs(1),
            queue_limit: 512,
        }
    }
}

/// Why the work has no result.
#[derive(Debug)]
pub enum Failure<F> {
    /// The login was refused before the work had an effect; here it is back, for another try with a fresh placement.
    Refused {
        work: F,
        error: Error,
    },
    Failed(Error),
}

impl<F> From<Failure<F>> for Error {
    fn from(failure: Failure<F>) -> Self {
        match failure {
            Failure::Refused { error, .. } | Failure::Failed(error) => error,
        }
    }
}

impl<F> Failure<F> {
    fn acquiring(error: AcquireError, work: F) -> Self {
        match error {
            AcquireError::Refused(error) => Self::Refused { work, error },
            AcquireError::Failed(error) => Self::Failed(error),
        }
    }
}

/// One shard's numbers, for metrics pages and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Connections allowed, and how many of those permits nobody holds.
    pub budget: usize,
    pub free: usize,
    /// Connections open now, unused now, and the most that were ever open at once.
    pub open: usize,
    pub idle: usize,
    pub most_open: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Tenants that hold or wait.
    pub tenants: usize,
    /// Since the start.
    pub logins: u64,
    /// What all of these logins took together, in microseconds.
    pub login_micros: u64,
    pub evictions: u64,
    /// Pieces of work begun a second time, because their connection turned out to be dead.
    pub retries: u64,
    pub breaker_open: bool,
}

/// Lends connections. One per process; cheap to clone.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    config: Arc<BrokerConfig>,
    key: MasterKey,
    shards: RwLock<HashMap<ShardId, Arc<Shard>>>,
}

impl Broker {
    /// Makes a broker without any connection, and starts its sweeper on the current runtime.
    pub fn new(config: BrokerConfig, key: MasterKey) -> Self {
        let every = (config.idle_close / 4).clamp(Duration::from_millis(10), Duration::from_secs(15));
        let inner = Arc::new(Inner { config: Arc::new(config), key, shards: RwLock::default() });
        tokio::spawn(sweep(Arc::downgrade(&inner), every));
        Self(inner)
    }

    /// Runs work that only reads on the tenant's own connection, outside a transaction. When the connection turns out
    /// to be dead, the work runs once more on a fresh one.
    ///
    /// `AsyncFnOnce + Clone` says "may run twice", as `AsyncFn` would; but the future of an `AsyncFn` that borrows its
    /// surroundings is not `Send` in the eyes of today's compiler, and so of no use in a handler.
    pub async fn read<T, F>(&self, login: &Login, work: F) -> Result<T, Failure<F>>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<T> + Clone,
    {
        let shard = self.shard(login.shard);
        let mut guard = match shard.checkout(login).await {
            Ok(guard) => guard,
            Err(error) => return Err(Failure::acquiring(error, work)),
        };
        let mut again = true;
        loop {
            match shard.while_alive(&login.endpoint, work.clone()(guard.pg())).await {
                Some(Ok(done)) => {
                    guard.finish();
                    return Ok(done);
                }
                Some(Err(error)) if !faults::lost_connection(&error) => {
                    return Err(Failure::Failed(faults::outward(error)));
                }
                Some(Err(_)) if again && shard.may_retry() => guard.lost(),
                Some(Err(error)) => {
                    guard.lost();
                    return Err(Failure::Failed(faults::outward(error)));
                }
                None => {
                    guard.lost();
                    return Err(Failure::Failed(faults::unavailable()));
                }
            }
            again = false;
            if let Err(error) = guard.reopen(login).await {
                return Err(Failure::acquiring(error, work));
            }
        }
    }

    /// Runs work in a transaction on the tenant's own connection: committed when it returns `Ok`, rolled back when it
    /// returns `Err` or is dropped. It runs at most once.
    ///
    /// Work that hides a statement's failure has not done all it says it has: nothing is kept, and that is `internal`. To
    /// go on after a failure it takes a savepoint (`conn.begin()`) and rolls back to it.
    ///
    /// When the connection is lost at COMMIT, nobody knows whether the change was made; the error says so and nothing
    /// is repeated. Whoever repeats it must be idempotent.
    pub async fn write<T, F>(&self, login: &Login, work: F) -> Result<T, Failure<F>>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<T>,
    {
        let shard = self.shard(login.shard);
        let mut guard = match shard.checkout(login).await {
            Ok(guard) => guard,
            Err(error) => return Err(Failure::acquiring(error, work)),
        };
        let work = match transact(&shard, login, guard.pg(), work).await {
            // A server that does not answer is not asked again.
            Ended::NotBegun(work, Some(fault))
                if faults::is_connection_fault(&fault) && shard.may_retry() =>
            {
                guard.lost();
                work
            }
            ended => return ended.settle(guard).await,
        };
        // A dead idle connection shows at BEGIN, before the work has run: it is replaced once.
        match guard.reopen(login).await {
            Ok(()) => transact(&shard, login, guard.pg(), work).await.settle(guard).await,
            Err(error) => Err(Failure::acquiring(error, work)),
        }
    }

    /// Closes every connection of a tenant, on every shard: those in use when their request ends.
    pub fn retire(&self, role: &str) {
        let shards: Vec<_> = self.0.shards.read().values().cloned().collect();
        shards.iter().for_each(|shard| shard.retire(role));
    }

    /// Refuses new work, waits until what runs has ended, and closes everything. Bound it with a time-out.
    pub async fn close(&self) {
        let shards: Vec<_> = self.0.shards.read().values().cloned().collect();
        for shard in shards {
            shard.close().await;
        }
    }

    /// A shard's numbers; all zero for one that no request has needed yet.
    pub fn stats(&self, shard: ShardId) -> ShardStats {
        let Some(shard) = self.0.shards.read().get(&shard).cloned() else { return ShardStats::default() };
        let (counts, meters) = (shard.counts(), &shard.meters);
        ShardStats {
            budget: counts.budget,
            free: counts.free,
            open: meters.open_now.load(Ordering::Relaxed),
            idle: counts.idle,
            most_open: meters.most_open.load(Ordering::Relaxed),
            waiting: counts.waiting,
            tenants: counts.tenants,
            logins: meters.logins_total.load(Ordering::Relaxed),
            login_micros: meters.login_micros_total.load(Ordering::Relaxed),
            evictions: meters.evictions_total.load(Ordering::Relaxed),
            retries: meters.retries_total.load(Ordering::Relaxed),
            breaker_open: shard.breaker_is_open(),
        }
    }

    fn shard(&self, id: ShardId) -> Arc<Shard> {
        if let Some(shard) = self.0.shards.read().get(&id) {
            return shard.clone();
        }
        let mut shards = self.0.shards.write();
        let make = || Arc::new(Shard::new(&id.to_string(), self.0.config.clone(), self.0.key.clone()));
        shards.entry(id).or_insert_with(make).clone()
    }
}

/// How a transaction ended.
enum Ended<T, F> {
    Done(T),
    /// BEGIN failed; without an error the server did not answer.
    NotBegun(F, Option<sqlx::Error>),
    /// The work or COMMIT failed on a connection that lives.
    Failed(Error),
    /// The connection is gone, and the transaction with it.
    Lost(Error),
}

impl<T, F> Ended<T, F> {
    async fn settle(self, mut guard: Guard) -> Result<T, Failure<F>> {
        let error = match self {
            Self::Done(done) => {
                guard.finish();
                return Ok(done);
            }
            Self::Failed(error) => return Err(Failure::Failed(error)),
            Self::Lost(error) => error,
            Self::NotBegun(_, Some(error)) => faults::outward(error.into()),
            Self::NotBegun(_, None) => faults::unavailable(),
        };
        guard.lost();
        Err(Failure::Failed(error))
    }
}

/// Fails where COMMIT would not: PostgreSQL rolls a transaction back in which a statement has failed, calls that no error,
/// and says so in a tag that sqlx does not pass on. It costs a round trip, which nothing else that is sent could carry:
/// sqlx waits for each statement's end, and keeps the transaction's state that every answer bears to itself. The cheapest
/// statement that an aborted transaction refuses: nothing to plan, no row; COMMIT releases it.
const WHOLE: &str = "SAVEPOINT freehold_whole";

async fn transact<T, F>(shard: &Shard, login: &Login, pg: &mut PgConnection, work: F) -> Ended<T, F>
where
    F: AsyncFnOnce(&mut PgConnection) -> Result<T>,
{
    let at = &login.endpoint;
    let mut tx = match shard.while_alive(at, pg.begin()).await {
        Some(Ok(tx)) => tx,
        Some(Err(error)) => return Ended::NotBegun(work, Some(error)),
        None => return Ended::NotBegun(work, None),
    };
    let done = match shard.while_alive(at, work(&mut tx)).await {
        Some(Ok(done)) => done,
        Some(Err(error)) if faults::lost_connection(&error) => return Ended::Lost(faults::outward(error)),
        Some(Err(error)) => return Ended::Failed(faults::outward(error)),
        None => return Ended::Lost(faults::unavailable()),
    };
    match shard.while_alive(at, sqlx::raw_sql(WHOLE).execute(&mut *tx)).await {
        Some(Ok(_)) => {}
        Some(Err(error)) if faults::is_connection_fault(&error) => {
            return Ended::Lost(faults::outward(error.into()));
        }
        Some(Err(error)) => return Ended::Failed(faults::not_whole(error)),
        None => return Ended::Lost(faults::unavailable()),
    }
    let unknown = || {
        faults::unavailable().detail(
            "The connection was lost while the change was being saved; it may or may not have been made.",
        )
    };
    match shard.while_alive(at, tx.commit()).await {
        Some(Ok(())) => Ended::Done(done),
        Some(Err(error)) if faults::is_connection_fault(&error) => Ended::Lost(unknown().source(error)),
        Some(Err(error)) => Ended::Failed(faults::outward(error.into())),
        None => Ended::Lost(unknown()),
    }
}

/// Closes what is idle for too long, until the broker is gone.
async fn sweep(broker: Weak<Inner>, every: Duration) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(broker) = broker.upgrade() else { return };
        let shards: Vec<_> = broker.shards.read().values().cloned().collect();
        shards.iter().for_each(|shard| shard.sweep());
    }
}
