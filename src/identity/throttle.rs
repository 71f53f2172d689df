//! How often something may be tried, counted in the control database: one count for all servers, however many there are.
//! For what is rare and worth guarding (guessing codes, beginning a device's sign-in); requests have `data_plane::limits`.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::kernel::{Error, Result, codes};

/// A rate, and how many may come at once.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Between two at the sustained rate.
    pub every: TimeDelta,
    pub burst: i32,
}

/// Takes one try. It stays taken whatever comes of it: give it a connection outside the work's transaction.
///
/// # Errors
/// `rate_limited`, with the time after which one more is free.
pub async fn take(conn: &mut PgConnection, subject: &str, rate: Rate, now: DateTime<Utc>) -> Result<()> {
    // The generic cell rate algorithm in one statement: the row's lock puts tries at once into a line.
    let taken: Option<DateTime<Utc>> = sqlx::query_scalar(
        "INSERT INTO throttle AS t (subject, tat) VALUES ($1, $2 + $3)
         ON CONFLICT (subject) DO UPDATE SET tat = greatest(t.tat, $2) + $3
          WHERE greatest(t.tat, $2) + $3 <= $2 + $3 * $4
         RETURNING tat",
    )
    .bind(subject)
    .bind(now)
    .bind(interval(rate.every))
    .bind(rate.burst)
    .fetch_optional(conn)
    .await?;
    if taken.is_some() {
        return Ok(());
    }
    let wait = rate.every.to_std().unwrap_or_default();
    Err(Error::new(&codes::RATE_LIMITED).detail("too many tries; wait a little").retry_after(wait))
}

fn interval(span: TimeDelta) -> sqlx::postgres::types::PgInterval {
    sqlx::postgres::types::PgInterval {
        months: 0,
        days: 0,
        microseconds: span.num_microseconds().unwrap_or(i64::MAX),
    }
}

/// Forgets what is full again.
pub async fn sweep(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("DELETE FROM throttle WHERE tat < $1").bind(now).execute(conn).await?;
    Ok(())
}
