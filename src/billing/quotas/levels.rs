//! What the control database knows of counts that are kept elsewhere: requests of a month (in Redis), stored bytes (on the
//! shard). Counts of a month only go up, so the larger of two is the truer one.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::level::{ALWAYS, Level, Quota};
use super::month::Month;
use crate::control_plane::plans::Entitlements;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// Requests of a tenant in a month, as a server counted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub tenant: TenantId,
    pub month: Month,
    pub used: i64,
}

/// What is written down of a month; 0 when nothing is.
pub async fn requests_of(
    db: impl sqlx::PgExecutor<'_>,
    tenant: TenantId,
    month: Month,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT coalesce((SELECT used FROM quota_level
                           WHERE tenant = $1 AND quota = 'requests_per_month' AND period = $2), 0)",
    )
    .bind(tenant)
    .bind(month.first_day())
    .fetch_one(db)
    .await
}

/// Writes down counts that servers know, never a smaller one over a larger one. Gives each as it is then: another server may
/// have known more. Of tenants that there are not, nothing is kept.
pub async fn requests_seen(
    db: &PgPool,
    seen: &[Counted],
    now: DateTime<Utc>,
) -> Result<Vec<Counted>, sqlx::Error> {
    let tenants: Vec<Uuid> = seen.iter().map(|one| one.tenant.0).collect();
    let periods: Vec<NaiveDate> = seen.iter().map(|one| one.month.first_day()).collect();
    let used: Vec<i64> = seen.iter().map(|one| one.used).collect();
    // In one order, so that two servers wait for each other and never in a circle.
    let rows: Vec<(TenantId, NaiveDate, i64)> = sqlx::query_as(
        "WITH said AS (SELECT s.tenant, s.period, s.used
                         FROM unnest($1::uuid[], $2::date[], $3::bigint[]) AS s (tenant, period, used)
                         JOIN tenant ON tenant.id = s.tenant),
              put AS (INSERT INTO quota_level AS level (tenant, quota, period, used, updated_at)
                      SELECT tenant, 'requests_per_month', period, used, $4 FROM said ORDER BY tenant, period
                      ON CONFLICT (tenant, quota, period) DO UPDATE
                         SET used = EXCLUDED.used, updated_at = EXCLUDED.updated_at
                       WHERE level.used < EXCLUDED.used)
         SELECT said.tenant, said.period, greatest(said.used, level.used)
           FROM said LEFT JOIN quota_level level
             ON (level.tenant, level.quota, level.period) = (said.tenant, 'requests_per_month', said.period)",
    )
    .bind(tenants)
    .bind(periods)
    .bind(used)
    .bind(now)
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(tenant, period, used)| Counted { tenant, month: Month::holding(period), used })
        .collect())
}

/// Adds requests that no Redis counts, to what is written down or to what the server knew before, whichever is more. Gives
/// the new count; none for a tenant that there is not.
pub async fn requests_add(
    db: &PgPool,
    known: Counted,
    more: i64,
    now: DateTime<Utc>,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "INSERT INTO quota_level AS level (tenant, quota, period, used, updated_at)
         SELECT id, 'requests_per_month', $2, $3 + $4, $5 FROM tenant WHERE id = $1
         ON CONFLICT (tenant, quota, period) DO UPDATE
            SET used = greatest(level.used, $3) + $4, updated_at = EXCLUDED.updated_at
         RETURNING used",
    )
    .bind(known.tenant)
    .bind(known.month.first_day())
    .bind(known.used)
    .bind(more)
    .bind(now)
    .fetch_optional(db)
    .await
}

/// How a tenant's limits stand, as far as the control database knows: requests as they were some seconds ago, bytes as they
/// were last sampled, seats exactly.
///
/// # Errors
/// `tenant_not_found`.
pub async fn levels_of(conn: &mut PgConnection, tenant: TenantId, now: DateTime<Utc>) -> Result<Vec<Level>> {
    let found: Option<(Json<Entitlements>, i64, i64, i64)> = sqlx::query_as(
        "SELECT plan.entitlements,
                coalesce((SELECT used FROM quota_level
                           WHERE tenant = t.id AND quota = 'requests_per_month' AND period = $2), 0),
                coalesce((SELECT used FROM quota_level
                           WHERE tenant = t.id AND quota = 'stored_bytes' AND period = $3), 0),
                (SELECT count(*) FROM membership WHERE tenant = t.id)
           FROM tenant t JOIN plan ON plan.id = t.plan WHERE t.id = $1",
    )
    .bind(tenant)
    .bind(Month::of(now).first_day())
    .bind(ALWAYS)
    .fetch_optional(conn)
    .await?;
    let (limits, requests, bytes, seats) = found.ok_or_else(|| Error::new(&codes::TENANT_NOT_FOUND))?;
    Ok([(Quota::RequestsPerMonth, requests), (Quota::StoredBytes, bytes), (Quota::Seats, seats)]
        .into_iter()
        .map(|(quota, used)| Level::at(quota, u64::try_from(used).unwrap_or(0), quota.limit(&limits), now))
        .collect())
}
