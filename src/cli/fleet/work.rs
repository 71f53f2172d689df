//! Runs, jobs and the audit log.

use super::Fleet;
use crate::control_plane::audit::{AuditFilter, AuditLine, audit_list};
use crate::control_plane::work;
use crate::jobs::queue::{Job, JobFilter, job_list};
use crate::jobs::run::{Run, RunFilter, run_by_id, run_list};
use crate::kernel::Result;
use crate::kernel::ids::{JobId, RunId};
use crate::kernel::page::Page;

impl Fleet {
    pub async fn run_list(&self, filter: &RunFilter) -> Result<Page<Run>> {
        match self {
            Self::Direct(direct) => run_list(&mut *direct.control().await?, filter).await,
            Self::Remote(client) => client.get(&["runs"], filter).await,
        }
    }

    pub async fn run_show(&self, id: RunId) -> Result<Run> {
        match self {
            Self::Direct(direct) => run_by_id(&mut *direct.control().await?, id).await,
            Self::Remote(client) => client.get(&["runs", &id.to_string()], &()).await,
        }
    }

    /// Follows a run to its end; carries it out where there is no worker to do it.
    pub async fn run_follow(&self, id: RunId) -> Result<Run> {
        match self {
            Self::Direct(direct) => direct.finish(id).await,
            Self::Remote(client) => client.follow(id).await,
        }
    }

    pub async fn run_resume(&self, id: RunId) -> Result<Run> {
        match self {
            Self::Direct(direct) => {
                direct.hands()?;
                work::run_resume(&direct.cp, &direct.caller, id).await?;
            }
            Self::Remote(client) => {
                client.post::<Run>(&["runs", &id.to_string(), "resume"], &()).await?;
            }
        }
        self.run_follow(id).await
    }

    pub async fn job_list(&self, filter: &JobFilter) -> Result<Page<Job>> {
        match self {
            Self::Direct(direct) => job_list(&mut *direct.control().await?, filter).await,
            Self::Remote(client) => client.get(&["jobs"], filter).await,
        }
    }

    pub async fn job_retry(&self, id: JobId) -> Result<Job> {
        match self {
            Self::Direct(direct) => work::job_retry(&direct.cp, &direct.caller, id).await,
            Self::Remote(client) => client.post(&["jobs", &id.to_string(), "retry"], &()).await,
        }
    }

    pub async fn audit_list(&self, filter: &AuditFilter) -> Result<Page<AuditLine>> {
        match self {
            Self::Direct(direct) => audit_list(&mut *direct.control().await?, filter).await,
            Self::Remote(client) => client.get(&["audit"], filter).await,
        }
    }
}
