//! One request's hold on one connection, and what happens to the connection however the request ends.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::login::Login;
use super::pool::Held;
use super::seat::{AcquireError, Seat, close};

/// A checked-out connection. Dropping it gives it back: as it is after [`Guard::finish`], through a rollback otherwise.
pub struct Guard {
    /// `None` only while it is dropped.
    seat: Option<Seat>,
    /// `None` after a fault, until it is opened anew.
    held: Option<Held>,
    /// The work ended by itself and left nothing behind.
    clean: bool,
}

impl Guard {
    pub fn new(seat: Seat, held: Held) -> Self {
        Self { seat: Some(seat), held: Some(held), clean: false }
    }

    pub fn pg(&mut self) -> &mut PgConnection {
        self.held.as_mut().expect("a guard that lost its connection is reopened or dropped").conn().pg()
    }

    fn seat(&mut self) -> &mut Seat {
        self.seat.as_mut().expect("only taken in drop")
    }

    /// The work is done and the connection is as it was. If it is not after all, it goes through the rollback.
    pub fn finish(mut self) {
        self.clean = !self.pg().is_in_transaction();
    }

    /// The connection failed: it is dropped, and its idle siblings, which probably died with it, are not trusted. No
    /// goodbye: whoever is there to hear it has closed already, and waiting for one who is not would make the answer late.
    pub fn lost(&mut self) {
        self.seat().tenant.distrust();
        if let Some(mut held) = self.held.take() {
            drop(held.conn().take());
        }
    }

    /// Opens a fresh connection in place of a lost one, on the same permit.
    pub async fn reopen(&mut self, login: &Login) -> Result<(), AcquireError> {
        self.held = Some(self.seat().open(login).await?);
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(seat) = self.seat.take() else { return };
        let Some(mut held) = self.held.take() else { return };
        if self.clean {
            return seat.give_back(held);
        }
        match tokio::runtime::Handle::try_current() {
            // The seat stays taken until the connection is known to be clean or closed.
            Ok(runtime) => drop(runtime.spawn(async move {
                let limit = seat.shard.config.release_timeout;
                if roll_back(held.conn().pg(), limit).await {
                    seat.give_back(held);
                } else {
                    close(held.conn().take()).await;
                    drop(seat);
                }
            })),
            // No runtime, no goodbye: the socket closes when the connection is dropped.
            Err(_) => drop(held.conn().take()),
        }
    }
}

/// Leaves no transaction behind, whatever the work left: an unread answer, a half-sent BEGIN, an open transaction that
/// sqlx does not know of. Whether it succeeded.
async fn roll_back(pg: &mut PgConnection, limit: Duration) -> bool {
    let rolling = async {
        // The unread answers may hold an error each, which surfaces here before ROLLBACK is sent; the depth is
        // sqlx's: savepoints and BEGIN.
        for _ in 0..4 {
            if sqlx::raw_sql("ROLLBACK").execute(&mut *pg).await.is_ok() {
                return !pg.is_in_transaction();
            }
        }
        false
    };
    matches!(tokio::time::timeout(limit, rolling).await, Ok(true))
}
