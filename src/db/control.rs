//! The pool of the control database.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

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

/// A pool that connects on first use: a control database that is down is met by the caller who needs it.
pub fn pool(url: &SecretString, application: &str) -> Result<PgPool> {
    Ok(PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(3))
        .connect_lazy_with(options(url, application)?))
}
