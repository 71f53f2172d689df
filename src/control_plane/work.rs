//! An operator's hand on runs and jobs, with its line in the audit log.

use serde_json::json;

use super::audit::{Caller, audit_add};
use super::{ControlPlane, runs};
use crate::jobs::queue::{self, Job};
use crate::jobs::run::{Run, run_by_id, run_retry, run_turn};
use crate::kernel::ids::{JobId, RunId};
use crate::kernel::{Error, Result, codes};

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

/// Takes back what a run that does not get to its end has done so far. A worker carries that out.
///
/// # Errors
/// `state_conflict` for a run that is finished or at work, and for a kind that only goes forward.
pub async fn run_undo(cp: &ControlPlane, caller: &Caller, id: RunId) -> Result<Run> {
    let mut tx = cp.db.begin().await?;
    let before = run_by_id(&mut tx, id).await?;
    if !runs::can_be_undone(&before.kind) {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("a run of kind {} only goes forward", before.kind))
            .hint("mend what is in its way, then: freehold run resume"));
    }
    run_turn(&mut tx, id).await?;
    let run = run_by_id(&mut tx, id).await?;
    let detail = json!({ "kind": run.kind });
    audit_add(&mut tx, caller, cp.clock.now(), "run.undo", run.tenant, &id.to_string(), detail).await?;
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
