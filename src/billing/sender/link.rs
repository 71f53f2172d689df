//! How Stripe and we fare, one row per mode: whether our key is refused, when Stripe last answered, how far our clocks are
//! apart, and whose turn it is to send.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};

use crate::kernel::Result;

/// The row; all empty when nothing was ever asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Link {
    /// Set by 401 and 403: nothing is sent until a question is answered again.
    pub halted_reason: Option<String>,
    pub halted_at: Option<DateTime<Utc>>,
    pub last_ok_at: Option<DateTime<Utc>>,
    pub last_error_at: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
    /// Seconds that Stripe's clock is ahead of ours.
    pub skew_seconds: Option<i32>,
}

impl Link {
    /// The last time that Stripe said anything at all.
    pub fn heard_at(&self) -> Option<DateTime<Utc>> {
        self.last_ok_at.max(self.last_error_at)
    }
}

pub async fn link(conn: &mut PgConnection, livemode: bool) -> Result<Link> {
    let found = sqlx::query_as(
        "SELECT halted_reason, halted_at, last_ok_at, last_error_at, last_error, skew_seconds
         FROM stripe_link WHERE livemode = $1",
    )
    .bind(livemode)
    .fetch_optional(conn)
    .await?;
    Ok(found.unwrap_or_default())
}

/// Takes note of an answer that could be used.
pub async fn answered(
    db: &PgPool,
    livemode: bool,
    now: DateTime<Utc>,
    skew_seconds: Option<i32>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO stripe_link (livemode, last_ok_at, skew_seconds) VALUES ($1, $2, $3)
         ON CONFLICT (livemode) DO UPDATE SET last_ok_at = EXCLUDED.last_ok_at,
            skew_seconds = COALESCE(EXCLUDED.skew_seconds, stripe_link.skew_seconds)",
    )
    .bind(livemode)
    .bind(now)
    .bind(skew_seconds)
    .execute(db)
    .await?;
    Ok(())
}

/// Takes note of trouble.
pub async fn troubled(
    db: &PgPool,
    livemode: bool,
    now: DateTime<Utc>,
    what: &str,
    skew_seconds: Option<i32>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO stripe_link (livemode, last_error_at, last_error, skew_seconds) VALUES ($1, $2, $3, $4)
         ON CONFLICT (livemode) DO UPDATE SET last_error_at = EXCLUDED.last_error_at,
            last_error = EXCLUDED.last_error,
            skew_seconds = COALESCE(EXCLUDED.skew_seconds, stripe_link.skew_seconds)",
    )
    .bind(livemode)
    .bind(now)
    .bind(what.chars().take(500).collect::<String>())
    .bind(skew_seconds)
    .execute(db)
    .await?;
    Ok(())
}

/// Stops all senders of this mode.
pub async fn halt(db: &PgPool, livemode: bool, now: DateTime<Utc>, reason: &str) -> Result<()> {
    sqlx::query(
        "INSERT INTO stripe_link (livemode, halted_reason, halted_at) VALUES ($1, $2, $3)
         ON CONFLICT (livemode) DO UPDATE SET halted_reason = EXCLUDED.halted_reason,
            halted_at = COALESCE(stripe_link.halted_at, EXCLUDED.halted_at)",
    )
    .bind(livemode)
    .bind(reason.chars().take(500).collect::<String>())
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

/// Lets them go on: a question with our key was answered.
pub async fn go_on(db: &PgPool, livemode: bool) -> Result<()> {
    sqlx::query("UPDATE stripe_link SET halted_reason = NULL, halted_at = NULL WHERE livemode = $1")
        .bind(livemode)
        .execute(db)
        .await?;
    Ok(())
}

/// Further ahead, the pace was written by a clock that has gone back since.
const PACED_AT_MOST: TimeDelta = TimeDelta::minutes(2);

/// Reserves the next `turns` among all senders of this mode, `step` apart, and says when the first of them is.
pub async fn reserve(
    db: &PgPool,
    livemode: bool,
    now: DateTime<Utc>,
    turns: u32,
    step: Duration,
) -> Result<DateTime<Utc>> {
    let whole = TimeDelta::from_std(step * turns).unwrap_or(PACED_AT_MOST);
    let until: DateTime<Utc> = sqlx::query_scalar(
        "INSERT INTO stripe_link (livemode, paced_until) VALUES ($1, $2::timestamptz + make_interval(secs => $3))
         ON CONFLICT (livemode) DO UPDATE SET paced_until = make_interval(secs => $3) +
            CASE WHEN stripe_link.paced_until BETWEEN $2 AND $4 THEN stripe_link.paced_until ELSE $2 END
         RETURNING paced_until",
    )
    .bind(livemode)
    .bind(now)
    .bind(whole.as_seconds_f64())
    .bind(now + PACED_AT_MOST)
    .fetch_one(db)
    .await?;
    Ok(until - whole)
}

/// Nobody of this mode sends for a while: Stripe said that it is too much.
pub async fn hold_off(db: &PgPool, livemode: bool, now: DateTime<Utc>, pause: Duration) -> Result<()> {
    let until = now + TimeDelta::from_std(pause).unwrap_or(PACED_AT_MOST).min(PACED_AT_MOST);
    sqlx::query(
        "UPDATE stripe_link SET paced_until = GREATEST(COALESCE(paced_until, $2), $2) WHERE livemode = $1",
    )
    .bind(livemode)
    .bind(until)
    .execute(db)
    .await?;
    Ok(())
}
