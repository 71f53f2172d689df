//! One tenant's idle connections: a bb8 pool that opens a connection only when the shard's budget has paid for it.
//!
//! What bb8 is asked to do here, and what not. It keeps the idle connections and counts them; `get` is only called
//! when the [`Ledger`](super::ledger::Ledger) has set one idle connection aside for the caller, so it never waits. It
//! never opens one by itself: bb8 would do that in a task of its own, and an error would reach the caller only as a
//! time-out. Connections are opened through `dedicated_connection`, awaited by the one who needs it. Checking on
//! checkout is off for the same reason: bb8 answers a bad connection by waiting for another, the broker by opening a
//! new one on the same permit. No lifetimes are set, so there is no reaper task per tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::Mutex;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::login::{Endpoint, Login};
use super::meters::Meters;
use crate::kernel::MasterKey;

/// A connection of one tenant, from login to close.
pub struct Conn {
    /// `None` once taken out to be closed; bb8 then drops the rest.
    pg: Option<PgConnection>,
    generation: u64,
    endpoint: Arc<Endpoint>,
    /// When it was last known to answer.
    used: Instant,
    _open: Open,
}

/// Counts the connection as open for as long as it exists.
struct Open(Arc<Meters>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// What an idle connection is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    Good,
    /// Idle for long enough that a firewall or a restart may have cut it.
    Ask,
    /// Opened before the tenant's last fault, move or rotation.
    Stale,
}

impl Conn {
    pub fn pg(&mut self) -> &mut PgConnection {
        self.pg.as_mut().expect("only taken by the one who drops it next")
    }

    pub fn take(&mut self) -> Option<PgConnection> {
        self.pg.take()
    }

    /// A local check, no I/O.
    pub fn fitness(&self, tenant: &Tenant, endpoint: &Arc<Endpoint>, ask_after: Duration) -> Fitness {
        let same_place = Arc::ptr_eq(&self.endpoint, endpoint) || self.endpoint == *endpoint;
        if self.generation != tenant.generation() || !same_place {
            Fitness::Stale
        } else if self.used.elapsed() >= ask_after {
            Fitness::Ask
        } else {
            Fitness::Good
        }
    }

    pub fn is_current(&self, tenant: &Tenant) -> bool {
        self.generation == tenant.generation()
    }
}

/// An open connection in the hands of one request.
pub enum Held {
    /// Came out of the pool; dropping it puts it back.
    Pooled(bb8::PooledConnection<'static, Manager>),
    /// Just opened; the pool learns of it at the end of its first use.
    Fresh(Conn),
}

impl Held {
    pub fn conn(&mut self) -> &mut Conn {
        match self {
            Self::Pooled(conn) => conn,
            Self::Fresh(conn) => conn,
        }
    }
}

/// A permission to open one connection, deposited by the one who holds a permit of the budget.
struct Ticket {
    login: Login,
    generation: u64,
}

/// One active tenant on one shard.
pub struct Tenant {
    pub role: Arc<str>,
    pool: bb8::Pool<Manager>,
    tickets: Arc<Mutex<Vec<Ticket>>>,
    /// Raised by a connection fault and by a newer placement: what was opened before is not trusted.
    generation: AtomicU64,
    /// The newest (epoch, credential version) seen.
    newest: Mutex<(i64, i32)>,
}

impl Tenant {
    pub fn new(login: &Login, budget: usize, key: &MasterKey, meters: &Arc<Meters>) -> Self {
        let tickets = Arc::default();
        let manager = Manager { tickets: Arc::clone(&tickets), key: key.clone(), meters: meters.clone() };
        let pool = bb8::Pool::builder()
            // The ledger keeps the ceiling, which may change with the plan; the pool only has to have room.
            .max_size(budget.try_into().unwrap_or(u32::MAX))
            .max_lifetime(None)
            .idle_timeout(None)
            .retry_connection(false)
            .test_on_check_out(false)
            // The last used first, so that what a tenant does not need grows old.
            .queue_strategy(bb8::QueueStrategy::Lifo)
            .build_unchecked(manager);
        Self {
            role: login.role.clone(),
            pool,
            tickets,
            generation: AtomicU64::new(0),
            newest: Mutex::new(login.version()),
        }
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Distrusts every connection opened until now.
    pub fn distrust(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether this login is as new as any seen; a newer one retires the older's connections.
    pub fn admits(&self, login: &Login) -> bool {
        let mut newest = self.newest.lock();
        if login.version() > *newest {
            *newest = login.version();
            self.distrust();
        }
        login.version() == *newest
    }

    /// Opens one connection. The caller holds a permit.
    pub async fn open(&self, login: &Login) -> Result<Held, OpenError> {
        // Deposited and taken in one poll: `dedicated_connection` calls the manager before its first await.
        self.tickets.lock().push(Ticket { login: login.clone(), generation: self.generation() });
        self.pool.dedicated_connection().await.map(Held::Fresh)
    }

    /// Takes out the idle connection that the ledger has set aside.
    pub fn take_idle(&self) -> Option<Held> {
        self.pool.get_owned().now_or_never()?.ok().map(Held::Pooled)
    }

    /// Makes a connection idle again.
    pub fn put_idle(&self, mut held: Held) -> bool {
        held.conn().used = Instant::now();
        match held {
            Held::Pooled(conn) => {
                drop(conn);
                true
            }
            Held::Fresh(conn) => self.pool.add(conn).is_ok(),
        }
    }

    /// How long the connection has been idle.
    pub fn idle_for(held: &mut Held) -> Duration {
        held.conn().used.elapsed()
    }
}

/// Why a connection was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("a connection was asked for that the budget knows nothing of")]
    NoTicket,
}

/// Opens connections for bb8, each against a ticket.
pub struct Manager {
    tickets: Arc<Mutex<Vec<Ticket>>>,
    key: MasterKey,
    meters: Arc<Meters>,
}

impl bb8::ManageConnection for Manager {
    type Connection = Conn;
    type Error = OpenError;

    async fn connect(&self) -> Result<Conn, OpenError> {
        let Ticket { login, generation } = self.tickets.lock().pop().ok_or(OpenError::NoTicket)?;
        let started = Instant::now();
        let pg = login.options(&self.key).connect().await?;
        self.meters.login(started.elapsed());
        self.meters.opened();
        Ok(Conn {
            pg: Some(pg),
            generation,
            endpoint: login.endpoint,
            used: Instant::now(),
            _open: Open(self.meters.clone()),
        })
    }

    async fn is_valid(&self, conn: &mut Conn) -> Result<(), OpenError> {
        Ok(conn.pg().ping().await?)
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        conn.pg.is_none()
    }
}
