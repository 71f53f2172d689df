//! The daily job: what a tenant's schema no longer needs goes. Activity goes after thirteen months.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::data_plane::{RegularJob, TenantContext};
use crate::kernel::{Error, Result};

pub const KIND: &str = "opsflow_trim";

pub const DAILY: RegularJob = RegularJob { kind: KIND, every: Duration::from_secs(24 * 3600) };

/// Rows that go in one transaction.
const AT_ONCE: i64 = 1_000;

/// What such a job may be told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Trim {
    /// How long activity is kept, in days; at least one.
    activity_days: u16,
}

impl Default for Trim {
    fn default() -> Self {
        Self { activity_days: 400 }
    }
}

/// Trims one tenant. Doing it again changes nothing.
///
/// # Errors
/// `internal` for a payload that is not one of this job.
pub async fn trim(tenant: &TenantContext, payload: &Value) -> Result<()> {
    let Trim { activity_days } = serde_json::from_value(payload.clone()).map_err(Error::internal)?;
    if activity_days == 0 {
        return Err(Error::internal("a trim that would keep no activity at all"));
    }
    let before = tenant.clock.now() - chrono::Duration::days(i64::from(activity_days));
    let some = async || {
        tenant
            .write(async move |conn| {
                Ok(sqlx::query(
                    "DELETE FROM activity WHERE (at, id) IN (
                         SELECT at, id FROM activity WHERE at < $1 ORDER BY at, id LIMIT $2)",
                )
                .bind(before)
                .bind(AT_ONCE)
                .execute(conn)
                .await?
                .rows_affected())
            })
            .await
    };
    while some().await? == AT_ONCE.unsigned_abs() {}
    Ok(())
}
