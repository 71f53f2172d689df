//! What a worker does of this now and then. Each is safe to do twice.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::class::benign;
use super::round::{Plan, begin, reconcile_go_on};
use super::runs::{ReconcileId, Span, Why, red};
use super::{midnight, usual_days};
use crate::billing::Billing;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// The nightly comparison begins after this, in UTC: the day before is sealed and counted by then.
const AFTER_MIDNIGHT: TimeDelta = TimeDelta::hours(2);
/// How long one round works at one run.
const PATIENCE: Duration = Duration::from_secs(120);
/// Runs are kept for as long as somebody may ask why an invoice was held.
const KEPT: TimeDelta = TimeDelta::days(400);

/// The moment since which there should be a nightly comparison.
fn due_since(now: DateTime<Utc>) -> DateTime<Utc> {
    let today = midnight(now.date_naive()) + AFTER_MIDNIGHT;
    if now >= today { today } else { today - TimeDelta::days(1) }
}

/// Begins the nightly comparison when it is due, and goes on with any that was left half-way.
///
/// # Errors
/// What the control database says.
pub async fn nightly(billing: Billing) -> Result<()> {
    let (now, livemode) = (billing.cp.clock.now(), billing.settings.livemode());
    let since = due_since(now);
    let mut tx = billing.cp.db.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('freehold.reconcile', 0))")
        .execute(&mut *tx)
        .await?;
    let due: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM billing_account WHERE livemode = $1 AND created_at < $2)
            AND NOT EXISTS (SELECT FROM reconcile_run
                             WHERE livemode = $1 AND why = 'nightly' AND tenant IS NULL AND started_at >= $2
                               AND (state <> 'failed' OR started_at > $3))",
    )
    .bind(livemode)
    .bind(since)
    // One that failed is tried again within the hour.
    .bind(now - TimeDelta::hours(1))
    .fetch_one(&mut *tx)
    .await?;
    if due {
        let (from, _) = usual_days(now);
        // Today is still being counted.
        let span = Span { from, to: midnight(now.date_naive()) };
        let plan = Plan { why: Why::Nightly, tenant: None, invoice: None, span, look_only: false };
        begin(&mut tx, &billing, &plan, now).await?;
        sqlx::query("DELETE FROM reconcile_run WHERE started_at < $1")
            .bind(now - KEPT)
            .execute(&mut *tx)
            .await?;
    }
    for tenant in red_since(&mut tx, livemode, now).await? {
        let (from, to) = usual_days(now);
        let span = Span { from, to };
        let plan = Plan { why: Why::Nightly, tenant: Some(tenant), invoice: None, span, look_only: false };
        begin(&mut tx, &billing, &plan, now).await?;
    }
    tx.commit().await?;
    let open: Vec<ReconcileId> = sqlx::query_scalar(
        "SELECT id FROM reconcile_run WHERE livemode = $1 AND state = 'running'
            AND (leased_until IS NULL OR leased_until < clock_timestamp()) ORDER BY started_at LIMIT 6",
    )
    .bind(livemode)
    .fetch_all(&billing.cp.db)
    .await?;
    for id in open {
        reconcile_go_on(&billing, id, PATIENCE).await?;
    }
    Ok(())
}

/// Tenants that are red: each is looked at again within the hour, as a whole, so that what was put right is not held against them
/// until the next night.
async fn red_since(conn: &mut PgConnection, livemode: bool, now: DateTime<Utc>) -> Result<Vec<TenantId>> {
    Ok(sqlx::query_scalar(concat!(
        "WITH last AS (SELECT coalesce(max(started_at), '-infinity') AS at FROM reconcile_run
                        WHERE livemode = $1 AND whole AND tenant IS NULL AND state IN ('green', 'red')),
              named AS (SELECT DISTINCT d.tenant FROM reconcile_run r JOIN reconcile_difference d ON d.run = r.id
                         WHERE r.livemode = $1 AND r.state = 'red' AND r.started_at >= (SELECT at FROM last)
                           AND d.tenant IS NOT NULL AND d.class NOT IN ",
        benign!(),
        ")
         SELECT n.tenant FROM named n
          WHERE NOT EXISTS (SELECT FROM reconcile_run w WHERE w.livemode = $1 AND w.whole AND w.started_at > $2
                               AND (w.tenant IS NULL OR w.tenant = n.tenant)) AND ",
        red!("$1", "n.tenant"),
        " ORDER BY n.tenant LIMIT 5",
    ))
    .bind(livemode)
    .bind(now - TimeDelta::hours(1))
    .fetch_all(conn)
    .await?)
}

/// Looks at drafts: see [`super::close`].
///
/// # Errors
/// What the control database says.
pub async fn close(billing: Billing) -> Result<()> {
    super::close::close_due(&billing).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_night() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert_eq!(due_since(at("2026-11-21T02:00:00Z")), at("2026-11-21T02:00:00Z"));
        assert_eq!(due_since(at("2026-11-21T23:59:00Z")), at("2026-11-21T02:00:00Z"));
        assert_eq!(due_since(at("2026-11-21T01:59:59Z")), at("2026-11-20T02:00:00Z"));
    }
}
