//! Jobs inside tenants' schemas. The queue, and which tenant is due, are the control plane's; what such a job does is the
//! product's, and it does it as the tenant's own login. `app` puts the two together.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Hands;
use crate::jobs::queue::{HeldJob, job_add};
use crate::jobs::regular::RegularJob;
use crate::kernel::ids::{JobId, TenantId};
use crate::kernel::{Error, Result};

/// Most jobs of one kind that are added in one round, so that a day's jobs of a large fleet come a few at a time and do
/// not stand before everything else in the queue.
const ADDED_AT_ONCE: i64 = 200;

/// One job of one tenant. There is none without a tenant.
#[derive(Clone, Debug)]
pub struct TenantJob {
    pub id: JobId,
    pub tenant: TenantId,
    pub kind: String,
    pub payload: Value,
}

/// A job on its way.
pub type Running = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// What the platform and a product do in tenants' schemas when a worker asks. None by default: every kind is then unknown.
#[derive(Clone, Default)]
pub struct TenantJobs(Option<Known>);

#[derive(Clone)]
struct Known {
    regular: Arc<[RegularJob]>,
    carry_out: Arc<dyn Fn(TenantJob) -> Running + Send + Sync>,
}

impl TenantJobs {
    pub fn new(
        regular: impl IntoIterator<Item = RegularJob>,
        carry_out: impl Fn(TenantJob) -> Running + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Known { regular: regular.into_iter().collect(), carry_out: Arc::new(carry_out) }))
    }

    /// # Errors
    /// `internal` for a job that names no tenant, or that no product knows; else what the product says.
    pub async fn carry_out(&self, job: &HeldJob) -> Result<()> {
        let Some(known) = &self.0 else { return Err(unknown(&job.kind)) };
        let tenant = job.require_tenant()?;
        let job = TenantJob { id: job.id, tenant, kind: job.kind.clone(), payload: job.payload.clone() };
        (known.carry_out)(job).await
    }
}

/// What is said of a job that nobody knows how to do.
pub fn unknown(kind: &str) -> Error {
    Error::internal(format!("this build knows no job of kind {kind}"))
}

/// Gives regular jobs to the active tenants that are due. Of two workers that do so at once, both may: such a job is
/// safe to do twice.
pub async fn add_due(hands: &Hands) -> Result<usize> {
    let Some(known) = &hands.tenant_jobs.0 else { return Ok(0) };
    let now = hands.cp.clock.now();
    let mut added = 0;
    for RegularJob { kind, every } in known.regular.iter() {
        let since = now - chrono::Duration::from_std(*every).map_err(Error::internal)?;
        let mut tx = hands.cp.db.begin().await?;
        let due: Vec<TenantId> = sqlx::query_scalar(
            "SELECT id FROM tenant
              WHERE state = 'active' AND created_at <= $2
                AND NOT EXISTS (SELECT 1 FROM job
                                 WHERE job.kind = $1 AND job.tenant = tenant.id AND job.created_at > $2)
              ORDER BY id LIMIT $3",
        )
        .bind(kind)
        .bind(since)
        .bind(ADDED_AT_ONCE)
        .fetch_all(&mut *tx)
        .await?;
        for tenant in &due {
            job_add(&mut tx, kind, Some(*tenant), Some(&tenant.to_string()), json!({}), now).await?;
        }
        tx.commit().await?;
        added += due.len();
    }
    Ok(added)
}
