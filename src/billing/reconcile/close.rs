//! Period close. Stripe makes a draft of each invoice and finalizes it an hour later. In that hour the period is compared, as
//! soon as all of it can be in; while something differs, the draft is held (`auto_advance = false`) and finance is told. As
//! soon as nothing differs any more, it goes on by itself. What finance accepts as it is, it releases.
//!
//! It fails shut. A draft that nobody found whole within half an hour is held, whatever the reason; and it is written down
//! here that it is, before Stripe is told, so that whoever goes on after a crash lets it go. That one is let go is written down
//! first, too: from then on nothing more is told for its period, and Stripe is told until it has heard.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::invoices::Line;
use super::round::{Plan, begin, reconcile_go_on};
use super::runs::{RunState, Span, Why};
use super::{ask, midnight};
use crate::billing::stripe::{Invoice, Trouble};
use crate::billing::{Billing, customers, incidents};
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// The kind of incident for a draft that waits.
pub const HELD: &str = "draft_held";
/// What is noted once a period was found whole, or finance released its draft.
const DONE: &str = "period_reconciled";
/// Stripe's word for what is not final.
const DRAFT: &str = "draft";
/// What is only on its way may arrive until then; after that the draft is held, half an hour before Stripe finalizes it.
const HOLD_AFTER: TimeDelta = TimeDelta::minutes(30);
/// From one look at a draft to the next.
const AGAIN: TimeDelta = TimeDelta::minutes(4);
/// The same of one that is held: somebody has to do something about it, and the others have their turn.
const AGAIN_HELD: TimeDelta = TimeDelta::hours(1);
/// Drafts looked at in one go, and side by side.
const MOST: i64 = 100;
const LOOKS_AT_ONCE: usize = 4;
/// Drafts held in one go, and side by side.
const HOLDS: i64 = 1000;
const HOLDS_AT_ONCE: usize = 8;

#[derive(Clone, Debug, sqlx::FromRow)]
struct Draft {
    id: String,
    tenant: TenantId,
    created_at: DateTime<Utc>,
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

/// Holds each draft that nobody found whole in time, then looks at those that are due.
///
/// # Errors
/// What the control database says; a draft that cannot be held or looked at does not keep the others from it.
pub async fn close_due(billing: &Billing) -> Result<()> {
    tell_let_go(billing).await?;
    hold_in_time(billing).await?;
    let now = billing.cp.clock.now();
    // Those that were never looked at come first, and those that are held last.
    let drafts: Vec<Draft> = sqlx::query_as(
        "SELECT i.id, i.tenant, i.created_at, i.lines FROM invoice i
           JOIN billing_account a ON a.tenant = i.tenant AND a.livemode = $1
           LEFT JOIN LATERAL (SELECT max(r.started_at) AS at FROM reconcile_run r WHERE r.invoice = i.id) AS looked ON true
          WHERE i.status = 'draft'
            AND NOT EXISTS (SELECT FROM billing_effect e WHERE e.object = i.id AND e.transition = $2)
            AND (looked.at IS NULL OR looked.at <= CASE WHEN i.held THEN $4 ELSE $3 END)
          ORDER BY looked.at IS NOT NULL, i.held, i.created_at, i.id LIMIT $5",
    )
    .bind(billing.settings.livemode())
    .bind(DONE)
    .bind(now - AGAIN)
    .bind(now - AGAIN_HELD)
    .bind(MOST)
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
    Ok(())
}

/// Before anything is compared, which may take long: what was not found whole by now waits. So does what was to be held and
/// Stripe did not hear of.
async fn hold_in_time(billing: &Billing) -> Result<()> {
    if !billing.settings.alerts.hold_drafts {
        return Ok(());
    }
    let late: Vec<Draft> = sqlx::query_as(
        "SELECT i.id, i.tenant, i.created_at, i.lines FROM invoice i
           JOIN billing_account a ON a.tenant = i.tenant AND a.livemode = $1
          WHERE i.status = 'draft'
            AND NOT EXISTS (SELECT FROM billing_effect e WHERE e.object = i.id AND e.transition = $2)
            AND (CASE WHEN i.held THEN i.hold_told_at IS NULL ELSE i.created_at <= $3 END)
          ORDER BY i.created_at, i.id LIMIT $4",
    )
    .bind(billing.settings.livemode())
    .bind(DONE)
    .bind(billing.cp.clock.now() - HOLD_AFTER)
    .bind(HOLDS)
    .fetch_all(&billing.cp.db)
    .await?;
    stream::iter(late)
        .for_each_concurrent(HOLDS_AT_ONCE, |draft| async move {
            let why = json!({ "why": "it was not found whole within half an hour" });
            if let Err(error) = hold(billing, &draft, &why).await {
                tracing::warn!(invoice = draft.id, ?error, "a draft could not be held; it is tried again");
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
    let pending: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM reconcile_difference WHERE run = $1 AND class = 'pending')",
    )
    .bind(id)
    .fetch_one(&billing.cp.db)
    .await?;
    match next(run.state, pending, now - draft.created_at) {
        Next::Whole => whole(billing, draft, "everything agrees").await,
        Next::Wait => Ok(()),
        Next::Hold => hold(billing, draft, &json!({ "run": run.id })).await,
    }
}

/// Notes that the period is whole; a draft that was held goes on. So does one that Stripe says is held and we do not: somebody
/// was cut off between the two.
async fn whole(billing: &Billing, draft: &Draft, why: &str) -> Result<()> {
    let caller = Caller::worker();
    let at_stripe = ask(|| billing.stripe.invoice(&draft.id)).await?;
    let mut conn = billing.cp.db.acquire().await?;
    // Those of a subscription that was given up as unpaid wait by Stripe's own rule.
    let (held, unpaid): (bool, bool) = sqlx::query_as(
        "SELECT coalesce((SELECT held FROM invoice WHERE id = $1), false),
                coalesce((SELECT status = 'unpaid' FROM subscription WHERE id = $2), false)",
    )
    .bind(&draft.id)
    .bind(&at_stripe.subscription)
    .fetch_one(&mut *conn)
    .await?;
    if held || at_stripe.status == DRAFT && !at_stripe.auto_advance && !unpaid {
        drop(conn);
        return let_go(billing, &caller, &draft.id, draft.tenant, why).await;
    }
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

/// Holds a draft, and says why. Done again, it tells Stripe again.
async fn hold(billing: &Billing, draft: &Draft, why: &Value) -> Result<()> {
    let id = draft.id.as_str();
    let holds = billing.settings.alerts.hold_drafts;
    if holds {
        // Stripe may have made it final a moment ago. To hold that would stop its collection.
        let at_stripe = ask(|| billing.stripe.invoice(id)).await;
        if !is_draft(&at_stripe) {
            let held = sqlx::query_scalar("SELECT coalesce((SELECT held FROM invoice WHERE id = $1), false)")
                .bind(id)
                .fetch_one(&billing.cp.db)
                .await?;
            return no_draft(billing, id, at_stripe, held).await;
        }
    }
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    if holds {
        let newly = sqlx::query(
            "UPDATE invoice SET held = true, hold_told_at = NULL WHERE id = $1 AND status = 'draft' AND NOT held",
        )
        .bind(id)
        .execute(&mut *tx)
        .await?;
        if newly.rows_affected() > 0 {
            let caller = Caller::worker();
            audit_add(&mut tx, &caller, now, "billing.invoice.hold", Some(draft.tenant), id, why.clone())
                .await?;
        }
    }
    let mut detail = why.clone();
    detail["held"] = json!(holds);
    incidents::open(&mut tx, HELD, id, Some(draft.tenant), detail, now).await?;
    tx.commit().await?;
    if !holds {
        return Ok(());
    }
    let told = ask(|| billing.stripe.invoice_hold(id, true)).await;
    if !is_draft(&told) {
        return no_draft(billing, id, told, true).await;
    }
    sqlx::query("UPDATE invoice SET hold_told_at = $2 WHERE id = $1 AND held")
        .bind(id)
        .bind(now)
        .execute(&billing.cp.db)
        .await?;
    Ok(())
}

/// Whether an answer says that it is a draft.
fn is_draft(answer: &Result<Invoice>) -> bool {
    answer.as_ref().is_ok_and(|invoice| invoice.status == DRAFT)
}

/// What was to be held is no draft any more, or is not there: nothing is held, and we hear of it. An answer that says nothing
/// is tried again.
async fn no_draft(billing: &Billing, id: &str, answer: Result<Invoice>, held: bool) -> Result<()> {
    match answer {
        // It became final while we told Stripe to hold it: its collection goes on.
        Ok(invoice) if held && !invoice.auto_advance && invoice.status == "open" => {
            ask(|| billing.stripe.invoice_hold(id, false)).await?;
        }
        Err(error) if !is_refused(&error) => return Err(error),
        _ => {}
    }
    customers::refresh_invoice(billing, id).await?;
    let mut tx = billing.cp.db.begin().await?;
    sqlx::query("UPDATE invoice SET held = false, hold_told_at = NULL WHERE id = $1")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    incidents::settle(&mut tx, HELD, id, "it is final", billing.cp.clock.now()).await?;
    tx.commit().await?;
    Ok(())
}

fn is_refused(error: &Error) -> bool {
    matches!(error.cause::<Trouble>(), Some(Trouble::Refused { .. }))
}

async fn let_go(
    billing: &Billing,
    caller: &Caller,
    invoice: &str,
    tenant: TenantId,
    why: &str,
) -> Result<()> {
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    // Not held, and Stripe has not heard of that yet.
    sqlx::query("UPDATE invoice SET held = false, hold_told_at = coalesce(hold_told_at, $2) WHERE id = $1")
        .bind(invoice)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    note_done(&mut tx, invoice, now).await?;
    incidents::settle(&mut tx, HELD, invoice, &caller.actor, now).await?;
    let detail = json!({ "why": why });
    audit_add(&mut tx, caller, now, "billing.invoice.release", Some(tenant), invoice, detail).await?;
    tx.commit().await?;
    match let_go_at_stripe(billing, invoice).await {
        Err(error) if error.cause::<Trouble>().is_some_and(Trouble::passes) => {
            tracing::warn!(invoice, ?error, "Stripe was not told that a draft is let go; it is told again");
            Ok(())
        }
        told => told,
    }
}

/// Tells Stripe of drafts that were let go while it did not listen.
async fn tell_let_go(billing: &Billing) -> Result<()> {
    let untold: Vec<String> = sqlx::query_scalar(
        "SELECT i.id FROM invoice i JOIN billing_account a ON a.tenant = i.tenant AND a.livemode = $1
          WHERE i.status = 'draft' AND NOT i.held AND i.hold_told_at IS NOT NULL ORDER BY i.created_at, i.id LIMIT $2",
    )
    .bind(billing.settings.livemode())
    .bind(MOST)
    .fetch_all(&billing.cp.db)
    .await?;
    for invoice in untold {
        if let Err(error) = let_go_at_stripe(billing, &invoice).await {
            tracing::warn!(invoice, ?error, "a draft could not be let go; it is tried again");
        }
    }
    Ok(())
}

async fn let_go_at_stripe(billing: &Billing, invoice: &str) -> Result<()> {
    match ask(|| billing.stripe.invoice_hold(invoice, false)).await {
        Ok(_) => {}
        // What is paid cannot be let go any more, and need not.
        Err(error) if is_refused(&error) => {
            customers::refresh_invoice(billing, invoice).await?;
        }
        Err(error) => return Err(error),
    }
    sqlx::query("UPDATE invoice SET hold_told_at = NULL WHERE id = $1 AND NOT held")
        .bind(invoice)
        .execute(&billing.cp.db)
        .await?;
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
