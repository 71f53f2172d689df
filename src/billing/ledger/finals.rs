//! Periods whose invoice takes nothing more. What is told into one of them is counted by Stripe, and billed by nobody.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::window::Span;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Stripe makes a draft final an hour after it was made, and whoever hears of it hears of it later. What is told in the last
/// minutes may be counted too late.
pub const DRAFT_FOR: TimeDelta = TimeDelta::minutes(55);

/// Whether an invoice takes nothing more: it is final, or a draft that Stripe does not know to be held and makes final about
/// now. As SQL about `i`; the parameter is the moment since which drafts may still take something.
///
/// The invoice at the end of a trial bills nothing of the trial: what is late for it stays there, and free.
macro_rules! is_final {
    ($since:literal) => {
        concat!(
            "((i.status IN ('open', 'paid', 'uncollectible')
               OR i.status = 'draft' AND NOT (i.held AND i.hold_told_at IS NOT NULL) AND i.created_at <= ",
            $since,
            ") AND NOT EXISTS (SELECT FROM subscription s WHERE s.id = i.subscription AND s.trial_end >= i.period_end))"
        )
    };
}
pub(in crate::billing) use is_final;

/// The periods of a tenant whose invoice takes nothing more.
pub async fn final_periods(
    conn: &mut PgConnection,
    tenant: TenantId,
    now: DateTime<Utc>,
) -> Result<Vec<Span>> {
    // The first invoice of a subscription is for no time at all.
    let rows: Vec<(DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(concat!(
        "SELECT DISTINCT i.period_start, i.period_end FROM invoice i
          WHERE i.tenant = $1 AND i.period_start < i.period_end AND ",
        is_final!("$2")
    ))
    .bind(tenant)
    .bind(now - DRAFT_FOR)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(from, to)| Span { from, to }).collect())
}

/// What whoever agrees to a correction has to know: what is taken away from a period whose invoice is final lowers a later
/// invoice, and that one to nothing at the most.
pub async fn credit_warning(
    conn: &mut PgConnection,
    (tenant, quantity, occurred_at): (TenantId, i64, DateTime<Utc>),
    now: DateTime<Utc>,
) -> Result<Option<String>> {
    if quantity >= 0 {
        return Ok(None);
    }
    let finals = final_periods(conn, tenant, now).await?;
    Ok(finals.iter().any(|period| period.holds(occurred_at)).then(|| {
        "the invoice of that period is final: this lowers a later invoice, and never below nothing; what is to be paid back \
         needs a credit note at Stripe"
            .to_owned()
    }))
}
