//! Period close. Stripe makes a draft of each invoice and finalizes it an hour later. In that hour the period is compared;
//! while something differs, the draft is held (`auto_advance = false`) and finance is told. As soon as nothing differs any
//! more, it goes on by itself. What finance accepts as it is, it releases.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::invoices::Line;
use super::round::{Plan, begin, reconcile_go_on};
use super::runs::{RunState, Span, Why};
use super::{ask, midnight};
use crate::billing::{Billing, incidents};
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// The kind of incident for a draft that waits.
pub const HELD: &str = "draft_held";
/// What is noted once a period was found whole, or finance released its draft.
const DONE: &str = "period_reconciled";
/// What is only on its way may arrive until then; after that the draft is held, half an hour before Stripe finalizes it.
const HOLD_AFTER: TimeDelta = TimeDelta::minutes(30);
/// From one look at a draft to the next.
const AGAIN: TimeDelta = TimeDelta::minutes(4);
/// Drafts looked at in one go.
const MOST: i64 = 50;

#[derive(Clone, Debug, sqlx::FromRow)]
struct Draft {
    id: String,
    tenant: TenantId,
    created_at: DateTime<Utc>,
    held: bool,
    lines: Json<Vec<Line>>,
}

/// What becomes of a draft after a look. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Everything agrees: it may go on.
    Whole,
    /// Some of it is on its way: look again.
    Wait,
    Hold,
}

fn next(state: RunState, pending: bool, age: TimeDelta) -> Next {
    match state {
        RunState::Green if !pending => Next::Whole,
        RunState::Red => Next::Hold,
        // Stripe did not answer, or something has not arrived yet: held in time, and only then.
        _ if age >= HOLD_AFTER => Next::Hold,
        _ => Next::Wait,
    }
}

/// Looks at each draft that was not found whole yet.
///
/// # Errors
/// What the control database says; a draft that cannot be looked at does not keep the others from it.
pub async fn close_due(billing: &Billing) -> Result<()> {
    let now = billing.cp.clock.now();
    let drafts: Vec<Draft> = sqlx::query_as(
        "SELECT i.id, i.tenant, i.created_at, i.held, i.lines FROM invoice i
           JOIN billing_account a ON a.tenant = i.tenant AND a.livemode = $1
          WHERE i.status = 'draft'
            AND NOT EXISTS (SELECT FROM billing_effect e WHERE e.object = i.id AND e.transition = $2)
            AND NOT EXISTS (SELECT FROM reconcile_run r WHERE r.invoice = i.id AND r.started_at > $3)
          ORDER BY i.created_at LIMIT $4",
    )
    .bind(billing.settings.livemode())
    .bind(DONE)
    .bind(now - AGAIN)
    .bind(MOST)
    .fetch_all(&billing.cp.db)
    .await?;
    for draft in drafts {
        if let Err(error) = look(billing, &draft).await {
            tracing::warn!(invoice = draft.id, ?error, "a draft could not be compared; it is tried again");
        }
    }
    Ok(())
}

async fn look(billing: &Billing, draft: &Draft) -> Result<()> {
    let now = billing.cp.clock.now();
    let metered = || draft.lines.0.iter().filter(|line| line.meter.is_some());
    let (Some(from), Some(to)) =
        (metered().map(|line| line.period_start).min(), metered().map(|line| line.period_end).max())
    else {
        // Nothing that was counted is on it.
        return whole(billing, draft, "no usage is on it").await;
    };
    let day = |at: DateTime<Utc>| midnight(at.date_naive());
    let whole_days = if to == day(to) { to } else { day(to) + TimeDelta::days(1) };
    let span = Span { from: day(from), to: whole_days.max(day(from) + TimeDelta::days(1)) };
    let mut tx = billing.cp.db.begin().await?;
    // Of two workers, one looks.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('freehold.close:' || $1, 0))")
        .bind(&draft.id)
        .execute(&mut *tx)
        .await?;
    let lately: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM reconcile_run WHERE invoice = $1 AND started_at > $2)",
    )
    .bind(&draft.id)
    .bind(now - AGAIN)
    .fetch_one(&mut *tx)
    .await?;
    if lately {
        return Ok(());
    }
    let plan = Plan {
        why: Why::PeriodClose,
        tenant: Some(draft.tenant),
        invoice: Some(draft.id.clone()),
        span,
        look_only: false,
    };
    let id = begin(&mut tx, billing, &plan, now).await?;
    tx.commit().await?;
    let run = reconcile_go_on(billing, id, Duration::from_secs(120)).await?;
    let pending: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM reconcile_difference WHERE run = $1 AND class = 'pending')",
    )
    .bind(id)
    .fetch_one(&billing.cp.db)
    .await?;
    match next(run.state, pending, now - draft.created_at) {
        Next::Whole => whole(billing, draft, "everything agrees").await,
        Next::Wait => Ok(()),
        Next::Hold => hold(billing, draft, &run.id.to_string()).await,
    }
}

/// Notes that the period is whole; a draft that was held goes on.
async fn whole(billing: &Billing, draft: &Draft, why: &str) -> Result<()> {
    let caller = Caller::worker();
    if draft.held {
        return let_go(billing, &caller, &draft.id, draft.tenant, why).await;
    }
    let mut conn = billing.cp.db.acquire().await?;
    note_done(&mut conn, &draft.id, billing.cp.clock.now()).await
}

async fn note_done(conn: &mut PgConnection, invoice: &str, now: DateTime<Utc>) -> Result<()> {
    sqlx::query(
        "INSERT INTO billing_effect (object, transition, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(invoice)
    .bind(DONE)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

async fn hold(billing: &Billing, draft: &Draft, run: &str) -> Result<()> {
    let now = billing.cp.clock.now();
    let holds = billing.settings.alerts.hold_drafts;
    if holds && !draft.held {
        ask(|| billing.stripe.invoice_hold(&draft.id, true)).await?;
    }
    let mut tx = billing.cp.db.begin().await?;
    if holds && !draft.held {
        sqlx::query("UPDATE invoice SET held = true WHERE id = $1").bind(&draft.id).execute(&mut *tx).await?;
        let (caller, detail) = (Caller::worker(), json!({ "run": run }));
        audit_add(&mut tx, &caller, now, "billing.invoice.hold", Some(draft.tenant), &draft.id, detail)
            .await?;
    }
    let detail = json!({ "run": run, "held": holds });
    incidents::open(&mut tx, HELD, &draft.id, Some(draft.tenant), detail, now).await?;
    tx.commit().await?;
    Ok(())
}

async fn let_go(
    billing: &Billing,
    caller: &Caller,
    invoice: &str,
    tenant: TenantId,
    why: &str,
) -> Result<()> {
    let now = billing.cp.clock.now();
    ask(|| billing.stripe.invoice_hold(invoice, false)).await?;
    let mut tx = billing.cp.db.begin().await?;
    sqlx::query("UPDATE invoice SET held = false WHERE id = $1").bind(invoice).execute(&mut *tx).await?;
    note_done(&mut tx, invoice, now).await?;
    incidents::settle(&mut tx, HELD, invoice, &caller.actor, now).await?;
    let detail = json!({ "why": why });
    audit_add(&mut tx, caller, now, "billing.invoice.release", Some(tenant), invoice, detail).await?;
    tx.commit().await?;
    Ok(())
}

/// Why a draft is let go although something differs.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReleaseInvoice)]
pub struct Release {
    #[garde(length(chars, min = 3, max = 500))]
    #[schema(example = "the difference is credited by hand")]
    pub reason: String,
}

/// Lets a held draft go although something differs: finance takes it as it is.
///
/// # Errors
/// `not_found`; `state_conflict` for one that is not held.
pub async fn invoice_release(
    billing: &Billing,
    caller: &Caller,
    invoice: &str,
    release: &Release,
) -> Result<()> {
    let found: Option<(TenantId, bool)> = sqlx::query_as("SELECT tenant, held FROM invoice WHERE id = $1")
        .bind(invoice)
        .fetch_optional(&billing.cp.db)
        .await?;
    match found {
        None => Err(Error::new(&codes::NOT_FOUND).detail(format!("there is no invoice {invoice}"))),
        Some((_, false)) => {
            Err(Error::new(&codes::STATE_CONFLICT).detail(format!("the invoice {invoice} is not held")))
        }
        Some((tenant, true)) => let_go(billing, caller, invoice, tenant, &release.reason).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_held_for_a_difference_and_in_time_for_what_does_not_arrive() {
        let (young, old) = (TimeDelta::minutes(2), TimeDelta::minutes(31));
        assert_eq!(next(RunState::Green, false, young), Next::Whole);
        assert_eq!(next(RunState::Red, false, young), Next::Hold);
        assert_eq!(next(RunState::Green, true, young), Next::Wait);
        assert_eq!(next(RunState::Green, true, old), Next::Hold);
        assert_eq!(next(RunState::Failed, false, young), Next::Wait);
        assert_eq!(next(RunState::Failed, false, old), Next::Hold);
    }
}
