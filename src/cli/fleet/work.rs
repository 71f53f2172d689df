//! Runs, jobs and the audit log.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::Fleet;
use crate::control_plane::audit::export::audit_export;
use crate::control_plane::audit::verify::{
    AuditHead, Broken, HeadFilter, Verified, Verify, audit_compare, audit_heads, audit_verify,
};
use crate::control_plane::audit::{AuditFilter, AuditLine, audit_list};
use crate::control_plane::infra::lookout::{self, Look, LookFilter};
use crate::control_plane::work;
use crate::http::operator::KeptHeads;
use crate::jobs::queue::{Job, JobFilter, job_list};
use crate::jobs::run::{Run, RunFilter, RunState, run_by_id, run_list};
use crate::kernel::Result;
use crate::kernel::ids::{JobId, RunId, TenantId};
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

    /// What the last looks at the cloud found.
    pub async fn infra_looks(&self, filter: &LookFilter) -> Result<Page<Look>> {
        match self {
            Self::Direct(direct) => {
                lookout::looks(&mut *direct.control().await?, filter).await.map(Page::whole)
            }
            Self::Remote(client) => client.get(&["infra", "looks"], filter).await,
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

    /// Turns a run round. That it is undone then is no failure.
    pub async fn run_undo(&self, id: RunId) -> Result<Run> {
        match self {
            Self::Direct(direct) => {
                direct.hands()?;
                work::run_undo(&direct.cp, &direct.caller, id).await?;
            }
            Self::Remote(client) => {
                client.post::<Run>(&["runs", &id.to_string(), "undo"], &()).await?;
            }
        }
        let followed = self.run_follow(id).await;
        let run = self.run_show(id).await?;
        if run.state == RunState::Undone { Ok(run) } else { followed }
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

    /// The log as a file, in pieces.
    pub async fn audit_export(&self, filter: &AuditFilter) -> Result<BoxStream<'static, Result<Vec<u8>>>> {
        match self {
            Self::Direct(direct) => {
                let (tenant, what, format) =
                    (filter.tenant, filter.what()?, filter.format.unwrap_or_default());
                let pieces = audit_export(&direct.cp, &direct.caller, tenant, what, format).await?;
                Ok(pieces.map(|piece| piece.map(String::into_bytes)).boxed())
            }
            Self::Remote(client) => client.stream(&["audit", "export"], filter).await,
        }
    }

    /// Goes through all chains, or through a tenant's, and says meanwhile how far it is.
    pub async fn audit_verify(
        &self,
        tenant: Option<TenantId>,
        mut so_far: impl FnMut(&Verified),
    ) -> Result<Verified> {
        let mut all = Verified::default();
        let mut wish = Verify { tenant, cursor: None };
        loop {
            let part = match self {
                Self::Direct(direct) => audit_verify(&mut *direct.control().await?, &wish).await?,
                Self::Remote(client) => client.get(&["audit", "verify"], &wish).await?,
            };
            all.chains += part.chains;
            all.lines += part.lines;
            all.forgotten += part.forgotten;
            all.broken.extend(part.broken);
            so_far(&all);
            match part.next_cursor {
                None => return Ok(all),
                next => wish.cursor = next,
            }
        }
    }

    pub async fn audit_heads(&self, filter: &HeadFilter) -> Result<Page<AuditHead>> {
        match self {
            Self::Direct(direct) => audit_heads(&mut *direct.control().await?, filter).await,
            Self::Remote(client) => client.get(&["audit", "heads"], filter).await,
        }
    }

    /// Whether the chains still go through ends that were kept.
    pub async fn audit_compare(&self, kept: &[AuditHead]) -> Result<Vec<Broken>> {
        let mut broken = Vec::new();
        for kept in kept.chunks(1_000) {
            broken.extend(match self {
                Self::Direct(direct) => audit_compare(&mut *direct.control().await?, kept).await?,
                Self::Remote(client) => {
                    let heads = kept.to_vec();
                    let page: Page<Broken> = client.post(&["audit", "compare"], &KeptHeads { heads }).await?;
                    page.items
                }
            });
        }
        Ok(broken)
    }
}
