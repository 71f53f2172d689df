//! How often something may be tried, counted in the control database: one count for all servers, however many there are.
//! For what is rare and worth guarding (guessing codes, beginning a device's sign-in); requests have `data_plane::limits`.

use std::net::{IpAddr, Ipv6Addr};

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

/// Takes one try of those that a client's network has for `what`. Requests of which nobody knows where they come from
/// (this machine itself, or a balancer on it that does not say for whom it asks) share one count, a hundred times as wide:
/// it stops a flood and no person.
///
/// # Errors
/// As [`take`].
pub async fn take_of_network(
    conn: &mut PgConnection,
    what: &str,
    address: &str,
    rate: Rate,
    now: DateTime<Utc>,
) -> Result<()> {
    match network(address) {
        Some(network) => take(conn, &format!("{what}:{network}"), rate, now).await,
        None => {
            let wide = Rate { every: rate.every / 100, burst: rate.burst.saturating_mul(100) };
            take(conn, &format!("{what}:unknown"), wide, now).await
        }
    }
}

/// What of an address stands for one client: an IPv4 address, or the /56 that a customer with IPv6 is given. None for
/// this machine itself, and for what is no address.
pub fn network(address: &str) -> Option<String> {
    let address: IpAddr = address.parse().ok()?;
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V4(address) => Some(address.to_string()),
        IpAddr::V6(address) => {
            let bits = u128::from(address) >> 72 << 72;
            Some(format!("{}/56", Ipv6Addr::from(bits)))
        }
    }
}

pub(super) fn interval(span: TimeDelta) -> sqlx::postgres::types::PgInterval {
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

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn a_customer_counts_once_however_many_addresses_they_have() {
        let named = |address: &str| network(address).unwrap_or_default();
        assert_eq!(named("203.0.113.7"), "203.0.113.7");
        assert_eq!(named("::ffff:203.0.113.7"), "203.0.113.7");
        assert_eq!(named("2001:db8:1:2ff::1"), "2001:db8:1:200::/56");
        assert_eq!(named("2001:db8:1:2ff::1"), named("2001:db8:1:201:a:b:c:d"));
        assert_ne!(named("2001:db8:1:2ff::1"), named("2001:db8:1:300::1"));
        for unknown in ["", "127.0.0.1", "::1", "::ffff:127.0.0.1", "nonsense"] {
            assert_eq!(network(unknown), None, "{unknown}");
        }
    }
}
