//! A seat: the right to use one connection, and how the connection on it is opened and closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use super::faults::{self, LoginFault};
use super::login::Login;
use super::pool::{Held, OpenError, Tenant};
use super::shard::Shard;
use crate::kernel::Error;

/// How long a connection gets to say goodbye.
const GOODBYE: Duration = Duration::from_millis(250);

/// Why no connection was had.
#[derive(Debug)]
pub enum AcquireError {
    /// The server refused this login, or a newer placement is known: look the placement up again.
    Refused(Error),
    Failed(Error),
}

/// The right to use one connection of one tenant. Wherever it is dropped, the right goes back into the books.
pub struct Seat {
    pub shard: Arc<Shard>,
    pub tenant: Arc<Tenant>,
    /// The connection is idle in the tenant's pool: set aside for this seat at first, put back by it at the end.
    pub warm: bool,
    /// Another tenant's connection whose permit this seat now holds.
    pub evicted: Option<PgConnection>,
    pub turn: Instant,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shard.clone().release(self);
    }
}

impl Seat {
    pub fn take_warm(&mut self) -> Option<Held> {
        self.warm = false;
        self.tenant.take_idle()
    }

    /// Logs in on this seat's permit.
    pub async fn open(&mut self, login: &Login) -> Result<Held, AcquireError> {
        close(self.evicted.take()).await;
        let shard = &self.shard;
        let probing = shard.breaker_is_open();
        if !shard.breaker.lock().admits(Instant::now()) {
            return Err(AcquireError::Failed(faults::unavailable()));
        }
        let deadline = Instant::now() + shard.config.connect_timeout;
        // Held until what came of it is noted: the next in turn must know.
        let turn = tokio::time::timeout_at(deadline.into(), shard.logins.acquire()).await;
        // Those before it may have found that the server does not answer.
        if !probing && shard.breaker_is_open() {
            return Err(AcquireError::Failed(faults::unavailable()));
        }
        if !matches!(turn, Ok(Ok(_))) {
            return Err(AcquireError::Failed(faults::shard_busy()));
        }
        let begun = Instant::now();
        let opened = tokio::time::timeout_at(deadline.into(), self.tenant.open(login)).await;
        // The login is not charged to the turn: it is what the turn is there to make worth while.
        self.turn = Instant::now();
        let error = match opened {
            Ok(Ok(held)) => {
                shard.login_took(begun.elapsed());
                self.server_answered(true);
                return Ok(held);
            }
            Ok(Err(OpenError::NoTicket)) => {
                return Err(AcquireError::Failed(Error::internal(OpenError::NoTicket)));
            }
            Ok(Err(OpenError::Database(error))) => error,
            // It had to wait for its turn too long for its failure to say anything about the server.
            Err(_) if begun.elapsed() < shard.config.connect_timeout / 2 => {
                return Err(AcquireError::Failed(faults::shard_busy()));
            }
            Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        };
        let fault = faults::login_fault(&error);
        self.server_answered(fault != LoginFault::Unreachable);
        Err(match fault {
            LoginFault::Refused => {
                shard.meters.refused();
                self.tenant.distrust();
                AcquireError::Refused(faults::unavailable().source(error))
            }
            LoginFault::RoleFull => AcquireError::Failed(faults::tenant_busy().source(error)),
            LoginFault::ServerFull => AcquireError::Failed(faults::shard_busy().source(error)),
            LoginFault::Unreachable => AcquireError::Failed(faults::unavailable().source(error)),
        })
    }

    fn server_answered(&self, yes: bool) {
        let mut breaker = self.shard.breaker.lock();
        if yes {
            breaker.answered()
        } else {
            breaker.failed(Instant::now())
        }
        self.shard.meters.breaker_open.set(f64::from(u8::from(breaker.is_open())));
    }

    /// Puts a clean connection back, if it is still wanted, and gives the seat up.
    pub fn give_back(mut self, mut held: Held) {
        if held.conn().is_current(&self.tenant) {
            self.warm = self.tenant.put_idle(held);
        } else {
            self.give_up(held.conn().take());
        }
    }

    /// Closes the connection and gives the seat up, in this order: the permit is not free before the server knows.
    pub fn give_up(self, pg: Option<PgConnection>) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                close(pg).await;
                drop(self);
            })),
            Err(_) => drop(self),
        }
    }
}

/// Says goodbye, so that the server frees its slot now and not when it next tries to write.
pub async fn close(pg: Option<PgConnection>) {
    if let Some(pg) = pg {
        // A connection that cannot even say goodbye is closed by being dropped.
        drop(tokio::time::timeout(GOODBYE, pg.close()).await);
    }
}

/// As [`close`], without waiting for it.
pub fn close_aside(pg: Option<PgConnection>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(close(pg));
    }
}
