//! All of it in some numbers: for the monitoring, and for the desk.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::billing::incidents::{Incident, IncidentId};
use crate::billing::reconcile::class::benign;
use crate::billing::reconcile::{Run, last_run};
use crate::billing::{Billing, incidents};
use crate::control_plane::ControlPlane;
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// The kind of incident for an invoice that is much higher than the ones before.
pub const UNUSUAL: &str = "invoice_unusual";
/// The kind of incident for comparisons that do not happen.
pub const NOT_RECONCILED: &str = "reconcile_late";
/// The nightly comparison may be this late.
const RECONCILED_WITHIN: TimeDelta = TimeDelta::hours(36);
/// An invoice is compared with this many before it, and with no fewer than two.
const BEFORE: i64 = 12;
/// Invoices are looked at for some days after they were made.
const LOOKED_AT: TimeDelta = TimeDelta::days(3);

/// How money stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Standing {
    /// Batches that are not delivered and will be, and since when the oldest waits.
    pub undelivered: i64,
    pub oldest_undelivered: Option<DateTime<Utc>>,
    /// Of them, those that may be at Stripe.
    pub unknown: i64,
    pub rejected: i64,
    pub quarantined: i64,
    /// Facts that were too old or from the future, and are not corrected.
    pub quarantined_facts: i64,
    /// Facts that no batch holds yet.
    pub open_facts: i64,
    pub drafts_held: i64,
    /// Corrections that wait for a second person.
    pub corrections_asked: i64,
    pub inbox_ready: i64,
    pub inbox_dead: i64,
    pub incidents_open: i64,
    /// Of the last comparison of all tenants: what does not explain itself, without tenants that were found whole since.
    pub differences: i64,
    pub last_run: Option<Run>,
}

/// How money stands now.
pub async fn standing(conn: &mut PgConnection, livemode: bool) -> Result<Standing> {
    type Row = (i64, Option<DateTime<Utc>>, i64, i64, i64);
    let (undelivered, oldest_undelivered, unknown, rejected, quarantined): Row = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE b.state IN ('ready', 'sending', 'unknown') AND a.tenant IS NOT NULL),
                min(b.sealed_at) FILTER (WHERE b.state IN ('ready', 'sending', 'unknown') AND a.tenant IS NOT NULL),
                count(*) FILTER (WHERE b.state = 'unknown'), count(*) FILTER (WHERE b.state = 'rejected'),
                count(*) FILTER (WHERE b.state = 'quarantined')
           FROM usage_batch b LEFT JOIN billing_account a ON a.tenant = b.tenant AND a.livemode = $1
          WHERE b.state NOT IN ('delivered', 'void')",
    )
    .bind(livemode)
    .fetch_one(&mut *conn)
    .await?;
    type More = (i64, i64, i64, i64, i64, i64, i64);
    let more: More = sqlx::query_as(
        "SELECT (SELECT count(*) FROM usage_event e WHERE e.quarantined IS NOT NULL AND NOT EXISTS (
                    SELECT FROM usage_correction c WHERE c.corrects = e.id AND c.state = 'approved')),
                (SELECT count(*) FROM usage_event WHERE batch IS NULL AND quarantined IS NULL),
                (SELECT count(*) FROM invoice WHERE held AND status = 'draft'),
                (SELECT count(*) FROM usage_correction WHERE state = 'asked'),
                (SELECT count(*) FROM webhook_inbox WHERE state = 'ready' AND livemode = $1),
                (SELECT count(*) FROM webhook_inbox WHERE state = 'dead' AND livemode = $1),
                (SELECT count(*) FROM billing_incident WHERE settled_at IS NULL)",
    )
    .bind(livemode)
    .fetch_one(&mut *conn)
    .await?;
    let (
        quarantined_facts,
        open_facts,
        drafts_held,
        corrections_asked,
        inbox_ready,
        inbox_dead,
        incidents_open,
    ) = more;
    let last = last_run(&mut *conn, livemode).await?;
    let differences: i64 = sqlx::query_scalar(concat!(
        "SELECT count(*) FROM reconcile_difference d JOIN reconcile_run last ON last.id = d.run
              WHERE d.run = $1 AND d.class NOT IN ",
        benign!(),
        " AND NOT EXISTS (SELECT FROM reconcile_run r WHERE r.tenant = d.tenant AND r.state = 'green'
                                 AND r.whole AND r.started_at > last.started_at)",
    ))
    .bind(last.as_ref().map(|run| run.id))
    .fetch_one(conn)
    .await?;
    Ok(Standing {
        undelivered,
        oldest_undelivered,
        unknown,
        rejected,
        quarantined,
        quarantined_facts,
        open_facts,
        drafts_held,
        corrections_asked,
        inbox_ready,
        inbox_dead,
        incidents_open,
        differences,
        last_run: last,
    })
}

/// Says that an incident was looked at and is over.
///
/// # Errors
/// `not_found` for one that is not open.
pub async fn incident_settle(cp: &ControlPlane, caller: &Caller, id: IncidentId) -> Result<Incident> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let incident = incidents::settle_by_id(&mut tx, id, &caller.actor, now).await?;
    let detail = json!({ "kind": incident.kind, "subject": incident.subject });
    audit_add(&mut tx, caller, now, "billing.incident.settle", incident.tenant, &id.to_string(), detail)
        .await?;
    tx.commit().await?;
    Ok(incident)
}

/// Sets the gauges, and looks for what finance should see by itself.
///
/// # Errors
/// What the control database says.
pub async fn watch(billing: Billing) -> Result<()> {
    let (now, livemode) = (billing.cp.clock.now(), billing.settings.livemode());
    let mut conn = billing.cp.db.acquire().await?;
    let all = standing(&mut conn, livemode).await?;
    let gauges: [(&str, i64); 8] = [
        ("undelivered", all.undelivered),
        ("unknown", all.unknown),
        ("rejected", all.rejected),
        ("quarantined", all.quarantined),
        ("quarantined_facts", all.quarantined_facts),
        ("drafts_held", all.drafts_held),
        ("corrections_asked", all.corrections_asked),
        ("differences", all.differences),
    ];
    for (what, count) in gauges {
        metrics::gauge!("billing_waiting", "what" => what).set(count as f64);
    }
    if billing.settings.enabled() {
        reconciled(&mut conn, livemode, all.last_run.as_ref(), now).await?;
    }
    unusual(&mut conn, i64::from(billing.settings.alerts.invoice_times_mean), now).await
}

/// Comparisons should happen, once there is something to compare.
async fn reconciled(
    conn: &mut PgConnection,
    livemode: bool,
    last: Option<&Run>,
    now: DateTime<Utc>,
) -> Result<()> {
    let since: Option<DateTime<Utc>> =
        sqlx::query_scalar("SELECT min(created_at) FROM billing_account WHERE livemode = $1")
            .bind(livemode)
            .fetch_one(&mut *conn)
            .await?;
    let whole: Option<DateTime<Utc>> = sqlx::query_scalar(
        "SELECT max(finished_at) FROM reconcile_run
          WHERE livemode = $1 AND whole AND tenant IS NULL AND state IN ('green', 'red')",
    )
    .bind(livemode)
    .fetch_one(&mut *conn)
    .await?;
    let quiet = whole.or(since).map_or(TimeDelta::zero(), |at| now - at);
    metrics::gauge!("billing_reconciled_seconds_ago").set(quiet.as_seconds_f64());
    if quiet > RECONCILED_WITHIN {
        let why = last.and_then(|run| run.error.clone());
        let detail = json!({ "hours": quiet.num_hours(), "last_error": why });
        incidents::open(conn, NOT_RECONCILED, "all", None, detail, now).await.map(drop)
    } else {
        incidents::settle(conn, NOT_RECONCILED, "all", "worker", now).await.map(drop)
    }
}

/// Invoices that are much higher than the ones before: a price that was mistyped, a meter that counts twice.
async fn unusual(conn: &mut PgConnection, times: i64, now: DateTime<Utc>) -> Result<()> {
    let found: Vec<(String, TenantId, i64, i64)> = sqlx::query_as(
        "SELECT i.id, i.tenant, i.total_minor, before.mean::bigint FROM invoice i
          CROSS JOIN LATERAL (
                SELECT avg(total_minor) AS mean, count(*) AS count FROM (
                    SELECT total_minor FROM invoice p
                     WHERE p.tenant = i.tenant AND p.created_at < i.created_at AND p.status <> 'void' AND p.currency = i.currency
                     ORDER BY p.created_at DESC LIMIT $3) AS few) AS before
          WHERE i.created_at > $1 AND i.status IN ('draft', 'open', 'paid') AND before.count >= 2
            AND i.total_minor > before.mean * $2 AND i.total_minor > 0
            AND NOT EXISTS (SELECT FROM billing_incident n WHERE n.kind = $4 AND n.subject = i.id)
          LIMIT 100",
    )
    .bind(now - LOOKED_AT)
    .bind(times)
    .bind(BEFORE)
    .bind(UNUSUAL)
    .fetch_all(&mut *conn)
    .await?;
    for (invoice, tenant, total, mean) in found {
        let detail = json!({ "total_minor": total, "mean_minor": mean, "times": times });
        incidents::open(&mut *conn, UNUSUAL, &invoice, Some(tenant), detail, now).await?;
    }
    Ok(())
}
