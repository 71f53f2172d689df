//! How the inbox is: how long the oldest event waits, how many are dead. As gauges, as an incident, and as lines of the
//! doctor.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;

use crate::billing::Billing;
use crate::billing::incidents::{self, kind};
use crate::control_plane::doctor::{Finding, Severity};
use crate::kernel::Result;

/// An inbox older than this is behind: nobody is brought nearer to suspension by what it says.
pub const LATE: TimeDelta = TimeDelta::minutes(15);

/// The inbox in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Standing {
    /// Waiting to be worked on.
    pub ready: i64,
    pub dead: i64,
    /// When the oldest of those that wait was received.
    pub oldest: Option<DateTime<Utc>>,
}

impl Standing {
    /// How long the oldest event waits.
    pub fn lag(&self, now: DateTime<Utc>) -> TimeDelta {
        self.oldest.map_or(TimeDelta::zero(), |oldest| (now - oldest).max(TimeDelta::zero()))
    }

    pub fn is_late(&self, now: DateTime<Utc>) -> bool {
        self.lag(now) > LATE
    }
}

/// How it stands, of both modes.
pub async fn standing(conn: &mut PgConnection) -> Result<Standing> {
    Ok(sqlx::query_as(
        "SELECT count(*) FILTER (WHERE state = 'ready') AS ready, count(*) FILTER (WHERE state = 'dead') AS dead,
                min(received_at) FILTER (WHERE state = 'ready') AS oldest
           FROM webhook_inbox WHERE state IN ('ready', 'dead')",
    )
    .fetch_one(conn)
    .await?)
}

/// Sets the gauges, and opens or settles the incident of an inbox that is behind.
pub async fn watch(billing: &Billing) -> Result<()> {
    let mut conn = billing.cp.db.acquire().await?;
    let now = billing.cp.clock.now();
    let standing = standing(&mut conn).await?;
    metrics::gauge!("webhook_inbox_ready").set(standing.ready as f64);
    metrics::gauge!("webhook_inbox_dead").set(standing.dead as f64);
    metrics::gauge!("webhook_inbox_lag_seconds").set(standing.lag(now).as_seconds_f64());
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM billing_incident WHERE settled_at IS NULL")
        .fetch_one(&mut *conn)
        .await?;
    metrics::gauge!("billing_incidents_open").set(open as f64);
    if standing.is_late(now) {
        let detail = json!({ "waiting": standing.ready, "seconds": standing.lag(now).num_seconds() });
        incidents::open(&mut conn, kind::LAG, "inbox", None, detail, now).await?;
    } else {
        incidents::settle(&mut conn, kind::LAG, "inbox", "worker", now).await?;
    }
    Ok(())
}

/// The doctor's lines about webhooks.
///
/// # Errors
/// When the control database does not answer.
pub async fn findings(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<Vec<Finding>> {
    let standing = standing(&mut *conn).await?;
    let mut found = Vec::new();
    let mut add = |severity, check: &str, message: String, hint: &str| {
        let (check, hint) = (check.to_owned(), hint.to_owned());
        found.push(Finding { severity, place: "billing".to_owned(), check, message, hint });
    };
    if standing.is_late(now) {
        let (ready, minutes) = (standing.ready, standing.lag(now).num_minutes());
        add(
            Severity::Problem,
            "webhook_lag",
            format!("{ready} events of Stripe's wait, the oldest for {minutes} minutes"),
            "is a worker running, with the settings of FREEHOLD_STRIPE? see: freehold billing inbox",
        );
    }
    if standing.dead > 0 {
        add(
            Severity::Problem,
            "webhook_dead",
            format!("{} events of Stripe's were given up", standing.dead),
            "see them with: freehold billing inbox; try again with: freehold billing replay",
        );
    }
    let open: Vec<(String, i64, DateTime<Utc>)> = sqlx::query_as(
        "SELECT kind, sum(seen)::bigint, min(opened_at) FROM billing_incident
          WHERE settled_at IS NULL AND kind NOT IN ('webhook_lag', 'webhook_dead') GROUP BY kind ORDER BY kind",
    )
    .fetch_all(conn)
    .await?;
    for (kind, seen, since) in open {
        // The old secret in use is expected while it changes; everything else is not.
        let severity = if kind == kind::PREVIOUS_SECRET { Severity::Note } else { Severity::Problem };
        add(
            severity,
            &kind,
            format!("open since {}, seen {seen} times", since.format("%Y-%m-%d %H:%M")),
            "see it with: freehold billing incident list; when it is understood: freehold billing incident settle",
        );
    }
    Ok(found)
}
