//! Period close. Stripe makes a draft of each invoice and finalizes it an hour later. In that hour the period is compared, as
//! soon as all of it can be in; while something differs, the draft is held (`auto_advance = false`) and finance is told. As
//! soon as nothing differs any more, it goes on by itself. What finance accepts as it is, it releases.
//!
//! It fails shut: a draft that nobody found whole within half an hour is held, whatever the reason. How it is held, and let go, is
//! in [`super::hold`].

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::types::Json;

use super::class::benign;
use super::hold::{self, AT_ONCE, DONE};
use super::invoices::Line;
use super::round::{Plan, begin, reconcile_go_on};
use super::runs::{RunState, Span, Why};
use super::{books, midnight};
use crate::billing::{Billing, customers};
use crate::control_plane::audit::Caller;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// What is only on its way may arrive until then; after that the draft is held, half an hour before Stripe finalizes it.
const HOLD_AFTER: TimeDelta = TimeDelta::minutes(30);
/// From one look at a draft to the next.
const AGAIN: TimeDelta = TimeDelta::minutes(4);
/// The same of one that is held: somebody has to do something about it, and the others have their turn.
const AGAIN_HELD: TimeDelta = TimeDelta::hours(1);
/// Drafts looked at in one go, and side by side.
const MOST: i64 = 100;
const LOOKS_AT_ONCE: usize = 4;
/// Drafts held in one go.
const HOLDS: i64 = 1000;

#[derive(Clone, Debug, sqlx::FromRow)]
struct Draft {
    id: String,
    tenant: TenantId,
    created_at: DateTime<Utc>,
    lines: Json<Vec<Line>>,
}

/// What a comparison says about a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    state: RunState,
    /// Something is on its way.
    pending: bool,
    /// Something differs that can be put right while the draft waits.
    wrong: bool,
}

/// What becomes of a draft after a look. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It may go on.
    Whole,
    /// Some of it is on its way: look again.
    Wait,
    Hold,
}

fn next(found: Found, age: TimeDelta) -> Next {
    match found.state {
        RunState::Red if found.wrong => Next::Hold,
        RunState::Green | RunState::Red if !found.pending => Next::Whole,
        // Stripe did not answer, or something has not arrived yet: held in time, and only then.
        _ if age >= HOLD_AFTER => Next::Hold,
        _ => Next::Wait,
    }
}

/// Holds each draft that nobody found whole in time, then looks at those that are due.
///
/// # Errors
/// What the control database says; a draft that cannot be held or looked at does not keep the others from it.
pub async fn close_due(billing: &Billing) -> Result<()> {
    hold::tell_all(billing).await?;
    hold_in_time(billing).await?;
    let now = billing.cp.clock.now();
    // Those that were never looked at come first, and those that are held last. While a period's last minutes cannot be in yet,
    // there is nothing to find.
    let drafts: Vec<Draft> = sqlx::query_as(
        "SELECT i.id, i.tenant, i.created_at, i.lines FROM invoice i
           JOIN billing_account a ON a.tenant = i.tenant AND a.livemode = $1
           LEFT JOIN LATERAL (SELECT max(r.started_at) AS at FROM reconcile_run r WHERE r.invoice = i.id) AS looked ON true
          WHERE i.status = 'draft'
            AND NOT EXISTS (SELECT FROM billing_effect e WHERE e.object = i.id AND e.transition = $2)
            AND (looked.at IS NULL OR looked.at <= CASE WHEN i.held THEN $4 ELSE $3 END)
            AND NOT EXISTS (SELECT FROM jsonb_array_elements(i.lines) AS line
                             WHERE line->>'meter' IS NOT NULL AND (line->>'period_end')::timestamptz > $6)
          ORDER BY looked.at IS NOT NULL, i.held, i.created_at, i.id LIMIT $5",
    )
    .bind(billing.settings.livemode())
    .bind(DONE)
    .bind(now - AGAIN)
    .bind(now - AGAIN_HELD)
    .bind(MOST)
    .bind(now - books::in_after())
    .fetch_all(&billing.cp.db)
    .await?;
    stream::iter(drafts)
        .for_each_concurrent(LOOKS_AT_ONCE, |draft| async move {
            if let Err(error) = look(billing, &draft).await {
                tracing::warn!(
                    invoice = draft.id,
                    ?error,
                    "a draft could not be compared; it is tried again"
                );
            }
        })
        .await;
    hold::left_over(billing).await
}

/// Before anything is compared, which may take long: what was not found whole by now waits.
async fn hold_in_time(billing: &Billing) -> Result<()> {
    if !billing.settings.alerts.hold_drafts {
        return Ok(());
    }
    let late: Vec<(String, TenantId)> = sqlx::query_as(
        "SELECT i.id, i.tenant FROM invoice i
           JOIN billing_account a ON a.tenant = i.tenant AND a.livemode = $1
          WHERE i.status = 'draft' AND NOT i.held AND i.created_at <= $3
            AND NOT EXISTS (SELECT FROM billing_effect e WHERE e.object = i.id AND e.transition = $2)
            AND EXISTS (SELECT FROM jsonb_array_elements(i.lines) AS line WHERE line->>'meter' IS NOT NULL)
          ORDER BY i.created_at, i.id LIMIT $4",
    )
    .bind(billing.settings.livemode())
    .bind(DONE)
    .bind(billing.cp.clock.now() - HOLD_AFTER)
    .bind(HOLDS)
    .fetch_all(&billing.cp.db)
    .await?;
    stream::iter(late)
        .for_each_concurrent(AT_ONCE, |(id, tenant)| async move {
            let why = json!({ "why": "it was not found whole within half an hour" });
            if let Err(error) = hold::hold(billing, &id, tenant, why).await {
                tracing::warn!(invoice = id, ?error, "a draft could not be held; it is tried again");
            }
        })
        .await;
    Ok(())
}

async fn look(billing: &Billing, draft: &Draft) -> Result<()> {
    // Stripe brings a draft up to date without a word about it.
    if let Err(error) = customers::refresh_invoice(billing, &draft.id).await {
        tracing::warn!(invoice = draft.id, ?error, "a draft could not be fetched; it is compared as it was");
    }
    let fresh: Option<Draft> = sqlx::query_as(
        "SELECT id, tenant, created_at, lines FROM invoice WHERE id = $1 AND status = 'draft'",
    )
    .bind(&draft.id)
    .fetch_optional(&billing.cp.db)
    .await?;
    let Some(draft) = &fresh else { return Ok(()) };
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
    // What is owed to a customer, or billed by nobody, no draft can mend: that has incidents of its own.
    let (pending, wrong, newest): (bool, bool, bool) = sqlx::query_as(concat!(
        "SELECT EXISTS (SELECT FROM reconcile_difference WHERE run = $1 AND class = 'pending'),
                EXISTS (SELECT FROM reconcile_difference WHERE run = $1 AND class NOT IN ('credit_due', 'unbilled')
                           AND class NOT IN ",
        benign!(),
        "), NOT EXISTS (SELECT FROM reconcile_run WHERE invoice = $2 AND started_at > $3)",
    ))
    .bind(id)
    .bind(&draft.id)
    .bind(now)
    .fetch_one(&billing.cp.db)
    .await?;
    if !newest {
        // This one took long; the one after it decides.
        return Ok(());
    }
    match next(Found { state: run.state, pending, wrong }, now - draft.created_at) {
        Next::Whole => whole(billing, draft, "everything agrees").await,
        Next::Wait => Ok(()),
        Next::Hold => hold::hold(billing, &draft.id, draft.tenant, json!({ "run": run.id })).await,
    }
}

/// Notes that the period is whole; a draft that we held goes on.
async fn whole(billing: &Billing, draft: &Draft, why: &str) -> Result<()> {
    let mut tx = billing.cp.db.begin().await?;
    let now = billing.cp.clock.now();
    hold::done(&mut tx, &Caller::worker(), (&draft.id, draft.tenant), why, now).await?;
    tx.commit().await?;
    hold::tell(billing, &draft.id).await
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

/// Lets a held draft go although something differs: finance takes it as it is. Where Stripe does not answer, a worker tells it.
///
/// # Errors
/// `not_found`; `state_conflict` for one that is not held.
pub async fn invoice_release(
    billing: &Billing,
    caller: &Caller,
    invoice: &str,
    release: &Release,
) -> Result<()> {
    let mut tx = billing.cp.db.begin().await?;
    let found: Option<(TenantId, bool)> =
        sqlx::query_as("SELECT tenant, held FROM invoice WHERE id = $1 FOR UPDATE")
            .bind(invoice)
            .fetch_optional(&mut *tx)
            .await?;
    let tenant = match found {
        None => return Err(Error::new(&codes::NOT_FOUND).detail(format!("there is no invoice {invoice}"))),
        Some((_, false)) => {
            return Err(
                Error::new(&codes::STATE_CONFLICT).detail(format!("the invoice {invoice} is not held"))
            );
        }
        Some((tenant, true)) => tenant,
    };
    hold::done(&mut tx, caller, (invoice, tenant), &release.reason, billing.cp.clock.now()).await?;
    tx.commit().await?;
    if let Err(error) = hold::tell(billing, invoice).await {
        tracing::warn!(invoice, ?error, "Stripe was not told that a draft is released; it is told again");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_held_for_a_difference_and_in_time_for_what_does_not_arrive() {
        let (young, old) = (TimeDelta::minutes(2), TimeDelta::minutes(31));
        let of = |state, pending, wrong, age| next(Found { state, pending, wrong }, age);
        assert_eq!(of(RunState::Green, false, false, young), Next::Whole);
        assert_eq!(of(RunState::Red, false, true, young), Next::Hold);
        assert_eq!(of(RunState::Red, true, true, young), Next::Hold);
        assert_eq!(of(RunState::Green, true, false, young), Next::Wait);
        assert_eq!(of(RunState::Green, true, false, old), Next::Hold);
        assert_eq!(of(RunState::Failed, false, false, young), Next::Wait);
        assert_eq!(of(RunState::Failed, false, false, old), Next::Hold);
    }

    #[test]
    fn what_no_draft_can_mend_holds_none() {
        let (young, old) = (TimeDelta::minutes(2), TimeDelta::minutes(31));
        let red = |pending| Found { state: RunState::Red, pending, wrong: false };
        assert_eq!((next(red(false), young), next(red(false), old)), (Next::Whole, Next::Whole));
        assert_eq!((next(red(true), young), next(red(true), old)), (Next::Wait, Next::Hold));
    }
}
