//! Facts that nobody's transaction makes: how many seats a tenant has, and how much it stores (`quotas` looks at the shards for
//! that). A fact is made when the figure is another one than last time, at most once an hour, and once a day in any case.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::Recorded;
use super::events::{Fact, record_many};
use super::meters::{Meter, SEATS, STORED_BYTES};
use crate::control_plane::ControlPlane;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

const SOURCE: &str = "sampler";
/// Figures that are written in one transaction.
const AT_ONCE: usize = 2_000;

/// One look at everything. Doing it again within the hour changes nothing; of two that do it at once, the first counts.
/// Says how many facts were made.
pub async fn sample(cp: &ControlPlane) -> Result<usize> {
    let now = cp.clock.now();
    let mut control = cp.db.acquire().await?;
    let figures = [(&SEATS, seats(&mut control).await?), (&STORED_BYTES, stored(&mut control).await?)];
    drop(control);
    let mut made = 0;
    for (meter, figures) in figures {
        made += write(cp, meter, &figures, now).await?;
    }
    Ok(made)
}

/// Members of every tenant that is not on its way out.
async fn seats(conn: &mut PgConnection) -> Result<Vec<(TenantId, i64)>> {
    Ok(sqlx::query_as(
        "SELECT t.id, count(m.account) FROM tenant t LEFT JOIN membership m ON m.tenant = t.id
          WHERE t.state IN ('active', 'suspended') GROUP BY t.id ORDER BY t.id",
    )
    .fetch_all(conn)
    .await?)
}

/// What each of them stores, as it was last looked at.
async fn stored(conn: &mut PgConnection) -> Result<Vec<(TenantId, i64)>> {
    Ok(sqlx::query_as(
        "SELECT t.id, level.used FROM tenant t JOIN quota_level level ON level.tenant = t.id
          WHERE t.state IN ('active', 'suspended') AND level.quota = 'stored_bytes' ORDER BY t.id",
    )
    .fetch_all(conn)
    .await?)
}

/// Records the figures that say something new.
async fn write(
    cp: &ControlPlane,
    meter: &Meter,
    figures: &[(TenantId, i64)],
    now: DateTime<Utc>,
) -> Result<usize> {
    let mut made = 0;
    let hour = now.timestamp() - now.timestamp().rem_euclid(3600);
    let (name, source): (Arc<str>, Arc<str>) = (Arc::from(meter.id), Arc::from(SOURCE));
    for some in figures.chunks(AT_ONCE) {
        let mut tx = cp.db.begin().await?;
        let last = last_figures(&mut tx, meter.id, some).await?;
        let facts: Vec<Fact> = some
            .iter()
            .filter(|(tenant, figure)| is_news(last.get(tenant).copied(), *figure, now))
            .map(|(tenant, figure)| Fact {
                tenant: *tenant,
                meter: name.clone(),
                source: source.clone(),
                key: format!("{}:{hour}", meter.id),
                quantity: (*figure).clamp(0, meter.aggregation.most()),
                occurred_at: now,
                received_at: now,
            })
            .collect();
        // Another worker's look in this hour is as good as ours, also when it saw another figure.
        let recorded = record_many(&mut tx, &facts).await?;
        tx.commit().await?;
        made += recorded.iter().filter(|recorded| matches!(recorded, Recorded::New(_))).count();
    }
    Ok(made)
}

async fn last_figures(
    conn: &mut PgConnection,
    meter: &str,
    figures: &[(TenantId, i64)],
) -> Result<HashMap<TenantId, (DateTime<Utc>, i64)>> {
    let tenants: Vec<TenantId> = figures.iter().map(|(tenant, _)| *tenant).collect();
    let rows: Vec<(TenantId, DateTime<Utc>, i64)> = sqlx::query_as(
        "SELECT asked.tenant, e.occurred_at, e.quantity
           FROM unnest($1::uuid[]) AS asked(tenant)
           JOIN LATERAL (SELECT occurred_at, quantity FROM usage_event
                          WHERE tenant = asked.tenant AND meter = $2 AND quarantined IS NULL
                          ORDER BY occurred_at DESC LIMIT 1) AS e ON true",
    )
    .bind(tenants)
    .bind(meter)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(tenant, at, figure)| (tenant, (at, figure))).collect())
}

/// Whether a figure is to be told: another one than last time, or the first of a UTC day. Every billing period thereby has one.
fn is_news(last: Option<(DateTime<Utc>, i64)>, figure: i64, now: DateTime<Utc>) -> bool {
    last.is_none_or(|(at, before)| before != figure || at.date_naive() != now.date_naive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_told_when_it_changes_and_once_a_day() {
        let at = |hours: i64| DateTime::UNIX_EPOCH + chrono::Duration::hours(hours);
        assert!(is_news(None, 0, at(1)));
        assert!(!is_news(Some((at(1), 5)), 5, at(23)));
        assert!(is_news(Some((at(1), 5)), 6, at(2)));
        assert!(is_news(Some((at(23), 5)), 5, at(24)));
    }
}
