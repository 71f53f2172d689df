//! What a failure says about the connection: is it dead, was the login refused, is the server full?

use std::time::Duration;

use crate::kernel::{Error, codes};

/// What a failed login means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginFault {
    /// This role may not come in (any more): look the placement up again.
    Refused,
    /// The role's own connection limit is reached.
    RoleFull,
    /// The server's connection slots are all taken.
    ServerFull,
    /// No answer, or the server is starting or stopping.
    Unreachable,
}

/// Whether the connection itself is gone, so that its next statement would fail too.
pub fn is_connection_fault(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => {
            true
        }
        // 57P0x: terminated, crashed, cannot connect now, database dropped, idle too long. 25P03: idle in a
        // transaction for too long, which ends the session too.
        sqlx::Error::Database(db) => matches!(
            db.code().as_deref(),
            Some(code) if code.starts_with("08") || code.starts_with("57P") || code == "25P03"
        ),
        _ => false,
    }
}

/// The same question about an error that already went through [`Error`].
pub fn lost_connection(error: &Error) -> bool {
    error.cause::<sqlx::Error>().is_some_and(is_connection_fault)
}

/// Whether the server refused this login, as opposed to not answering.
pub fn is_login_refused(error: &sqlx::Error) -> bool {
    login_fault(error) == LoginFault::Refused
}

/// Whether the server refused this login because of its password: behind an error that already went through [`Error`].
pub fn is_wrong_password(error: &Error) -> bool {
    let code = |cause: &sqlx::Error| cause.as_database_error()?.code().map(|code| code == "28P01");
    error.cause::<sqlx::Error>().and_then(code).unwrap_or(false)
}

/// Sorts a failed login.
pub fn login_fault(error: &sqlx::Error) -> LoginFault {
    let sqlx::Error::Database(db) = error else { return LoginFault::Unreachable };
    match db.code().as_deref() {
        // NOLOGIN, wrong password, no such database, CONNECT revoked, database closed to connections.
        Some("28000" | "28P01" | "3D000" | "42501" | "55000") => LoginFault::Refused,
        // The server's routine tells whose limit it was; the message would depend on the server's language.
        Some("53300") => {
            match db.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|e| e.routine()) {
                Some("InitializeSessionUserId") => LoginFault::RoleFull,
                _ => LoginFault::ServerFull,
            }
        }
        _ => LoginFault::Unreachable,
    }
}

/// What the client is told when the work failed: a dead connection is the shard's fault and worth a retry, a statement
/// that ran into its time limit is a time-out; a full disk is the shard's fault too; everything else stays what the work
/// said.
pub fn outward(error: Error) -> Error {
    let Some(cause) = error.cause::<sqlx::Error>() else { return error };
    if is_connection_fault(cause) {
        return unavailable().source(error);
    }
    match cause.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() {
        Some("57014") => Error::new(&codes::TIMEOUT).retry_after(Duration::from_secs(1)).source(error),
        // Its disk is full: no fault of the request's, and it passes when somebody makes room.
        Some("53100") => {
            unavailable().detail("This workspace's database has no room for more.").source(error)
        }
        _ => error,
    }
}

/// What is said of a transaction that cannot be committed as a whole, though its work said it was done.
pub fn not_whole(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() {
        Some("25P02") => Error::internal(
            "a statement failed and the work hid it: nothing was kept. A savepoint would have let it go on",
        ),
        Some("25P01") => Error::internal("the work ended its transaction itself"),
        _ => outward(error.into()),
    }
}

/// The shard does not answer.
pub fn unavailable() -> Error {
    Error::new(&codes::SHARD_UNAVAILABLE).retry_after(Duration::from_secs(1))
}

/// The shard's budget is used up by others.
pub fn shard_busy() -> Error {
    Error::new(&codes::SHARD_BUSY).retry_after(Duration::from_secs(1))
}

/// The tenant uses all that is its own.
pub fn tenant_busy() -> Error {
    Error::new(&codes::TENANT_BUSY).retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_the_connections_fault_and_a_missing_row_is_not() {
        let reset = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(is_connection_fault(&reset()));
        assert_eq!(login_fault(&reset()), LoginFault::Unreachable);
        assert!(!is_connection_fault(&sqlx::Error::RowNotFound));
        assert!(outward(reset().into()).is(&codes::SHARD_UNAVAILABLE));
        assert!(outward(Error::new(&codes::CONFLICT)).is(&codes::CONFLICT));
        assert!(lost_connection(&reset().into()));
    }
}
