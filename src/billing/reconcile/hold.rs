//! Holding a draft. What we want is written down first (`invoice.held`); what Stripe was told last stands beside it
//! (`hold_told_at`: to hold it; null: not to). Only [`tell`] tells Stripe, and of a draft one at a time does: it takes a lease,
//! tells what is wanted then, writes that down, and looks again. Whoever wants something else meanwhile only writes it down. What
//! is left behind, by a crash or because Stripe did not answer, [`tell_all`] finds in the next round.
//!
//! A draft is held once in its life: one that was found whole, or released, is done, and nobody holds it again. What it is given
//! back is what Stripe would have done with it before: one that waited already, for finance or by Stripe's own rule, goes on
//! waiting.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::ask;
use crate::billing::incidents::kind::DRAFT_HELD;
use crate::billing::stripe::Trouble;
use crate::billing::{Billing, customers, incidents};
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// What is noted once a period was found whole, or finance released its draft.
pub(super) const DONE: &str = "period_reconciled";
/// Stripe's word for what is not final.
const DRAFT: &str = "draft";
/// For how long one is at it. It gives up before: what it sent then has long arrived when another one begins.
const LEASE: Duration = Duration::from_secs(180);
const GIVES_UP: Duration = Duration::from_secs(120);
/// What is wanted may change while Stripe is told; then it is told again, so often at once.
const TURNS: usize = 4;
/// Drafts that Stripe is told of in one go, and side by side.
const MOST: i64 = 1000;
pub(super) const AT_ONCE: usize = 8;
/// Stripe makes a draft final within the hour after it went on. One that is a draft for longer is looked at.
const FINAL_AFTER: TimeDelta = TimeDelta::hours(2);
/// Of these, so many in one go; each once an hour.
const LOOKED_AT: i64 = 50;

/// A draft's turn of being told.
#[derive(sqlx::FromRow)]
struct Turn {
    /// What is wanted.
    held: bool,
    /// Whether Stripe makes it final by itself when we do not hold it. None: nobody asked yet.
    advances: Option<bool>,
    /// Also names this turn.
    hold_leased_until: DateTime<Utc>,
}

/// Wants a draft held, says why, and tells Stripe. Not one that is done by now: what was found of it is older than that.
pub(super) async fn hold(billing: &Billing, id: &str, tenant: TenantId, mut why: Value) -> Result<()> {
    let holds = billing.settings.alerts.hold_drafts;
    let mut advances = None;
    if holds {
        // Stripe may have made it final a moment ago, and then there is nothing to hold.
        match ask(|| billing.stripe.invoice(id)).await {
            Ok(there) if there.status == DRAFT => advances = Some(there.auto_advance),
            Err(error) if !is_refused(&error) => {
                tracing::warn!(
                    invoice = id,
                    ?error,
                    "a draft is held unseen; Stripe is told when it answers"
                );
            }
            _ => return customers::refresh_invoice(billing, id).await.map(drop),
        }
    }
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    let Some(held) = lock(&mut tx, id).await? else { return Ok(()) };
    if is_done(&mut tx, id).await? {
        return Ok(());
    }
    if holds {
        // Held before, and somebody let it go at Stripe: it is told again.
        sqlx::query(
            "UPDATE invoice SET held = true, hold_advanced = coalesce(hold_advanced, $2),
                    hold_told_at = CASE WHEN $2 THEN NULL ELSE hold_told_at END WHERE id = $1",
        )
        .bind(id)
        .bind(advances)
        .execute(&mut *tx)
        .await?;
    }
    if holds && !held {
        audit_add(&mut tx, &Caller::worker(), now, "billing.invoice.hold", Some(tenant), id, why.clone())
            .await?;
    }
    why["held"] = json!(holds);
    incidents::open(&mut tx, DRAFT_HELD, id, Some(tenant), why, now).await?;
    tx.commit().await?;
    tell(billing, id).await
}

/// Locks a draft. Says whether it is to be held; none when it is no draft any more.
async fn lock(conn: &mut PgConnection, id: &str) -> Result<Option<bool>> {
    Ok(sqlx::query_scalar("SELECT held FROM invoice WHERE id = $1 AND status = 'draft' FOR UPDATE")
        .bind(id)
        .fetch_optional(conn)
        .await?)
}

/// To be asked in a statement of its own, after [`lock`]: one that waited for the lock would not see what it waited for.
async fn is_done(conn: &mut PgConnection, id: &str) -> Result<bool> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM billing_effect WHERE object = $1 AND transition = $2)")
        .bind(id)
        .bind(DONE)
        .fetch_one(conn)
        .await?)
}

/// Writes down that a draft is done: it is not held any more, nor again. [`tell`] is called afterwards.
pub(super) async fn done(
    conn: &mut PgConnection,
    caller: &Caller,
    (id, tenant): (&str, TenantId),
    why: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let Some(held) = lock(&mut *conn, id).await? else { return Ok(()) };
    sqlx::query("UPDATE invoice SET held = false WHERE id = $1").bind(id).execute(&mut *conn).await?;
    sqlx::query(
        "INSERT INTO billing_effect (object, transition, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(id)
    .bind(DONE)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    incidents::settle(&mut *conn, DRAFT_HELD, id, &caller.actor, now).await?;
    if held {
        let detail = json!({ "why": why });
        audit_add(conn, caller, now, "billing.invoice.release", Some(tenant), id, detail).await?;
    }
    Ok(())
}

/// Tells Stripe what is wanted of every draft where it was told something else, or nobody knows.
pub(super) async fn tell_all(billing: &Billing) -> Result<()> {
    let untold: Vec<String> = sqlx::query_scalar(
        "SELECT i.id FROM invoice i JOIN billing_account a ON a.tenant = i.tenant AND a.livemode = $1
          WHERE (i.held <> (i.hold_told_at IS NOT NULL) OR i.hold_leased_until IS NOT NULL)
            AND (i.hold_leased_until IS NULL OR i.hold_leased_until <= clock_timestamp())
          ORDER BY i.created_at, i.id LIMIT $2",
    )
    .bind(billing.settings.livemode())
    .bind(MOST)
    .fetch_all(&billing.cp.db)
    .await?;
    stream::iter(untold)
        .for_each_concurrent(AT_ONCE, |id| async move {
            if let Err(error) = tell(billing, &id).await {
                tracing::warn!(
                    invoice = id,
                    ?error,
                    "Stripe was not told whether to hold a draft; it is told again"
                );
            }
        })
        .await;
    Ok(())
}

/// Brings Stripe to what is wanted of a draft. Nothing to do when it is there, or while somebody else is at it: they look again
/// before they leave.
pub(super) async fn tell(billing: &Billing, id: &str) -> Result<()> {
    for _ in 0..TURNS {
        let Some(turn) = take(billing, id).await? else { return Ok(()) };
        let answer = tokio::time::timeout(GIVES_UP, tell_once(billing, id, &turn)).await;
        match answer {
            Ok(Ok(told)) => record(billing, id, &turn, told).await?,
            // What was sent may still be under way: nobody tells Stripe anything else before the lease is over.
            Ok(Err(error)) if is_silent(&error) => return Err(error),
            Ok(Err(error)) => {
                give_back(billing, id, &turn).await?;
                return Err(error);
            }
            Err(_) => {
                return Err(Error::new(&codes::PAYMENTS_UNAVAILABLE)
                    .detail(format!("Stripe did not say in time whether it holds {id}")));
            }
        }
    }
    Err(Error::internal(format!(
        "Stripe was told {TURNS} times whether to hold {id}, and it is not as wanted"
    )))
}

/// What is to be told, and the right to tell it.
async fn take(billing: &Billing, id: &str) -> Result<Option<Turn>> {
    // What was given up or taken back is not collected; nor, by Stripe's own rule, what was a draft when somebody ended its
    // subscription.
    Ok(sqlx::query_as(
        "UPDATE invoice SET hold_leased_until = clock_timestamp() + make_interval(secs => $2)
          WHERE id = $1 AND (held <> (hold_told_at IS NOT NULL) OR hold_leased_until IS NOT NULL)
            AND (hold_leased_until IS NULL OR hold_leased_until <= clock_timestamp())
         RETURNING held, hold_leased_until, hold_advanced AND status IN ('draft', 'open') AND NOT EXISTS (
                SELECT FROM subscription s WHERE s.id = invoice.subscription AND s.status = 'canceled'
                                             AND s.canceled_at > invoice.created_at) AS advances",
    )
    .bind(id)
    .bind(LEASE.as_secs_f64())
    .fetch_optional(&billing.cp.db)
    .await?)
}

/// Tells Stripe what is wanted. Gives what it knows then: whether to hold it. What is no draft there any more is fetched, and is
/// not wanted held from then on.
async fn tell_once(billing: &Billing, id: &str, turn: &Turn) -> Result<bool> {
    if !turn.held {
        if turn.advances == Some(true) {
            match ask(|| billing.stripe.invoice_hold(id, false)).await {
                // What is paid, or gone, cannot be let go any more, and need not.
                Err(error) if is_refused(&error) => {
                    customers::refresh_invoice(billing, id).await.map(drop)?
                }
                told => drop(told?),
            }
        }
        return Ok(false);
    }
    if turn.advances.is_none() {
        match ask(|| billing.stripe.invoice(id)).await {
            Ok(there) if there.status == DRAFT => {
                sqlx::query("UPDATE invoice SET hold_advanced = $3 WHERE id = $1 AND hold_leased_until = $2")
                    .bind(id)
                    .bind(turn.hold_leased_until)
                    .bind(there.auto_advance)
                    .execute(&billing.cp.db)
                    .await?;
            }
            Err(error) if !is_refused(&error) => return Err(error),
            _ => {
                customers::refresh_invoice(billing, id).await?;
                return Ok(false);
            }
        }
    }
    match ask(|| billing.stripe.invoice_hold(id, true)).await {
        Ok(there) if there.status == DRAFT => Ok(true),
        // It became final in this moment, and its collection was stopped: it is told to go on, next.
        Ok(_) => customers::refresh_invoice(billing, id).await.map(|_| true),
        Err(error) if is_refused(&error) => customers::refresh_invoice(billing, id).await.map(|_| false),
        Err(error) => Err(error),
    }
}

async fn record(billing: &Billing, id: &str, turn: &Turn, told: bool) -> Result<()> {
    sqlx::query(
        "UPDATE invoice SET hold_told_at = CASE WHEN $3 THEN $4::timestamptz END, hold_leased_until = NULL
          WHERE id = $1 AND hold_leased_until = $2",
    )
    .bind(id)
    .bind(turn.hold_leased_until)
    .bind(told)
    .bind(billing.cp.clock.now())
    .execute(&billing.cp.db)
    .await?;
    Ok(())
}

/// Nobody knows what Stripe was told, and anybody may tell it again.
async fn give_back(billing: &Billing, id: &str, turn: &Turn) -> Result<()> {
    sqlx::query(
        "UPDATE invoice SET hold_leased_until = clock_timestamp() WHERE id = $1 AND hold_leased_until = $2",
    )
    .bind(id)
    .bind(turn.hold_leased_until)
    .execute(&billing.cp.db)
    .await?;
    Ok(())
}

/// Drafts that went on long ago and are drafts still. Most of them wait for finance, or their subscription is paused: that is
/// theirs. What we held, and Stripe still holds, somebody has to look at.
pub(super) async fn left_over(billing: &Billing) -> Result<()> {
    let now = billing.cp.clock.now();
    let old: Vec<(String, TenantId, bool)> = sqlx::query_as(
        "SELECT i.id, i.tenant, coalesce(i.hold_advanced, false) FROM invoice i
           JOIN billing_account a ON a.tenant = i.tenant AND a.livemode = $1
           JOIN billing_effect e ON e.object = i.id AND e.transition = $2 AND e.at <= $3
          WHERE i.status = 'draft' AND NOT i.held AND i.hold_told_at IS NULL AND i.hold_leased_until IS NULL
            AND i.fetched_at <= clock_timestamp() - interval '1 hour'
          ORDER BY i.fetched_at LIMIT $4",
    )
    .bind(billing.settings.livemode())
    .bind(DONE)
    .bind(now - FINAL_AFTER)
    .bind(LOOKED_AT)
    .fetch_all(&billing.cp.db)
    .await?;
    for (id, tenant, ours) in old {
        if let Err(error) = look_again(billing, &id, tenant, ours).await {
            tracing::warn!(invoice = id, ?error, "an old draft could not be looked at; it is tried again");
        }
    }
    Ok(())
}

async fn look_again(billing: &Billing, id: &str, tenant: TenantId, ours: bool) -> Result<()> {
    // Final or gone by now, and nobody told us; looked at in any case.
    customers::refresh_invoice(billing, id).await?;
    if !ours {
        return Ok(());
    }
    let there = ask(|| billing.stripe.invoice(id)).await?;
    if there.status != DRAFT || there.auto_advance {
        return Ok(());
    }
    let mut conn = billing.cp.db.acquire().await?;
    let why = json!({ "why": "it was let go here, and Stripe still holds it", "held": false });
    incidents::open(&mut conn, DRAFT_HELD, id, Some(tenant), why, billing.cp.clock.now()).await?;
    Ok(())
}

fn is_refused(error: &Error) -> bool {
    matches!(error.cause::<Trouble>(), Some(Trouble::Refused { .. }))
}

fn is_silent(error: &Error) -> bool {
    matches!(error.cause::<Trouble>(), Some(Trouble::Silent(_)))
}
