//! What is left over when a period is closed: owed to the customer, or billed by nobody. Either is a difference in every
//! comparison, and an incident for as long as it stands, however long ago its invoice was made.
//!
//! It ends when it is put right: what is owed, by credit notes on its invoice that cover it. Or finance decides that it stays as
//! it is (paid back in another way, charged by hand, waived): with a reason, in the audit log, and for so many units.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::class::{Class, Level, owed_for};
use super::runs::Found;
use crate::billing::incidents::{self, Incident, IncidentId};
use crate::control_plane::ControlPlane;
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// The kind of incident for what is owed to a customer.
pub const CREDIT_DUE: &str = "credit_due";
/// The kind of incident for use that nobody bills.
pub const UNBILLED: &str = "usage_unbilled";
/// Who settles what is over.
const BY: &str = "reconcile";

/// What finance decided about a tenant: for how many units, by what the difference is about.
pub type Decisions = BTreeMap<String, i64>;

pub(super) async fn decisions(conn: &mut PgConnection, tenant: TenantId) -> Result<Decisions> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT subject, units FROM reconcile_decision WHERE tenant = $1")
            .bind(tenant)
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().collect())
}

/// Whether so many units are decided about. Pure.
pub(super) fn is_decided(decisions: &Decisions, subject: &str, units: i64) -> bool {
    decisions.get(subject).is_some_and(|decided| units <= *decided)
}

/// What the line of an invoice is about, in a difference.
pub(super) fn subject_of(invoice: &str, meter: &str, from: DateTime<Utc>) -> String {
    format!("{invoice}:{meter}:{}", from.date_naive())
}

/// What was charged for a meter in the periods that units were taken away from and carried into `from..to`. None when some
/// were taken from no period that has an invoice: then nobody knows.
async fn charged(
    conn: &mut PgConnection,
    (tenant, meter): (TenantId, &str),
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Option<i64>> {
    Ok(sqlx::query_scalar(
        "WITH taken AS (
             SELECT window_start, carried_forward AND window_start < $3 AS before FROM usage_batch
              WHERE tenant = $1 AND meter = $2 AND event_at >= $3 AND event_at < $4 AND quantity < 0 AND state <> 'void'),
         line AS (
             SELECT l.period_start, l.period_end, sum(l.amount_minor)::bigint AS amount
               FROM invoice i
               CROSS JOIN LATERAL jsonb_to_recordset(i.lines) AS l(meter text, amount_minor bigint,
                    period_start timestamptz, period_end timestamptz)
              WHERE i.tenant = $1 AND i.status IN ('open', 'paid', 'uncollectible') AND l.meter = $2
              GROUP BY l.period_start, l.period_end)
         SELECT CASE WHEN EXISTS (SELECT FROM taken t WHERE NOT t.before OR NOT EXISTS (
                              SELECT FROM line l WHERE l.period_start <= t.window_start AND t.window_start < l.period_end))
                     THEN NULL
                     ELSE (SELECT coalesce(sum(l.amount), 0)::bigint FROM line l WHERE EXISTS (
                              SELECT FROM taken t WHERE l.period_start <= t.window_start AND t.window_start < l.period_end))
                END",
    )
    .bind(tenant)
    .bind(meter)
    .bind(from)
    .bind(to)
    .fetch_one(conn)
    .await?)
}

/// What so many units of a meter that are less than nothing in a period are worth, without tax. None when nobody knows.
pub(super) async fn owed(
    conn: &mut PgConnection,
    of: (TenantId, &str),
    period: (DateTime<Utc>, DateTime<Utc>),
    (units, unit_minor): (i64, Option<i64>),
) -> Result<Option<i64>> {
    let charged = charged(conn, of, period).await?;
    Ok(owed_for(units, unit_minor, charged))
}

/// A batch that was carried forward, and is told for a time that no invoice covers.
#[derive(sqlx::FromRow)]
struct Alone {
    identifier: String,
    meter: String,
    quantity: i64,
    window_start: DateTime<Utc>,
    event_at: DateTime<Utc>,
}

/// L4: what came after the last invoice of a subscription that has ended. Stripe counts it, and nobody bills it, or gives it
/// back. A subscription that lives will cover what lies after its beginning.
pub(super) async fn for_no_invoice(
    conn: &mut PgConnection,
    tenant: TenantId,
    decisions: &Decisions,
) -> Result<Vec<Found>> {
    let rows: Vec<Alone> = sqlx::query_as(
        "SELECT b.identifier, b.meter, b.quantity, b.window_start, b.event_at
           FROM usage_batch b JOIN meter m ON m.id = b.meter AND m.aggregation = 'sum'
          WHERE b.tenant = $1 AND b.carried_forward AND b.state NOT IN ('void', 'rejected', 'quarantined') AND b.quantity <> 0
            AND NOT EXISTS (SELECT FROM invoice i WHERE i.tenant = b.tenant AND i.status <> 'void'
                               AND i.period_start <= b.event_at AND b.event_at < i.period_end)
            AND NOT EXISTS (SELECT FROM subscription s WHERE s.tenant = b.tenant AND s.period_start <= b.event_at
                               AND s.status IN ('trialing', 'active', 'past_due', 'unpaid', 'paused'))
          ORDER BY b.event_at, b.identifier LIMIT 500",
    )
    .bind(tenant)
    .fetch_all(conn)
    .await?;
    let found = |one: Alone| {
        let class = match one.quantity {
            _ if is_decided(decisions, &one.identifier, one.quantity.saturating_abs()) => Class::Settled,
            less if less < 0 => Class::CreditDue,
            _ => Class::Unbilled,
        };
        let detail =
            format!("of {}, told for {}: no invoice covers that time", one.window_start, one.event_at);
        let (subject, meter) = (one.identifier, Some(one.meter));
        Found { level: Level::L4, meter, subject, ours: one.quantity, theirs: 0, class, detail }
    };
    Ok(rows.into_iter().map(found).collect())
}

/// Opens an incident for each that stands, and settles those that do not any more: of the invoices that were compared, and of
/// what is on no invoice, if that was looked at (`alone`).
pub(super) async fn keep(
    conn: &mut PgConnection,
    tenant: TenantId,
    found: &[(Found, bool)],
    invoices: &[String],
    alone: bool,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut standing = Vec::new();
    for (one, _) in found {
        let kind = match one.class {
            Class::CreditDue => CREDIT_DUE,
            Class::Unbilled => UNBILLED,
            _ => continue,
        };
        let units = one.ours.saturating_sub(one.theirs).saturating_abs();
        let detail = json!({ "meter": one.meter, "units": units, "detail": one.detail });
        incidents::open(&mut *conn, kind, &one.subject, Some(tenant), detail, now).await?;
        standing.push(one.subject.as_str());
    }
    for (kind, subject) in open(&mut *conn, tenant).await? {
        let compared = alone && subject.starts_with("ub:") || invoices.iter().any(|id| is_of(&subject, id));
        if compared && !standing.contains(&subject.as_str()) {
            incidents::settle(&mut *conn, &kind, &subject, BY, now).await?;
        }
    }
    Ok(())
}

/// Whether a subject is about this invoice. Pure.
fn is_of(subject: &str, invoice: &str) -> bool {
    subject.strip_prefix(invoice).is_some_and(|rest| rest.starts_with(':'))
}

/// Kinds and subjects that stand.
async fn open(conn: &mut PgConnection, tenant: TenantId) -> Result<Vec<(String, String)>> {
    Ok(sqlx::query_as(
        "SELECT kind, subject FROM billing_incident
          WHERE tenant = $1 AND kind IN ('credit_due', 'usage_unbilled') AND settled_at IS NULL ORDER BY kind, subject",
    )
    .bind(tenant)
    .fetch_all(conn)
    .await?)
}

/// Invoices on which something is owed, however old they are: each comparison looks at them again.
pub(super) async fn invoices_that_owe(conn: &mut PgConnection, tenant: TenantId) -> Result<Vec<String>> {
    let open = open(conn, tenant).await?;
    let of = |(_, subject): (String, String)| {
        let (invoice, _) = subject.split_once(':')?;
        invoice.starts_with("in_").then(|| invoice.to_owned())
    };
    Ok(open.into_iter().filter_map(of).collect())
}

/// Why finance leaves what is owed, or not billed, as it is.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AcceptIncident)]
pub struct Accept {
    #[garde(length(chars, min = 3, max = 500))]
    #[schema(example = "paid back by bank transfer on 2026-12-03")]
    pub reason: String,
}

/// Decides that what is owed, or not billed, stays as it is: for as many units as it is now.
///
/// # Errors
/// `not_found` for an incident that is not open; `state_conflict` for one that is about something else.
pub async fn accept(cp: &ControlPlane, caller: &Caller, id: IncidentId, how: &Accept) -> Result<Incident> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let found: Option<(String, String, Option<TenantId>, Option<i64>)> = sqlx::query_as(
        "SELECT kind, subject, tenant, (detail ->> 'units')::bigint FROM billing_incident
          WHERE id = $1 AND settled_at IS NULL FOR UPDATE",
    )
    .bind(id)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((kind, subject, tenant, units)) = found else {
        return Err(Error::new(&codes::NOT_FOUND).detail(format!("there is no open incident {id}")));
    };
    let (CREDIT_DUE | UNBILLED, Some(tenant), Some(units)) = (kind.as_str(), tenant, units) else {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("an incident of the kind {kind} is not accepted: what it names is put right"))
            .hint("when that is done: freehold billing incident settle"));
    };
    sqlx::query(
        "INSERT INTO reconcile_decision (subject, tenant, units, reason, decided_by, decided_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (subject) DO UPDATE SET units = EXCLUDED.units, reason = EXCLUDED.reason,
                decided_by = EXCLUDED.decided_by, decided_at = EXCLUDED.decided_at",
    )
    .bind(&subject)
    .bind(tenant)
    .bind(units)
    .bind(&how.reason)
    .bind(&caller.actor)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let incident = incidents::settle_by_id(&mut tx, id, &caller.actor, now).await?;
    let detail = json!({ "kind": kind, "units": units, "reason": how.reason });
    audit_add(&mut tx, caller, now, "billing.incident.accept", Some(tenant), &subject, detail).await?;
    tx.commit().await?;
    Ok(incident)
}

/// Whether nothing is owed any more, or never was, for a line of an invoice that is less than nothing: as the last comparison
/// found it. For reports, which ask nobody.
pub(in crate::billing) async fn is_over(
    conn: &mut PgConnection,
    invoice: &str,
    meter: &str,
    from: DateTime<Utc>,
    units: i64,
) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM reconcile_decision WHERE subject = $1 AND units >= $2)
             OR coalesce((SELECT d.class = 'settled' FROM reconcile_difference d JOIN reconcile_run r ON r.id = d.run
                           WHERE d.level = 'L4' AND d.subject = $1 AND abs(d.ours - d.theirs) >= $2
                           ORDER BY r.started_at DESC LIMIT 1), false)",
    )
    .bind(subject_of(invoice, meter, from))
    .bind(units)
    .fetch_one(conn)
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_for_so_many_units() {
        let decisions = Decisions::from([("in_1:work:2026-11-01".to_owned(), 8)]);
        let decided = |subject, units| is_decided(&decisions, subject, units);
        assert!(decided("in_1:work:2026-11-01", 8) && decided("in_1:work:2026-11-01", 7));
        assert!(!decided("in_1:work:2026-11-01", 9) && !decided("in_1:seats:2026-11-01", 1));
    }

    #[test]
    fn a_subject_is_of_one_invoice() {
        let at = DateTime::UNIX_EPOCH;
        assert!(is_of(&subject_of("in_1", "work", at), "in_1"));
        assert!(!is_of(&subject_of("in_12", "work", at), "in_1"));
    }
}
