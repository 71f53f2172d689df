//! Tries that may fail, as a password: after a few, each makes the next wait longer. A try is counted before it is made, so
//! that many at once are no way round; one that succeeds clears the count.
//!
//! The wait has an end, and whoever chooses the subject chooses whom it can hit: a count that a stranger can raise must not
//! be one that a person depends on.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::throttle::interval;
use crate::kernel::{Error, Result, codes};

/// How waits grow.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Tries without a wait.
    pub free: i32,
    /// The first wait; each later one is twice as long.
    pub first: TimeDelta,
    pub most: TimeDelta,
    /// The count is forgotten this long after the last try. Longer than `most`.
    pub forget: TimeDelta,
}

/// Counts one try.
///
/// # Errors
/// `rate_limited`, with the time to wait; the try does not count then.
pub async fn begin(
    conn: &mut PgConnection,
    subject: &str,
    patience: Patience,
    now: DateTime<Utc>,
) -> Result<()> {
    let begun: Option<i32> = sqlx::query_scalar(
        "INSERT INTO tries AS t (subject, count, next_at, forget_at) VALUES ($1, 1, $2, $2 + $6)
         ON CONFLICT (subject) DO UPDATE SET
                count = CASE WHEN t.forget_at <= $2 THEN 1 ELSE t.count + 1 END,
                next_at = CASE WHEN t.forget_at <= $2 OR t.count + 1 < $3 THEN $2
                               ELSE $2 + least($5, $4 * power(2, least(t.count + 1 - $3, 30))) END,
                forget_at = $2 + $6
          WHERE t.next_at <= $2 OR t.forget_at <= $2
         RETURNING count",
    )
    .bind(subject)
    .bind(now)
    .bind(patience.free)
    .bind(interval(patience.first))
    .bind(interval(patience.most))
    .bind(interval(patience.forget))
    .fetch_optional(&mut *conn)
    .await?;
    if begun.is_some() {
        return Ok(());
    }
    let next: Option<DateTime<Utc>> = sqlx::query_scalar("SELECT next_at FROM tries WHERE subject = $1")
        .bind(subject)
        .fetch_optional(conn)
        .await?;
    let wait = next.map_or(patience.first, |next| next - now).to_std().unwrap_or_default();
    let seconds = wait.as_secs() + 1;
    Err(Error::new(&codes::RATE_LIMITED)
        .detail(format!("too many tries; wait {seconds} seconds"))
        .retry_after(wait))
}

/// Clears the count: the try was good.
pub async fn good(conn: &mut PgConnection, subject: &str) -> Result<()> {
    sqlx::query("DELETE FROM tries WHERE subject = $1").bind(subject).execute(conn).await?;
    Ok(())
}

/// Forgets what is past its time.
pub async fn sweep(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("DELETE FROM tries WHERE forget_at < $1").bind(now).execute(conn).await?;
    Ok(())
}
