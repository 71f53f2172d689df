//! The rule at work: facts are gathered, the rule is applied, and what follows from a change happens once.
//!
//! What takes something away is decided only when Stripe has just been asked about this tenant. A round looks at everybody
//! by what is kept; whoever is to lose something by it is asked about first.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::decide::{Decision, Facts, Sky, Subscription, decide};
use super::letters::{self, Letter};
use super::{Access, effect};
use crate::billing::customers::{self, current};
use crate::billing::{Billing, inbox, reconcile};
use crate::control_plane::access::{UNPAID, tenant_resume_paid, tenant_suspend_unpaid};
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::changes::{self, Change};
use crate::control_plane::tenants::{TenantRef, TenantState};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// Tenants that are listed at once.
const A_ROUND: i64 = 500;
/// An override ends by itself within this time.
const LONGEST_OVERRIDE: TimeDelta = TimeDelta::days(366);

#[derive(sqlx::FromRow)]
struct Row {
    livemode: bool,
    access: Access,
    access_since: DateTime<Utc>,
    unpaid_since: Option<DateTime<Utc>>,
    override_access: Option<Access>,
    override_until: Option<DateTime<Utc>>,
    state: TenantState,
    state_reason: Option<String>,
    payable_since: Option<DateTime<Utc>>,
    paid_plan: bool,
}

/// Settles a tenant's access by what is kept. Nothing is taken away: for that Stripe has to be asked first. The decision
/// says what is held back.
///
/// # Errors
/// When the control database does not answer.
pub async fn settle(billing: &Billing, tenant: TenantId) -> Result<Option<Decision>> {
    settle_under(billing, tenant, false).await
}

/// The same, for a caller that has just kept what Stripe says of this tenant.
///
/// # Errors
/// As [`settle`].
pub async fn settle_fresh(billing: &Billing, tenant: TenantId) -> Result<Option<Decision>> {
    settle_under(billing, tenant, true).await
}

async fn settle_under(billing: &Billing, tenant: TenantId, stripe: bool) -> Result<Option<Decision>> {
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    let row: Option<Row> = sqlx::query_as(
        "SELECT a.livemode, a.access, a.access_since, a.unpaid_since, a.override_access, a.override_until, t.state, t.state_reason,
                p.price IS NOT NULL AS paid_plan,
                (SELECT greatest(a.created_at, min(m.joined_at)) FROM membership m WHERE m.tenant = t.id
                 HAVING count(*) > 0) AS payable_since
           FROM billing_account a JOIN tenant t ON t.id = a.tenant JOIN plan p ON p.id = t.plan
          WHERE a.tenant = $1 FOR UPDATE OF a",
    )
    .bind(tenant)
    .fetch_optional(&mut *tx)
    .await?;
    // Nobody's, or of the other mode: nothing of it is decided here.
    let Some(mut row) = row.filter(|row| row.livemode == billing.settings.livemode()) else {
        return Ok(None);
    };
    let sky = Sky { stripe, ..sky(&mut tx, billing, tenant, now).await? };
    let facts = facts(&mut tx, tenant, &row).await?;
    let word = row.override_access.zip(row.override_until);
    let decision = decide(&facts, now, row.access, word, &billing.settings.access, sky);
    if decision.access != row.access || decision.unpaid_since != row.unpaid_since {
        row.access_since = change(&mut tx, tenant, &row, &decision, now).await?;
    }
    tx.commit().await?;
    enforce(billing, tenant, &row, &decision).await?;
    Ok(Some(decision))
}

/// What is seen of the inbox, and of this tenant by the reconciliation.
async fn sky(
    conn: &mut PgConnection,
    billing: &Billing,
    tenant: TenantId,
    now: DateTime<Utc>,
) -> Result<Sky> {
    let standing = inbox::watch::standing(&mut *conn).await?;
    let red = reconcile::is_red(conn, billing.settings.livemode(), tenant).await?;
    Ok(Sky { stripe: false, inbox: !standing.is_late(now), reconcile: !red })
}

async fn facts(conn: &mut PgConnection, tenant: TenantId, row: &Row) -> Result<Facts> {
    let subscription = current(&mut *conn, tenant).await?;
    // What is owed: finalized, not paid, and more than nothing. A draft is not owed yet.
    let owed_since: Option<DateTime<Utc>> = sqlx::query_scalar(
        "SELECT min(coalesce(due_at, created_at)) FROM invoice
          WHERE tenant = $1 AND subscription = $2 AND status IN ('open', 'uncollectible')
            AND total_minor > paid_minor + credited_minor",
    )
    .bind(tenant)
    .bind(subscription.as_ref().map(|one| one.id.clone()))
    .fetch_one(conn)
    .await?;
    Ok(Facts {
        paid_plan: row.paid_plan,
        payable_since: row.payable_since,
        owed_since,
        subscription: subscription.map(|one| Subscription {
            status: one.status,
            period_start: one.period_start,
            period_end: one.period_end,
            trial_end: one.trial_end,
            cancel_at: one.cancel_at,
            canceled_at: one.canceled_at,
        }),
    })
}

/// Writes the decision down, tells every server, and asks for the letter. Says since when access is as it is now.
async fn change(
    conn: &mut PgConnection,
    tenant: TenantId,
    before: &Row,
    decision: &Decision,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>> {
    let since: DateTime<Utc> = sqlx::query_scalar(
        "UPDATE billing_account SET access = $2, unpaid_since = $3, updated_at = $4,
                access_since = CASE WHEN access = $2 THEN access_since ELSE $4 END
          WHERE tenant = $1 RETURNING access_since",
    )
    .bind(tenant)
    .bind(decision.access)
    .bind(decision.unpaid_since)
    .bind(now)
    .fetch_one(&mut *conn)
    .await?;
    if decision.access == before.access {
        return Ok(since);
    }
    changes::notify(&mut *conn, Change::Tenant(tenant)).await?;
    let detail =
        json!({ "from": before.access, "to": decision.access, "unpaid_since": decision.unpaid_since });
    audit_add(
        &mut *conn,
        &Caller::worker(),
        now,
        "billing.access",
        Some(tenant),
        &tenant.to_string(),
        detail,
    )
    .await?;
    metrics::counter!("access_changes_total", "to" => decision.access.as_str()).increment(1);
    // The episode: what is owed now, or was owed until now; where nothing is, what has just begun.
    let episode = decision.unpaid_since.or(before.unpaid_since).unwrap_or(since).timestamp();
    let Some(letter) = Letter::about(before.access, decision.access) else { return Ok(since) };
    // Open by finance's word and still owing: nobody is thanked for paying.
    if letter == Letter::Paid && decision.unpaid_since.is_some() {
        return Ok(since);
    }
    let transition = format!("access:{}:{episode}", decision.access);
    if effect(&mut *conn, &tenant.to_string(), &transition, now).await? {
        letters::post(conn, tenant, &letter, now).await?;
    }
    Ok(since)
}

/// Suspends and resumes, by the functions that operators use. An operator's own suspension is left alone; and one whom an
/// operator lets in again in spite of money stays in, until access is lost another time.
async fn enforce(billing: &Billing, tenant: TenantId, row: &Row, decision: &Decision) -> Result<()> {
    let (cp, worker, which) = (&billing.cp, Caller::worker(), TenantRef::Id(tenant));
    let shut = decision.access == Access::Suspended;
    match row.state {
        TenantState::Active if shut => {
            let transition = format!("suspend:{}", row.access_since.timestamp_micros());
            if done(billing, tenant, &transition).await? {
                return Ok(());
            }
            match tenant_suspend_unpaid(cp, &worker, &which).await {
                // Suspended meanwhile, by whomever; or another change of the tenant is under way: the next round looks again.
                Err(error) if !error.is(&codes::STATE_CONFLICT) => return Err(error),
                Err(_) => return Ok(()),
                Ok(_) => {}
            }
            let mut conn = cp.db.acquire().await?;
            effect(&mut conn, &tenant.to_string(), &transition, cp.clock.now()).await.map(drop)
        }
        TenantState::Suspended if !shut && row.state_reason.as_deref() == Some(UNPAID) => {
            // What was read is a moment old: an operator may have put their own hold on it meanwhile.
            match tenant_resume_paid(cp, &worker, &which).await {
                Err(error) if !error.is(&codes::STATE_CONFLICT) => Err(error),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

async fn done(billing: &Billing, tenant: TenantId, transition: &str) -> Result<bool> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM billing_effect WHERE object = $1 AND transition = $2)")
        .bind(tenant.to_string())
        .bind(transition)
        .fetch_one(&billing.cp.db)
        .await?)
}

/// Looks at everybody whose access may have to change because time has passed. Whoever would lose something is asked
/// about at Stripe first; while it does not answer, nobody loses anything.
///
/// # Errors
/// When the control database does not answer.
pub async fn round(billing: &Billing) -> Result<usize> {
    let (mut changed, mut away, mut after) = (0, false, None);
    loop {
        let due = due(billing, after).await?;
        let Some(last) = due.last() else { return Ok(changed) };
        after = Some(*last);
        for tenant in due {
            changed += usize::from(look(billing, tenant, &mut away).await);
        }
    }
}

/// Those whose access time may change, after this one.
async fn due(billing: &Billing, after: Option<TenantId>) -> Result<Vec<TenantId>> {
    Ok(sqlx::query_scalar(
        "SELECT a.tenant FROM billing_account a JOIN tenant t ON t.id = a.tenant JOIN plan p ON p.id = t.plan
          WHERE a.livemode = $1 AND t.state IN ('active', 'suspended')
            AND (a.access NOT IN ('active', 'trialing') OR a.override_access IS NOT NULL OR a.unpaid_since IS NOT NULL
                 OR t.state_reason = $2
                 OR (p.price IS NOT NULL AND NOT EXISTS (
                       SELECT FROM subscription s WHERE s.tenant = a.tenant AND s.status IN ('active', 'trialing'))))
            AND ($4::uuid IS NULL OR a.tenant > $4)
          ORDER BY a.tenant LIMIT $3",
    )
    .bind(billing.settings.livemode())
    .bind(UNPAID)
    .bind(A_ROUND)
    .bind(after)
    .fetch_all(&billing.cp.db)
    .await?)
}

/// Settles one; asks Stripe first when it would lose something. Says whether it was asked about.
async fn look(billing: &Billing, tenant: TenantId, away: &mut bool) -> bool {
    let wanted = match settle(billing, tenant).await {
        Ok(Some(Decision { held: Some(wanted), .. })) if !*away => wanted,
        Ok(_) => return false,
        Err(error) => {
            tracing::warn!(%tenant, ?error, "access could not be settled");
            return false;
        }
    };
    match customers::refresh_tenant(billing, tenant).await {
        Ok(()) => true,
        Err(error) => {
            // Nobody can be asked about: no use in trying for each of the others.
            *away = error.is(&codes::PAYMENTS_UNAVAILABLE);
            tracing::warn!(%tenant, %wanted, ?error, "held back: Stripe could not be asked");
            false
        }
    }
}

/// Finance's word against the rule.
#[derive(Clone, Debug)]
pub struct Override {
    pub access: Access,
    pub reason: String,
    pub until: DateTime<Utc>,
}

/// Sets it, and settles by it.
///
/// # Errors
/// `invalid_fields` without a reason, and for an end that is past or more than a year ahead; `not_found` for a tenant
/// without an account.
pub async fn override_set(
    billing: &Billing,
    caller: &Caller,
    tenant: TenantId,
    word: &Override,
) -> Result<Option<Decision>> {
    let now = billing.cp.clock.now();
    if !(3..=500).contains(&word.reason.trim().chars().count()) {
        return Err(Error::field("reason", "takes 3 to 500 characters"));
    }
    if word.until <= now || word.until > now + LONGEST_OVERRIDE {
        return Err(Error::field("until", "is a moment within the next year"));
    }
    if matches!(word.access, Access::Trialing | Access::Canceled) {
        return Err(Error::field("access", "is active, grace, past_due, restricted or suspended"));
    }
    let mut tx = billing.cp.db.begin().await?;
    let set = sqlx::query(
        "UPDATE billing_account SET override_access = $2, override_reason = $3, override_by = $4, override_until = $5,
                updated_at = $6 WHERE tenant = $1",
    )
    .bind(tenant)
    .bind(word.access)
    .bind(word.reason.trim())
    .bind(&caller.actor)
    .bind(word.until)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    if set.rows_affected() == 0 {
        return Err(Error::new(&codes::NOT_FOUND).detail("this tenant has no account at Stripe"));
    }
    let detail = json!({ "access": word.access, "reason": word.reason.trim(), "until": word.until });
    audit_add(&mut tx, caller, now, "billing.override", Some(tenant), &tenant.to_string(), detail).await?;
    tx.commit().await?;
    settle(billing, tenant).await
}

/// Takes it back: the rule holds again.
///
/// # Errors
/// `not_found` when there is none.
pub async fn override_clear(
    billing: &Billing,
    caller: &Caller,
    tenant: TenantId,
) -> Result<Option<Decision>> {
    let now = billing.cp.clock.now();
    let mut tx = billing.cp.db.begin().await?;
    let cleared = sqlx::query(
        "UPDATE billing_account SET override_access = NULL, override_reason = NULL, override_by = NULL,
                override_until = NULL, updated_at = $2 WHERE tenant = $1 AND override_access IS NOT NULL",
    )
    .bind(tenant)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    if cleared.rows_affected() == 0 {
        return Err(Error::new(&codes::NOT_FOUND).detail("there is no override to take back"));
    }
    audit_add(&mut tx, caller, now, "billing.override_clear", Some(tenant), &tenant.to_string(), json!({}))
        .await?;
    tx.commit().await?;
    settle(billing, tenant).await
}
