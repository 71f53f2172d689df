//! The pool of the control database.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use crate::kernel::{Error, Result, codes};

/// Reads a DSN without ever repeating it in an error.
pub fn options(url: &SecretString, application: &str) -> Result<PgConnectOptions> {
    let text = url.expose_secret();
    // The driver takes any scheme.
    let ours = text.starts_with("postgres://") || text.starts_with("postgresql://");
    match text.parse::<PgConnectOptions>() {
        Ok(options) if ours => Ok(options.application_name(application)),
        _ => Err(Error::new(&codes::BAD_REQUEST)
            .detail("this is not a PostgreSQL address")
            .hint("it looks like postgres://user:password@host:5432/database")),
    }
}

/// A connection that was idle for longer is asked for a sign of life before it is lent. One that was in use a moment ago
/// is not: the question would be one more round trip for each statement.
const TRUSTED: Duration = Duration::from_millis(100);

/// A transaction whose process has stopped in the middle of it keeps its locks no longer than this: the row of a run
/// among them, which the next worker waits for.
const FROZEN: &str = "SET idle_in_transaction_session_timeout = '15s'";

/// A pool that connects on first use: a control database that is down is met by the caller who needs it.
pub fn pool(url: &SecretString, application: &str) -> Result<PgPool> {
    Ok(PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(3))
        .test_before_acquire(false)
        .before_acquire(|conn, seen| {
            Box::pin(async move {
                if seen.idle_for > TRUSTED {
                    conn.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(|conn, _| Box::pin(async move { sqlx::raw_sql(FROZEN).execute(conn).await.map(drop) }))
        .connect_lazy_with(options(url, application)?))
}

/// A connection of its own to the control database, to say precisely what is wrong with it: the pool would only say that
/// it waited.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    match tokio::time::timeout(Duration::from_secs(5), options.connect()).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(unreachable_control(options, error)),
        Err(_) => Err(away(options, "it does not answer")),
    }
}

/// Why the control database cannot be used, without its password.
fn unreachable_control(options: &PgConnectOptions, error: sqlx::Error) -> Error {
    let why = match &error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) => error.to_string(),
        _ => "it does not answer as PostgreSQL does".to_owned(),
    };
    away(options, &why).source(error)
}

fn away(options: &PgConnectOptions, why: &str) -> Error {
    Error::new(&codes::CONTROL_UNAVAILABLE)
        .detail(format!(
            "cannot use the control database at {}:{} as {}: {why}",
            options.get_host(),
            options.get_port(),
            options.get_username()
        ))
        .hint("is it running, and is FREEHOLD_CONTROL_URL right?")
}
