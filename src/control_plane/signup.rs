//! Making a tenant for someone who waits: the answer when it is ready, once per `Idempotency-Key`.

use std::time::{Duration, Instant};

use super::audit::Caller;
use super::idempotency::{self, Claim};
use super::provisioning::{NewTenant, ready_at_once, tenant_create};
use super::tenants::{TenantRef, TenantState, tenant_find};
use super::{ControlPlane, runs};
use crate::jobs::feed::RunFeed;
use crate::jobs::run::{Run, RunState};
use crate::kernel::ids::{RunId, TenantId};
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Result};

const CREATED: u16 = 201;

/// The key that a caller gave this request. Keys of different scopes do not meet.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    pub scope: &'a str,
    pub key: &'a str,
}

/// What became of a request for a tenant.
#[derive(Debug)]
pub enum Signup {
    Answered(Answer),
    /// It takes longer than the caller was ready to wait.
    Underway(Run),
}

/// The answer, byte for byte as every repeat of the request gets it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The [`super::tenants::Tenant`] as JSON.
    pub body: Vec<u8>,
    /// Another request did the work.
    pub replayed: bool,
}

/// Makes a tenant and waits until it is ready. With a key, a repeat gets the first one's answer, joins the wait for it, or
/// starts anew when nothing came of it.
///
/// # Errors
/// Those of [`tenant_create`]; `idempotency_conflict` when the key stands for another request; the run's own when the
/// tenant could not be made.
pub async fn sign_up(
    cp: &ControlPlane,
    feed: &RunFeed,
    caller: &Caller,
    new: &NewTenant,
    key: Option<Key<'_>>,
    patience: Duration,
) -> Result<Signup> {
    let turn = cp.turns.take().await;
    let mut tx = cp.db.begin().await?;
    if let Some(Key { scope, key: name }) = key {
        let hash = sha256(&serde_json::to_vec(new).map_err(Error::internal)?);
        match idempotency::claim(&mut tx, scope, name, &hash, cp.clock.now()).await? {
            Claim::New => {}
            Claim::Answered { status, body } => {
                return Ok(Signup::Answered(Answer { status, body, replayed: true }));
            }
            Claim::InFlight { tenant } => {
                tx.commit().await?;
                drop(turn);
                return join(cp, feed, tenant, key, patience).await;
            }
        }
    }
    let begun = Instant::now();
    let (tenant, run) = tenant_create(cp, &mut tx, caller, new).await?;
    if tenant.state != TenantState::Active {
        if let Some(Key { scope, key: name }) = key {
            idempotency::attach(&mut tx, scope, name, tenant.id).await?;
        }
        tx.commit().await?;
        drop(turn);
        return finish(cp, feed, run, tenant.id, key, patience, false).await;
    }
    // Ready already: the answer is part of the transaction that makes it true.
    let body = serde_json::to_vec(&tenant).map_err(Error::internal)?;
    if let Some(Key { scope, key: name }) = key {
        idempotency::answer(&mut tx, scope, name, tenant.id, CREATED, &body).await?;
    }
    tx.commit().await?;
    ready_at_once(begun);
    Ok(Signup::Answered(Answer { status: CREATED, body, replayed: false }))
}

/// Waits for what an earlier request with the same key began.
async fn join(
    cp: &ControlPlane,
    feed: &RunFeed,
    tenant: TenantId,
    key: Option<Key<'_>>,
    patience: Duration,
) -> Result<Signup> {
    let row = tenant_find(&mut *cp.db.acquire().await?, &TenantRef::Id(tenant)).await?;
    let run = row.run.ok_or_else(|| Error::internal(format!("tenant {tenant} was made by no run")))?;
    finish(cp, feed, run, tenant, key, patience, true).await
}

async fn finish(
    cp: &ControlPlane,
    feed: &RunFeed,
    run: RunId,
    tenant: TenantId,
    key: Option<Key<'_>>,
    patience: Duration,
    replayed: bool,
) -> Result<Signup> {
    let run = runs::wait(cp, feed, run, patience).await?;
    if run.state.is_open() {
        return Ok(Signup::Underway(run));
    }
    let mut control = cp.db.acquire().await?;
    if let Err(error) = runs::succeeded(&run) {
        if let (RunState::Undone, Some(Key { scope, key })) = (run.state, key) {
            idempotency::release(&mut control, scope, key, tenant).await?;
        }
        return Err(error);
    }
    let tenant = tenant_find(&mut control, &TenantRef::Id(tenant)).await?.view(&cp.addresses);
    let body = serde_json::to_vec(&tenant).map_err(Error::internal)?;
    let (status, body) = match key {
        Some(Key { scope, key }) => idempotency::settle(&mut control, scope, key, CREATED, &body).await?,
        None => (CREATED, body),
    };
    Ok(Signup::Answered(Answer { status, body, replayed }))
}
