//! A run goes from tenant to tenant and says after each how far it is. Whoever is at it holds a lease; when they fall
//! silent, a worker goes on from there.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::class::{Class, Level, benign};
use super::duties::{self, Decisions};
use super::prove::Sent;
use super::runs::{
    Ask, Found, ReconcileId, Run, RunDetail, RunState, Span, Why, differences_add, red, run_by_id,
    run_columns, run_show,
};
use super::usage::{Account, MeterAtStripe, meters_at_stripe};
use super::{books, invoices, prove, usage, usual_days};
use crate::billing::ledger::Aggregation;
use crate::billing::sender::settle::settle_unknown_of;
use crate::billing::stripe::Trouble;
use crate::billing::{Billing, incidents};
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// The kind of incident for a run that found something.
pub const DIFFERS: &str = "reconcile_differs";
/// While Stripe is away a nightly run waits where it is, and goes on from there. After this it has failed.
const WAITS_AT_MOST: TimeDelta = TimeDelta::hours(12);

/// What a run looks at.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub why: Why,
    pub tenant: Option<TenantId>,
    pub invoice: Option<String>,
    pub span: Span,
    pub look_only: bool,
}

/// Records a run that somebody asks for. [`reconcile_go_on`] does the work.
///
/// # Errors
/// `tenant_not_found`; `invalid_fields` for days that cannot be compared.
pub async fn reconcile_begin(billing: &Billing, caller: &Caller, wish: &Ask) -> Result<ReconcileId> {
    let now = billing.cp.clock.now();
    let span = wish.span(now)?;
    let mut tx = billing.cp.db.begin().await?;
    let tenant = match wish.tenant.as_deref() {
        Some(name) => {
            let tenant: TenantRef = name.parse().unwrap_or_else(|never| match never {});
            Some(tenant_find(&mut tx, &tenant).await?.id)
        }
        None => None,
    };
    let plan = Plan { why: Why::OnDemand, tenant, invoice: None, span, look_only: wish.look_only };
    let id = begin(&mut tx, billing, &plan, now).await?;
    let detail = json!({ "from": span.from, "to": span.to, "look_only": wish.look_only });
    audit_add(&mut tx, caller, now, "billing.reconcile", tenant, &id.to_string(), detail).await?;
    tx.commit().await?;
    Ok(id)
}

pub(super) async fn begin(
    conn: &mut PgConnection,
    billing: &Billing,
    plan: &Plan,
    now: DateTime<Utc>,
) -> Result<ReconcileId> {
    let id = ReconcileId::new();
    sqlx::query(
        "INSERT INTO reconcile_run (id, livemode, why, tenant, invoice, from_at, to_at, state, look_only, started_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 'running', $8, $9)",
    )
    .bind(id)
    .bind(billing.settings.livemode())
    .bind(plan.why)
    .bind(plan.tenant)
    .bind(&plan.invoice)
    .bind(plan.span.from)
    .bind(plan.span.to)
    .bind(plan.look_only)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(id)
}

/// A run from its beginning to its end, for whoever waits for it.
///
/// # Errors
/// As [`reconcile_begin`]. That Stripe did not answer is in the run.
pub async fn reconcile_run(billing: &Billing, caller: &Caller, wish: &Ask) -> Result<RunDetail> {
    let id = reconcile_begin(billing, caller, wish).await?;
    loop {
        if reconcile_go_on(billing, id, Duration::from_secs(60)).await?.state != RunState::Running {
            return run_show(&mut *billing.cp.db.acquire().await?, id).await;
        }
        // Somebody else is at it, or there is much to do.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[derive(sqlx::FromRow)]
struct Held {
    #[sqlx(flatten)]
    run: Run,
    look_only: bool,
    after_tenant: Option<TenantId>,
}

/// Works at a run for about this long, unless somebody else does, and gives it as it then is.
///
/// # Errors
/// `not_found`; whatever the control database says. Stripe's trouble ends the run as failed instead.
pub async fn reconcile_go_on(billing: &Billing, id: ReconcileId, patience: Duration) -> Result<Run> {
    let held: Option<Held> = sqlx::query_as(run_columns!(
        "UPDATE reconcile_run SET leased_until = clock_timestamp() + interval '3 minutes'
          WHERE id = $1 AND state = 'running' AND (leased_until IS NULL OR leased_until < clock_timestamp())
         RETURNING look_only, after_tenant,",
        ""
    ))
    .bind(id)
    .fetch_optional(&billing.cp.db)
    .await?;
    let Some(mut held) = held else { return run_by_id(&mut *billing.cp.db.acquire().await?, id).await };
    let since = Instant::now();
    if !held.look_only && held.after_tenant.is_none() {
        // What nobody knew of first: then it is no difference any more. Stripe's trouble shows in the comparison too. A draft waits
        // for what is its tenant's.
        let only = held.run.tenant.filter(|_| held.run.why == Why::PeriodClose);
        if let Err(error) = settle_unknown_of(billing, only).await {
            tracing::warn!(?error, "batches that were set aside could not be settled");
        }
    }
    while let Some((tenant, customer)) = next_tenant(billing, &held).await? {
        match compare(billing, &held, tenant, customer).await {
            Ok(fixed) => step(billing, id, tenant, fixed).await?,
            Err(error) if waits(&held.run, &error, billing.cp.clock.now()) => {
                return pause(billing, id, tenant, &error).await;
            }
            Err(error) => return fail(billing, id, tenant, &error).await,
        }
        held.after_tenant = Some(tenant);
        if since.elapsed() > patience {
            sqlx::query("UPDATE reconcile_run SET leased_until = NULL WHERE id = $1 AND state = 'running'")
                .bind(id)
                .execute(&billing.cp.db)
                .await?;
            return run_by_id(&mut *billing.cp.db.acquire().await?, id).await;
        }
    }
    finish(billing, id).await
}

/// The next tenant, with its customer when it has one in this mode.
async fn next_tenant(billing: &Billing, held: &Held) -> Result<Option<(TenantId, Option<String>)>> {
    Ok(sqlx::query_as(
        "SELECT t.id, a.customer FROM tenant t LEFT JOIN billing_account a ON a.tenant = t.id AND a.livemode = $1
          WHERE ($2::uuid IS NULL OR t.id > $2) AND ($3::uuid IS NULL OR t.id = $3)
            AND (a.customer IS NOT NULL OR EXISTS (SELECT FROM usage_batch b WHERE b.tenant = t.id))
          ORDER BY t.id LIMIT 1",
    )
    .bind(held.run.livemode)
    .bind(held.after_tenant)
    .bind(held.run.tenant)
    .fetch_optional(&billing.cp.db)
    .await?)
}

async fn step(billing: &Billing, id: ReconcileId, tenant: TenantId, fixed: i64) -> Result<()> {
    sqlx::query(
        "UPDATE reconcile_run SET checked = checked + 1, fixed = fixed + $3, after_tenant = $2, error = NULL,
                leased_until = clock_timestamp() + interval '3 minutes'
          WHERE id = $1 AND state = 'running'",
    )
    .bind(id)
    .bind(tenant)
    .bind(fixed)
    .execute(&billing.cp.db)
    .await?;
    Ok(())
}

/// Whether a run that cannot go on now does so later: nobody waits for it, and the trouble passes. Pure.
fn waits(run: &Run, error: &Error, now: DateTime<Utc>) -> bool {
    run.why == Why::Nightly
        && run.tenant.is_none()
        && error.cause::<Trouble>().is_some_and(Trouble::passes)
        && now - run.started_at < WAITS_AT_MOST
}

/// Whether an answer is about this one tenant, and says nothing about the others. Pure.
fn is_of_one(error: &Error) -> bool {
    error.cause::<Trouble>().is_some_and(Trouble::is_of_one)
}

/// Leaves a run where it is, for some minutes. The tenant that it was at comes first then.
async fn pause(billing: &Billing, id: ReconcileId, tenant: TenantId, error: &Error) -> Result<Run> {
    tracing::warn!(reconcile = %id, %tenant, ?error, "a reconciliation waits for Stripe");
    sqlx::query(
        "UPDATE reconcile_run SET error = $2, leased_until = clock_timestamp() + interval '5 minutes'
          WHERE id = $1 AND state = 'running'",
    )
    .bind(id)
    .bind(format!("at tenant {tenant}: {error}"))
    .execute(&billing.cp.db)
    .await?;
    run_by_id(&mut *billing.cp.db.acquire().await?, id).await
}

async fn fail(billing: &Billing, id: ReconcileId, tenant: TenantId, error: &Error) -> Result<Run> {
    tracing::warn!(reconcile = %id, %tenant, ?error, "a reconciliation could not go on");
    sqlx::query(
        "UPDATE reconcile_run SET state = 'failed', error = $2, finished_at = $3, leased_until = NULL
          WHERE id = $1 AND state = 'running'",
    )
    .bind(id)
    .bind(format!("at tenant {tenant}: {error}"))
    .bind(billing.cp.clock.now())
    .execute(&billing.cp.db)
    .await?;
    run_by_id(&mut *billing.cp.db.acquire().await?, id).await
}

async fn finish(billing: &Billing, id: ReconcileId) -> Result<Run> {
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    // What is owed is no reason to hold a draft: Stripe takes no credit note for one. It is an incident of its own.
    let bad: i64 = sqlx::query_scalar(concat!(
        "SELECT count(*) FROM reconcile_difference d JOIN reconcile_run r ON r.id = d.run
          WHERE d.run = $1 AND NOT (r.why = 'period_close' AND d.class = 'credit_due') AND d.class NOT IN ",
        benign!(),
    ))
    .bind(id)
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE reconcile_run SET state = $2, finished_at = $3, leased_until = NULL WHERE id = $1 AND state = 'running'",
    )
    .bind(id)
    .bind(if bad > 0 { RunState::Red } else { RunState::Green })
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let run = run_by_id(&mut tx, id).await?;
    // One about all tenants speaks for all; one about a tenant, for that one.
    let about = run.tenant.map_or_else(|| "all".to_owned(), |tenant| tenant.to_string());
    if bad > 0 {
        let detail = json!({ "run": id, "differences": bad, "fixed": run.fixed });
        incidents::open(&mut tx, DIFFERS, &about, run.tenant, detail, now).await?;
    }
    settle_incidents(&mut tx, &run, now).await?;
    tx.commit().await?;
    Ok(run)
}

/// After a run: what is open about tenants that are not red any more is over. What is open about all is over when a whole run of
/// all was green.
async fn settle_incidents(conn: &mut PgConnection, run: &Run, now: DateTime<Utc>) -> Result<()> {
    sqlx::query(concat!(
        "UPDATE billing_incident n SET settled_at = $3, settled_by = 'reconcile'
          WHERE n.kind = $4 AND n.settled_at IS NULL AND CASE WHEN n.tenant IS NULL
                THEN EXISTS (SELECT FROM reconcile_run WHERE id = $5 AND whole AND tenant IS NULL AND state = 'green')
                ELSE ($2::uuid IS NULL OR n.tenant = $2) AND NOT ",
        red!("$1", "n.tenant"),
        " END",
    ))
    .bind(run.livemode)
    .bind(run.tenant)
    .bind(now)
    .bind(DIFFERS)
    .bind(run.id)
    .execute(conn)
    .await?;
    Ok(())
}

/// One tenant on all five levels. Says how many batches were put right. What Stripe refuses to say of this tenant is a
/// difference of its own; the others are compared all the same.
async fn compare(billing: &Billing, held: &Held, tenant: TenantId, customer: Option<String>) -> Result<i64> {
    let (run, now) = (&held.run, billing.cp.clock.now());
    let span = Span { from: run.from_at, to: run.to_at };
    let asks = billing.settings.enabled();
    let account = customer.filter(|_| asks).map(|customer| Account { tenant, customer });
    let meters = meters_at_stripe(&mut *billing.cp.db.acquire().await?, run.livemode).await?;
    let mut conn = billing.cp.db.acquire().await?;
    let mut found = books::facts_and_seals(&mut conn, tenant, span).await?;
    let decisions = duties::decisions(&mut conn, tenant).await?;
    // What is on no invoice says nothing of the draft that waits.
    let alone = run.why != Why::PeriodClose;
    if account.is_some() {
        // A comparison of the usual days looks at everything older too that waits: no day is looked at a last time before
        // that is settled.
        let older = run.from_at <= usual_days(run.started_at).0;
        found.extend(books::seals_and_deliveries(&mut conn, tenant, span, older, now).await?);
        if alone {
            found.extend(duties::for_no_invoice(&mut conn, tenant, &decisions).await?);
        }
        if let Some(invoice) = run.invoice.as_deref().filter(|_| run.why == Why::PeriodClose) {
            found.extend(books::not_in_yet(&mut conn, tenant, invoice, now).await?);
        }
    }
    drop(conn);
    let mut outcome = Outcome::default();
    outcome.all.extend(found.into_iter().map(|one| (one, false)));
    if let Some(account) = &account {
        match at_stripe(billing, held, account, &meters, &decisions, now, &mut outcome).await {
            Err(error) if is_of_one(&error) => outcome.all.push((not_compared(tenant, &error), false)),
            asked => asked?,
        }
    }
    let Outcome { all, fixed, invoices } = outcome;
    let mut tx = billing.cp.db.begin().await?;
    differences_add(&mut tx, run.id, tenant, &all).await?;
    if account.is_some() {
        duties::keep(&mut tx, tenant, &all, &invoices, alone, now).await?;
    }
    tx.commit().await?;
    for (one, _) in &all {
        let (level, class) = (one.level.as_str(), one.class.as_str());
        metrics::counter!("reconcile_differences_total", "level" => level, "class" => class).increment(1);
    }
    Ok(fixed)
}

/// What came of comparing a tenant.
#[derive(Default)]
struct Outcome {
    /// What differs, and whether it was put right.
    all: Vec<(Found, bool)>,
    /// Batches that were put back into the queue.
    fixed: i64,
    /// Invoices whose lines were compared.
    invoices: Vec<String>,
}

/// L3 to L5 of one tenant.
async fn at_stripe(
    billing: &Billing,
    held: &Held,
    account: &Account,
    meters: &[MeterAtStripe],
    decisions: &Decisions,
    now: DateTime<Utc>,
    outcome: &mut Outcome,
) -> Result<()> {
    let run = &held.run;
    let span = Span { from: run.from_at, to: run.to_at };
    for mut day in usage::days(billing, account, meters, span, now).await? {
        let absent = match day.found.class {
            Class::MissingAtStripe if !held.look_only => {
                prove::absent_of_day(billing, account, &day.meter, day.day, now).await?
            }
            _ => Vec::new(),
        };
        let put_back = put_back(billing, account, &absent, now).await?;
        outcome.fixed += i64::try_from(put_back.len()).unwrap_or(0);
        // Put right is what leaves nothing over.
        let missing = day.found.ours - day.found.theirs;
        let last = day.meter.aggregation == Aggregation::Last;
        let whole = !put_back.is_empty() && (last || put_back.iter().sum::<i64>() == missing);
        // So is what is sent again as soon as that counts.
        let waiting: Vec<&Sent> =
            absent.iter().filter(|one| !one.requeued && one.forgotten_at() > now).collect();
        let rest = missing - put_back.iter().sum::<i64>();
        if let Some(until) = waiting.iter().map(|one| one.forgotten_at()).max() {
            if last || waiting.iter().map(|one| one.quantity).sum::<i64>() == rest {
                day.found.class = Class::Pending;
            }
            let detail = format!(
                ", {} batches are proven missing and wait until Stripe has forgotten their identifiers, {until}",
                waiting.len()
            );
            day.found.detail.push_str(&detail);
        }
        outcome.all.push((day.found, whole));
    }
    let only = run.invoice.as_deref();
    let (found, compared) = invoices::invoices(billing, account, meters, decisions, span, only, now).await?;
    outcome.all.extend(found.into_iter().map(|one| (one, false)));
    outcome.invoices = compared;
    Ok(())
}

fn not_compared(tenant: TenantId, error: &Error) -> Found {
    let said = error.cause::<Trouble>().map(ToString::to_string);
    Found {
        level: Level::L3,
        meter: None,
        subject: format!("asked:{tenant}"),
        ours: 0,
        theirs: 0,
        class: Class::NotCompared,
        detail: said.unwrap_or_else(|| error.to_string()),
    }
}

/// Puts batches that are proven absent back into the queue, if that counts by now. Gives their quantities.
async fn put_back(
    billing: &Billing,
    account: &Account,
    absent: &[Sent],
    now: DateTime<Utc>,
) -> Result<Vec<i64>> {
    let mut back = Vec::new();
    if absent.is_empty() {
        return Ok(back);
    }
    let mut tx = billing.cp.db.begin().await?;
    for batch in absent {
        if prove::requeue(&mut tx, account.tenant, batch, "delivered", now).await? {
            back.push(batch.quantity);
        }
    }
    tx.commit().await?;
    Ok(back)
}

/// A run by somebody who has no Stripe to ask would find nothing and say so.
///
/// # Errors
/// `state_conflict` without a key for Stripe.
pub fn require_stripe(billing: &Billing) -> Result<()> {
    if billing.settings.enabled() {
        return Ok(());
    }
    Err(Error::new(&codes::STATE_CONFLICT)
        .detail("no Stripe is set up here, so there is nothing to compare with")
        .hint("name its settings file in FREEHOLD_STRIPE"))
}
