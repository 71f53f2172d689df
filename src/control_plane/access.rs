//! Shutting a tenant out, letting it in again, and removing it.
//!
//! The control database changes first, so that servers refuse the next request; the fence on the shard follows, so
//! that a server with a stale cache cannot get in either (D5). Letting in goes the other way round.

use chrono::{DateTime, Duration, Utc};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::approvals::{self, Grave};
use super::audit::{Caller, audit_add};
use super::changes::{self, Change};
use super::infra::{dedicated, resources};
use super::placement::give_place_back;
use super::settled::Settled;
use super::shards::shard_by_id;
use super::tenants::{TenantRef, TenantRow, TenantState, tenant_lock};
use super::{ControlPlane, Hands};
use crate::db::schema::Schema;
use crate::jobs::saga::{self, Held, Kind, OnFailure, Pace, StepDef, Writes};
use crate::kernel::ids::{RunId, ShardId, TenantId};
use crate::kernel::{Error, Result, codes};

/// The reason of a suspension that money led to. Only such a one is ended by paying; an operator's own takes its place.
pub const UNPAID: &str = "unpaid";

/// How long a deleted tenant can be brought back.
pub const GRACE_DAYS: i64 = 30;

#[derive(Debug, Serialize, Deserialize)]
struct Input {
    tenant: TenantId,
    shard: ShardId,
    schema: String,
    credential_version: i32,
    /// Whether it was suspended when it was deleted, and is to be so again.
    #[serde(default)]
    suspended: bool,
}

/// Suspends an active tenant: the next request is refused, and its login too. Of one that is suspended for money, it becomes
/// this suspension, with this reason, and paying no longer ends it.
///
/// # Errors
/// `state_conflict`; `invalid_fields` for the reason [`UNPAID`], which is not a person's to give.
pub async fn tenant_suspend(
    cp: &ControlPlane,
    caller: &Caller,
    tenant: &TenantRef,
    reason: &str,
) -> Result<RunId> {
    if reason == UNPAID {
        return Err(Error::field("reason", "`unpaid` alone is what billing says, and paying ends it")
            .hint("say more: 'invoice 4711 is unpaid'"));
    }
    shut(cp, caller, tenant, TenantState::Suspended, &SUSPEND, "tenant.suspend", reason).await
}

/// The same for money, which paying ends: for billing, and nobody else.
///
/// # Errors
/// `state_conflict`.
pub async fn tenant_suspend_unpaid(cp: &ControlPlane, caller: &Caller, tenant: &TenantRef) -> Result<RunId> {
    shut(cp, caller, tenant, TenantState::Suspended, &SUSPEND, "tenant.suspend", UNPAID).await
}

/// Deletes a tenant softly: shut at once, removed for good after 30 days.
///
/// # Errors
/// `state_conflict`; `second_person_required` after ten within an hour.
pub async fn tenant_delete(
    cp: &ControlPlane,
    caller: &Caller,
    tenant: &TenantRef,
    reason: &str,
) -> Result<RunId> {
    shut(cp, caller, tenant, TenantState::Deleting, &DELETE, "tenant.delete", reason).await
}

/// Lets a suspended tenant work again.
pub async fn tenant_resume(cp: &ControlPlane, caller: &Caller, tenant: &TenantRef) -> Result<RunId> {
    resume(cp, caller, tenant, None).await
}

/// The same, for a tenant that is suspended for money at this very moment, and for no other one.
///
/// # Errors
/// `state_conflict`, also for one that is suspended for another reason by now.
pub async fn tenant_resume_paid(cp: &ControlPlane, caller: &Caller, tenant: &TenantRef) -> Result<RunId> {
    resume(cp, caller, tenant, Some(UNPAID)).await
}

async fn resume(cp: &ControlPlane, caller: &Caller, tenant: &TenantRef, only: Option<&str>) -> Result<RunId> {
    let mut tx = cp.db.begin().await?;
    let row = tenant_lock(&mut tx, tenant).await?;
    require(&row, TenantState::Suspended, TenantState::Active)?;
    if only.is_some() && row.state_reason.as_deref() != only {
        return Err(wrong_state(&row).hint("it is suspended for another reason"));
    }
    let run = record(cp, &mut tx, caller, &row, &RESUME, "tenant.resume", json!({})).await?;
    tx.commit().await?;
    Ok(run)
}

/// Brings a softly deleted tenant back: active, or suspended as it was, for the same reason.
pub async fn tenant_undelete(cp: &ControlPlane, caller: &Caller, tenant: &TenantRef) -> Result<RunId> {
    let mut tx = cp.db.begin().await?;
    let row = tenant_lock(&mut tx, tenant).await?;
    require(&row, TenantState::Deleting, TenantState::Active)?;
    let run = record(cp, &mut tx, caller, &row, &UNDELETE, "tenant.undelete", json!({})).await?;
    tx.commit().await?;
    Ok(run)
}

/// Removes a softly deleted tenant for good: its schema, its login, its keys. `early` does not wait for the 30 days.
///
/// # Errors
/// `state_conflict`; `second_person_required` for an early one that the caller deleted, and after ten within an hour.
pub async fn tenant_purge(
    cp: &ControlPlane,
    caller: &Caller,
    tenant: &TenantRef,
    early: bool,
) -> Result<RunId> {
    let mut tx = cp.db.begin().await?;
    let row = tenant_lock(&mut tx, tenant).await?;
    if row.state != TenantState::Deleting {
        return Err(wrong_state(&row).hint("delete it first: freehold tenant delete"));
    }
    let waits = row.purge_after.is_some_and(|at| at > cp.clock.now());
    if !early && waits {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("tenant {} can still be brought back", row.slug))
            .hint("wait until purge_after, or say --now to remove it for good at once"));
    }
    let mut detail = json!({ "early": waits });
    if waits
        && let Some(word) = approvals::agreed(&mut tx, caller, Grave::Purge, row.id, cp.clock.now()).await?
    {
        detail["approval"] = json!(word);
    }
    let run = record(cp, &mut tx, caller, &row, &PURGE, "tenant.purge", detail).await?;
    tx.commit().await?;
    Ok(run)
}

async fn shut(
    cp: &ControlPlane,
    caller: &Caller,
    tenant: &TenantRef,
    next: TenantState,
    kind: &Kind<Hands>,
    action: &str,
    reason: &str,
) -> Result<RunId> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let row = tenant_lock(&mut tx, tenant).await?;
    let overrules = row.state == TenantState::Suspended
        && next == TenantState::Suspended
        && row.state_reason.as_deref() == Some(UNPAID)
        && reason != UNPAID;
    if !row.state.may_become(next) && !overrules {
        return Err(wrong_state(&row));
    }
    let mut detail = json!({ "reason": reason });
    let deleting = next == TenantState::Deleting;
    if deleting && let Some(word) = approvals::agreed(&mut tx, caller, Grave::Delete, row.id, now).await? {
        detail["approval"] = json!(word);
    }
    let purge_after = deleting.then(|| now + Duration::days(GRACE_DAYS));
    sqlx::query(
        "UPDATE tenant SET former_state = CASE WHEN $6 AND state = 'suspended' THEN state END,
                former_reason = CASE WHEN $6 AND state = 'suspended' THEN state_reason END,
                state = $2, state_reason = $3, purge_after = $4, epoch = epoch + 1, updated_at = $5
          WHERE id = $1",
    )
    .bind(row.id)
    .bind(next)
    .bind(reason)
    .bind(purge_after)
    .bind(now)
    .bind(deleting)
    .execute(&mut *tx)
    .await?;
    changes::notify(&mut tx, Change::Tenant(row.id)).await?;
    let run = record(cp, &mut tx, caller, &row, kind, action, detail).await?;
    tx.commit().await?;
    Ok(run)
}

fn require(row: &TenantRow, now: TenantState, next: TenantState) -> Result<()> {
    if row.state == now && now.may_become(next) { Ok(()) } else { Err(wrong_state(row)) }
}

fn wrong_state(row: &TenantRow) -> Error {
    Error::new(&codes::STATE_CONFLICT).detail(format!("tenant {} is {}", row.slug, row.state))
}

async fn record(
    cp: &ControlPlane,
    tx: &mut PgConnection,
    caller: &Caller,
    row: &TenantRow,
    kind: &Kind<Hands>,
    action: &str,
    detail: serde_json::Value,
) -> Result<RunId> {
    let now = cp.clock.now();
    let (Some(shard), Some(schema)) = (row.shard, row.schema_name.clone()) else {
        return Err(wrong_state(row));
    };
    let suspended: Option<String> = sqlx::query_scalar("SELECT former_state FROM tenant WHERE id = $1")
        .bind(row.id)
        .fetch_one(&mut *tx)
        .await?;
    let input = Input {
        tenant: row.id,
        shard,
        schema,
        credential_version: row.credential_version.unwrap_or(1),
        suspended: suspended.is_some(),
    };
    let run = kind.record(&mut *tx, row.id.to_string(), Some(row.id), &input, 0, now).await?;
    audit_add(tx, caller, now, action, Some(row.id), &row.id.to_string(), detail).await?;
    Ok(run)
}

pub static SUSPEND: Kind<Hands> = Kind {
    name: "suspend",
    steps: &[StepDef { name: "fence", run: fence, undo: None }],
    on_failure: OnFailure::Retry,
    pace: Pace::Quick,
};

pub static DELETE: Kind<Hands> = Kind {
    name: "delete",
    steps: &[StepDef { name: "fence", run: fence, undo: None }],
    on_failure: OnFailure::Retry,
    pace: Pace::Quick,
};

pub static RESUME: Kind<Hands> = Kind {
    name: "resume",
    steps: &[
        StepDef { name: "unfence", run: unfence, undo: None },
        StepDef { name: "activate", run: activate, undo: None },
    ],
    on_failure: OnFailure::Retry,
    pace: Pace::Quick,
};

pub static UNDELETE: Kind<Hands> = Kind {
    name: "undelete",
    steps: &[
        StepDef { name: "unfence", run: unfence_unless_suspended, undo: None },
        StepDef { name: "activate", run: come_back, undo: None },
    ],
    on_failure: OnFailure::Retry,
    pace: Pace::Quick,
};

pub static PURGE: Kind<Hands> = Kind {
    name: "purge",
    steps: &[
        StepDef { name: "resources", run: remove_resources, undo: None },
        StepDef { name: "drop_schema", run: drop_schema, undo: None },
        StepDef { name: "forget", run: forget, undo: None },
        StepDef { name: "server", run: remove_server, undo: None },
    ],
    on_failure: OnFailure::Retry,
    pace: Pace::Slow,
};

fn fence<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let (input, database, mut conn) = on_shard(hands, held).await?;
        schema(&input, &database, held).fence(&mut conn).await?;
        Ok(None)
    })
}

fn unfence<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let (input, database, mut conn) = on_shard(hands, held).await?;
        schema(&input, &database, held).unfence(&mut conn).await?;
        Ok(None)
    })
}

/// One that was suspended before it was deleted stays shut.
fn unfence_unless_suspended<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        if input.suspended { Ok(None) } else { unfence(hands, held).await }
    })
}

fn drop_schema<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let (input, database, mut conn) = on_shard(hands, held).await?;
        schema(&input, &database, held).drop(&mut conn).await?;
        Ok(None)
    })
}

fn activate<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        Settled::Resumed.write(hands, input.tenant)
    })
}

fn come_back<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        Settled::Undeleted.write(hands, input.tenant)
    })
}

/// First what is in the cloud: while the tenant's row and its name are there, an operator finds what it belongs to.
fn remove_resources<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        resources::remove(hands, held, input.tenant).await?;
        Ok(None)
    })
}

/// Last the server that was its own: it is in no registry any more, so nobody can be on it.
fn remove_server<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        dedicated::remove_server(hands, held, input.tenant).await?;
        saga::write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM tenant_resources WHERE tenant = $1")
                    .bind(input.tenant)
                    .execute(tx)
                    .await?;
                Ok(())
            })
        })
    })
}

/// What is left of a purged tenant is its row, its runs, its audit lines, and what finance has to keep (use, invoices): every
/// other table with a tenant in it is listed here, and a test looks for one that is not.
const FORGET: [&str; 21] = [
    "DELETE FROM placement WHERE tenant = $1",
    // One that names a server goes after the server.
    "DELETE FROM tenant_resources WHERE tenant = $1 AND server IS NULL",
    "DELETE FROM infra_look WHERE tenant = $1",
    "DELETE FROM tenant_domain WHERE tenant = $1",
    "DELETE FROM api_key WHERE tenant = $1",
    "DELETE FROM idempotency WHERE tenant = $1",
    "DELETE FROM job WHERE tenant = $1",
    "DELETE FROM sign_in WHERE tenant = $1",
    "DELETE FROM hand_off WHERE tenant = $1",
    "DELETE FROM session WHERE tenant = $1",
    "DELETE FROM membership WHERE tenant = $1",
    "DELETE FROM erasure WHERE tenant = $1",
    "DELETE FROM invitation WHERE tenant = $1",
    "DELETE FROM email_domain WHERE tenant = $1",
    "DELETE FROM tenant_sso WHERE tenant = $1",
    "DELETE FROM account_identity WHERE tenant = $1",
    "DELETE FROM support_session WHERE tenant = $1",
    "DELETE FROM quota_level WHERE tenant = $1",
    "DELETE FROM quota_notice WHERE tenant = $1",
    "DELETE FROM reconcile_summary WHERE tenant = $1",
    // The customer at Stripe is what its invoices hang on; who was written to is not kept.
    "UPDATE billing_account SET email = NULL WHERE tenant = $1",
];

fn forget<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        let now = hands.cp.clock.now();
        saga::write(move |tx| Box::pin(async move { forget_tenant(tx, &input, now).await }))
    })
}

async fn forget_tenant(tx: &mut PgConnection, input: &Input, now: DateTime<Utc>) -> Result<()> {
    if Settled::Purged.set(&mut *tx, input.tenant, now).await? {
        give_place_back(&mut *tx, input.shard).await?;
    }
    for statement in FORGET {
        sqlx::query(statement).bind(input.tenant).execute(&mut *tx).await?;
    }
    sqlx::query("DELETE FROM slot WHERE schema_name = $1").bind(&input.schema).execute(&mut *tx).await?;
    let server =
        sqlx::query_scalar::<_, Option<String>>("SELECT server FROM tenant_resources WHERE tenant = $1")
            .bind(input.tenant)
            .fetch_optional(&mut *tx)
            .await?
            .flatten();
    if let Some(server) = server {
        dedicated::forget_shard(tx, input.shard, &server).await?;
    }
    Ok(())
}

type Admin = sqlx::pool::PoolConnection<sqlx::Postgres>;

async fn on_shard(hands: &Hands, held: &Held) -> Result<(Input, String, Admin)> {
    let input: Input = held.input()?;
    let shard = shard_by_id(&mut *hands.cp.db.acquire().await?, input.shard).await?;
    let conn = hands.admin(&shard).await?;
    Ok((input, shard.database()?.to_owned(), conn))
}

fn schema<'a>(input: &'a Input, database: &'a str, held: &Held) -> Schema<'a> {
    Schema {
        name: &input.schema,
        database,
        credential_version: input.credential_version,
        fence: Some(held.fence),
    }
}
