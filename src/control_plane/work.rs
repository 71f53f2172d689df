//! An operator's hand on runs and jobs, with its line in the audit log.

use serde_json::json;

use super::ControlPlane;
use super::audit::{Caller, audit_add};
use crate::jobs::queue::{self, Job};
use crate::jobs::run::{Run, run_by_id, run_retry};
use crate::kernel::Result;
use crate::kernel::ids::{JobId, RunId};

/// Puts a stuck run back to work, and lets a waiting one go on now.
pub async fn run_resume(cp: &ControlPlane, caller: &Caller, id: RunId) -> Result<Run> {
    let mut tx = cp.db.begin().await?;
    run_retry(&mut tx, id).await?;
    let run = run_by_id(&mut tx, id).await?;
    let detail = json!({ "kind": run.kind });
    audit_add(&mut tx, caller, cp.clock.now(), "run.resume", run.tenant, &id.to_string(), detail).await?;
    tx.commit().await?;
    Ok(run)
}

/// Puts a dead job back in the queue.
pub async fn job_retry(cp: &ControlPlane, caller: &Caller, id: JobId) -> Result<Job> {
    let mut tx = cp.db.begin().await?;
    let job = queue::job_retry(&mut tx, id).await?;
    let detail = json!({ "kind": job.kind });
    audit_add(&mut tx, caller, cp.clock.now(), "job.retry", job.tenant, &id.to_string(), detail).await?;
    tx.commit().await?;
    Ok(job)
}
