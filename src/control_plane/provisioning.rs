//! Provisioning: how a tenant comes to be, and how a shard is made ready.
//!
//! With a spare slot, signing a tenant up is one transaction in the control database, and the run it records is done
//! already. Without one, the same transaction reserves the place and fixes every generated name, and a worker makes
//! the schema. Any failure for good undoes the reservation: the tenant is ready, or gone.

use std::time::{Duration, Instant};

use chrono::SubsecRound;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::audit::{Caller, audit_add};
use super::changes::{self, Change};
use super::infra::dedicated;
use super::placement::{self, Candidate};
use super::plans::{Plan, Tier, plan_on_sale};
use super::settled::Settled;
use super::shards::{shard_by_id, shard_set_endpoint};
use super::slots::{new_schema_name, slot_claim, slot_record};
use super::tenants::{Tenant, TenantState, slug_rule};
use super::{ControlPlane, Hands, registry};
use crate::db::schema::{LoginLimits, Schema};
use crate::db::tenant_tls::TenantTls;
use crate::db::{admin, on_constraint, prepare};
use crate::jobs::queue::job_add;
use crate::jobs::saga::{self, Held, Kind, OnFailure, Pace, StepDef, Writes};
use crate::jobs::wake;
use crate::kernel::ids::{RunId, ShardId, TenantId};
use crate::kernel::{Error, Result, codes};

/// The job that gives a tenant's login what its plan says.
pub const ALIGN_LOGIN: &str = "align_login";

/// The errand that opens a tenant's account for billing, where there is any: the modules above bring it.
pub const BILLING: &str = "billing_account";
/// The errand that takes it back.
pub const BILLING_UNDO: &str = "billing_account_undo";
/// How long a new tenant waits for its account. The repair that makes missing ones takes over then: nobody who signs up
/// has to wait for a payment provider.
const BILLING_PATIENCE: Duration = Duration::from_secs(5);

/// What a new tenant is to be.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Its name in the address: `acme` in `acme.example.com`.
    #[garde(custom(slug_rule))]
    #[schema(example = "acme")]
    pub slug: String,
    /// Its name for people. The slug when not given.
    #[garde(inner(length(chars, min = 1, max = 120)))]
    pub name: Option<String>,
    /// `free` when not given.
    #[garde(skip)]
    pub plan: Option<String>,
}

/// What later attempts of a provisioning run must know.
#[derive(Debug, Serialize, Deserialize)]
struct Input {
    tenant: TenantId,
    shard: ShardId,
    schema: String,
    limits: Limits,
}

#[derive(Debug, Serialize, Deserialize)]
struct Limits {
    connections: i32,
    statement_timeout_ms: i32,
}

/// Makes a tenant in the caller's transaction. It is ready on commit when a slot was spare; else its run is pending.
///
/// # Errors
/// `slug_taken`; `no_capacity` when no shard of the plan's pool has room and answers.
pub async fn tenant_create(
    cp: &ControlPlane,
    tx: &mut PgConnection,
    caller: &Caller,
    new: &NewTenant,
) -> Result<(Tenant, RunId)> {
    // To the microsecond, as it is kept: what is answered now and read later is the same.
    let now = cp.clock.now().trunc_subsecs(6);
    let id = TenantId::new();
    let plan = plan_on_sale(&mut *tx, new.plan.as_deref().unwrap_or("free")).await?;
    let name = new.name.as_deref().unwrap_or(&new.slug);
    // The slug first: of a hundred asking at once, one goes on and the others hear so before anything is reserved.
    sqlx::query(
        "INSERT INTO tenant (id, slug, name, state, plan, created_at, updated_at)
         VALUES ($1, $2, $3, 'provisioning', $4, $5, $5)",
    )
    .bind(id)
    .bind(&new.slug)
    .bind(name)
    .bind(&plan.id)
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(on_constraint("tenant_slug_live", &codes::SLUG_TAKEN))?;

    let Some((shard, slot)) = choose(cp, tx, &plan).await? else {
        let run = match plan.tier {
            Tier::Dedicated => dedicated::begin(cp, &mut *tx, id, &plan, now).await?,
            Tier::Pooled => return Err(no_capacity(&plan)),
        };
        let detail = json!({ "slug": new.slug, "plan": plan.id, "shard": dedicated::server_name(id) });
        audit_add(&mut *tx, caller, now, "tenant.create", Some(id), &id.to_string(), detail).await?;
        changes::notify(&mut *tx, Change::Tenant(id)).await?;
        let tenant = Tenant {
            url: cp.addresses.tenant_url(&new.slug),
            id,
            slug: new.slug.clone(),
            name: name.to_owned(),
            state: TenantState::Provisioning,
            tier: plan.tier,
            plan: plan.id,
            shard: None,
            run: Some(run),
            created_at: now,
            purge_after: None,
        };
        return Ok((tenant, run));
    };
    let ready = slot.is_some();
    let schema = match slot {
        Some(schema) => schema,
        None => {
            let schema = new_schema_name(cp);
            slot_record(&mut *tx, &schema, shard.id, "claimed", now).await?;
            schema
        }
    };
    let state = if ready { TenantState::Active } else { TenantState::Provisioning };
    // One statement for both: with a slot, round trips are most of the call.
    sqlx::query(
        "WITH placed AS (UPDATE tenant SET state = $5 WHERE id = $1)
         INSERT INTO placement (tenant, shard, schema_name, version, placed_at)
         SELECT $1, $2, slot.schema_name, slot.version, $4 FROM slot WHERE slot.schema_name = $3",
    )
    .bind(id)
    .bind(shard.id)
    .bind(&schema)
    .bind(now)
    .bind(state)
    .execute(&mut *tx)
    .await?;
    if ready {
        align_later(&mut *tx, id, now).await?;
    }
    let limits = plan.entitlements.login_limits();
    let input = Input {
        tenant: id,
        shard: shard.id,
        schema,
        limits: Limits { connections: limits.connections, statement_timeout_ms: limits.statement_timeout_ms },
    };
    let done = if ready { PROVISION.steps.len() } else { 1 };
    let run = PROVISION.record(&mut *tx, id.to_string(), Some(id), &input, done, now).await?;
    let detail = json!({ "slug": new.slug, "plan": plan.id, "shard": shard.name });
    audit_add(&mut *tx, caller, now, "tenant.create", Some(id), &id.to_string(), detail).await?;
    changes::notify(&mut *tx, Change::Tenant(id)).await?;
    // The worker was woken on the way, by the job or by the open run; it replaces the spare slot too.
    let tenant = Tenant {
        url: cp.addresses.tenant_url(&new.slug),
        id,
        slug: new.slug.clone(),
        name: name.to_owned(),
        state,
        tier: plan.tier,
        plan: plan.id,
        shard: Some(shard.name),
        run: Some(run),
        created_at: now,
        purge_after: None,
    };
    Ok((tenant, run))
}

/// Notes how long a tenant took that was ready at once: from the start of [`tenant_create`] to the commit after it.
pub fn ready_at_once(begun: Instant) {
    metrics::histogram!("tenant_from_slot_seconds").record(begun.elapsed());
}

/// The best shard that still has a place and answers, with a slot if one is spare there. A dedicated tenant is never the
/// second on one.
async fn choose(
    cp: &ControlPlane,
    tx: &mut PgConnection,
    plan: &Plan,
) -> Result<Option<(Candidate, Option<String>)>> {
    let most = if plan.tier == Tier::Dedicated { 1 } else { i32::MAX };
    let ranked = placement::rank(placement::candidates(&mut *tx, &plan.shard_pool).await?);
    for shard in ranked.into_iter().filter(|shard| shard.tenants < most) {
        if !answers(&shard).await || !placement::take_place(&mut *tx, shard.id, most).await? {
            continue;
        }
        let slot = slot_claim(&mut *tx, shard.id, cp.schema_version()).await?;
        return Ok(Some((shard, slot)));
    }
    Ok(None)
}

fn no_capacity(plan: &Plan) -> Error {
    Error::new(&codes::NO_CAPACITY)
        .detail(format!("no shard of pool {} has room and answers", plan.shard_pool))
        .hint("see them with: freehold shard list; add one with: freehold shard add")
        .retry_after(Duration::from_secs(5))
}

/// Whether something listens where the shard is. The probe's last look may be seconds old; this one costs a handshake.
async fn answers(shard: &Candidate) -> bool {
    if shard.host.starts_with('/') {
        return true; // a Unix socket: the probe's word will do
    }
    let port = u16::try_from(shard.port).unwrap_or(0);
    let dial = tokio::net::TcpStream::connect((shard.host.as_str(), port));
    matches!(tokio::time::timeout(Duration::from_millis(500), dial).await, Ok(Ok(_)))
}

/// Asks the worker to give the tenant's login the settings of its plan, and wakes it.
pub async fn align_later(
    conn: &mut PgConnection,
    tenant: TenantId,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<()> {
    job_add(conn, ALIGN_LOGIN, Some(tenant), Some(&tenant.to_string()), json!({}), now).await
}

/// reserve → schema → billing → activate.
pub static PROVISION: Kind<Hands> = Kind {
    name: "provision",
    steps: &[
        StepDef { name: "reserve", run: nothing, undo: Some(release) },
        StepDef { name: "schema", run: make_schema, undo: Some(abandon_schema) },
        StepDef { name: "billing", run: open_account, undo: Some(take_account_back) },
        StepDef { name: "activate", run: activate, undo: None },
    ],
    on_failure: OnFailure::Undo { attempts: 2 },
    pace: Pace::Quick,
};

pub(super) fn nothing<'a>(_: &'a Hands, _: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    // Done by the transaction that recorded the run.
    Box::pin(async { Ok(None) })
}

pub(super) fn make_schema<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        let shard = shard_by_id(&mut *hands.cp.db.acquire().await?, input.shard).await?;
        let schema = Schema {
            name: &input.schema,
            database: shard.database()?,
            credential_version: 1,
            fence: Some(held.fence),
        };
        let limits = LoginLimits {
            connections: input.limits.connections,
            statement_timeout_ms: input.limits.statement_timeout_ms,
        };
        let mut conn = hands.admin(&shard).await?;
        let version = schema.create(&mut conn, &hands.master, hands.cp.tables, limits).await?;
        let now = hands.cp.clock.now();
        saga::write(move |tx| {
            Box::pin(async move {
                sqlx::query(
                    "WITH placed AS (UPDATE placement SET version = $2 WHERE schema_name = $1)
                     UPDATE slot SET version = $2, ready_at = coalesce(ready_at, $3) WHERE schema_name = $1",
                )
                .bind(&input.schema)
                .bind(version)
                .bind(now)
                .execute(tx)
                .await?;
                Ok(())
            })
        })
    })
}

/// Leaves the removal to the reconciler: the shard may be the very thing that does not answer, and the customer's slug
/// must be free again now.
fn abandon_schema<'a>(_: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        saga::write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM placement WHERE tenant = $1")
                    .bind(input.tenant)
                    .execute(&mut *tx)
                    .await?;
                sqlx::query("UPDATE slot SET state = 'broken' WHERE schema_name = $1")
                    .bind(&input.schema)
                    .execute(tx)
                    .await?;
                Ok(())
            })
        })
    })
}

/// Opens the tenant's account. One that cannot be opened now is opened by a repair later.
pub(super) fn open_account<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        let opening = hands.errands.of_tenant(BILLING, input.tenant, json!({}));
        if let Some(opening) = opening {
            match tokio::time::timeout(BILLING_PATIENCE, opening).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(tenant = %input.tenant, ?error, "no account yet"),
                Err(_) => tracing::warn!(tenant = %input.tenant, "no account yet: it took too long"),
            }
        }
        Ok(None)
    })
}

/// By a job, because the payment provider may be away, and the customer's slug must be free again now.
pub(super) fn take_account_back<'a>(
    hands: &'a Hands,
    held: &'a Held,
) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        if !hands.errands.knows(BILLING_UNDO) {
            return Ok(None);
        }
        let now = hands.cp.clock.now();
        saga::write(move |tx| {
            Box::pin(async move {
                let key = input.tenant.to_string();
                job_add(tx, BILLING_UNDO, Some(input.tenant), Some(&key), json!({}), now).await
            })
        })
    })
}

pub(super) fn activate<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        Settled::Ready.write(hands, input.tenant)
    })
}

fn release<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: Input = held.input()?;
        let now = hands.cp.clock.now();
        saga::write(move |tx| {
            Box::pin(async move {
                if Settled::Failed.set(&mut *tx, input.tenant, now).await? {
                    placement::give_place_back(tx, input.shard).await?;
                }
                Ok(())
            })
        })
    })
}

/// prepare → open: what `shard add` records.
pub static SHARD_PREPARE: Kind<Hands> = Kind {
    name: "shard_prepare",
    steps: &[
        StepDef { name: "prepare", run: shard_prepare, undo: None },
        StepDef { name: "open", run: shard_open, undo: None },
    ],
    on_failure: OnFailure::Retry,
    pace: Pace::Quick,
};

#[derive(Deserialize)]
struct ShardInput {
    shard: ShardId,
}

pub(super) fn shard_prepare<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: ShardInput = held.input()?;
        let shard = shard_by_id(&mut *hands.cp.db.acquire().await?, input.shard).await?;
        let options = admin::options(&shard.admin_dsn()?.read(Some(&hands.master))?)?;
        let prepared = prepare::prepare(&options).await?;
        if !prepared.open.is_empty() {
            tracing::warn!(
                shard = shard.name,
                open = prepared.open.len(),
                "not everything could be closed; see doctor"
            );
        }
        registry::claim(&hands.cp.db, input.shard, &options).await?;
        let tls = TenantTls::of(&options)?;
        tls.look(&options).await?;
        saga::write(move |tx| {
            Box::pin(async move { shard_set_endpoint(tx, input.shard, &options, &tls).await })
        })
    })
}

pub(super) fn shard_open<'a>(_: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let input: ShardInput = held.input()?;
        saga::write(move |tx| {
            Box::pin(async move {
                sqlx::query("UPDATE shard SET state = 'active' WHERE id = $1")
                    .bind(input.shard)
                    .execute(&mut *tx)
                    .await?;
                wake::workers(tx).await
            })
        })
    })
}
