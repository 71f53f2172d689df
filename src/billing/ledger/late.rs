//! Facts that come too late to be billed by themselves, or from the future: kept in the ledger, never sealed, for a person to
//! decide. Whoever decides that such a fact counts asks for a correction that names it.

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::FactId;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Stripe takes what is at most 35 days old; the last day is for sealing, sending, and an outage of Stripe's.
pub const OLDEST: Duration = Duration::days(34);
/// Stripe takes what is at most five minutes ahead.
pub const AHEAD: Duration = Duration::minutes(5);

/// Why a fact is kept aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    TooOld,
    Future,
}

impl Why {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooOld => "too_old",
            Self::Future => "future",
        }
    }
}

/// Whether a fact that was heard of at `received` is to be kept aside.
pub fn judge(occurred: DateTime<Utc>, received: DateTime<Utc>) -> Option<Why> {
    if occurred < received - OLDEST {
        Some(Why::TooOld)
    } else if occurred > received + AHEAD {
        Some(Why::Future)
    } else {
        None
    }
}

/// A fact that was kept aside.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Quarantined {
    pub id: FactId,
    pub tenant: TenantId,
    pub meter: String,
    pub source: String,
    pub key: String,
    pub quantity: i64,
    pub occurred_at: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    /// `too_old` or `future`.
    pub why: String,
    /// A correction that names it was agreed to: it counts by that.
    pub corrected: bool,
}

/// Facts that were kept aside, newest first; of one tenant, or of all.
pub async fn quarantine_list(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    limit: i64,
) -> Result<Vec<Quarantined>> {
    Ok(sqlx::query_as(
        "SELECT e.id, e.tenant, e.meter, e.source, e.key, e.quantity, e.occurred_at, e.received_at, e.quarantined AS why,
                EXISTS (SELECT FROM usage_correction c WHERE c.corrects = e.id AND c.state = 'approved') AS corrected
           FROM usage_event e
          WHERE e.quarantined IS NOT NULL AND ($1::uuid IS NULL OR e.tenant = $1)
          ORDER BY e.received_at DESC, e.id DESC LIMIT $2",
    )
    .bind(tenant)
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

/// Something in a shard's outbox that is no fact.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Stray {
    /// The shard's name.
    pub shard: String,
    pub outbox_id: i64,
    /// The login that wrote it.
    pub role_name: String,
    pub key: String,
    pub payload: String,
    pub at: DateTime<Utc>,
    pub why: String,
    pub received_at: DateTime<Utc>,
}

/// What was found in outboxes and is no fact, newest first.
pub async fn stray_list(conn: &mut PgConnection, limit: i64) -> Result<Vec<Stray>> {
    Ok(sqlx::query_as(
        "SELECT coalesce(shard.name, s.shard::text) AS shard, s.outbox_id, s.role_name, s.key, s.payload, s.at, s.why,
                s.received_at
           FROM usage_stray s LEFT JOIN shard ON shard.id = s.shard
          ORDER BY s.received_at DESC, s.outbox_id DESC LIMIT $1",
    )
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stripe_would_not_take_is_kept_aside() {
        let now = DateTime::UNIX_EPOCH + Duration::days(1_000);
        for (offset, why) in [
            (Duration::zero(), None),
            (-Duration::days(34), None),
            (-Duration::days(34) - Duration::milliseconds(1), Some(Why::TooOld)),
            (-Duration::days(36), Some(Why::TooOld)),
            (Duration::minutes(5), None),
            (Duration::minutes(5) + Duration::milliseconds(1), Some(Why::Future)),
            (Duration::minutes(6), Some(Why::Future)),
        ] {
            assert_eq!(judge(now + offset, now), why, "{offset}");
        }
    }
}
