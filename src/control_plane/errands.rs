//! Jobs of modules above this one. The queue is the control plane's; what such a job does, `app` brings along.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use crate::jobs::queue::HeldJob;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// An errand on its way.
pub type Running = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type Run = Arc<dyn Fn(TenantId, Value) -> Running + Send + Sync>;
type RunOfPlatform = Arc<dyn Fn(Value) -> Running + Send + Sync>;

/// What is done for a job of each kind. None by default: every kind is then unknown.
#[derive(Clone, Default)]
pub struct Errands {
    of_tenants: HashMap<&'static str, Run>,
    of_platform: HashMap<&'static str, RunOfPlatform>,
}

impl Errands {
    /// Adds a kind: what to do with a job's tenant and payload.
    pub fn with(
        mut self,
        kind: &'static str,
        run: impl Fn(TenantId, Value) -> Running + Send + Sync + 'static,
    ) -> Self {
        self.of_tenants.insert(kind, Arc::new(run));
        self
    }

    /// Adds a kind of job that is about no tenant: what to do with its payload.
    pub fn of_platform(
        mut self,
        kind: &'static str,
        run: impl Fn(Value) -> Running + Send + Sync + 'static,
    ) -> Self {
        self.of_platform.insert(kind, Arc::new(run));
        self
    }

    /// Whether somebody brought this kind.
    pub fn knows(&self, kind: &str) -> bool {
        self.of_tenants.contains_key(kind) || self.of_platform.contains_key(kind)
    }

    /// An errand of a tenant that is no job: a step of a run. None for a kind that nobody brought.
    pub fn of_tenant(&self, kind: &str, tenant: TenantId, payload: Value) -> Option<Running> {
        self.of_tenants.get(kind).map(|run| run(tenant, payload))
    }

    /// Does what a job of this kind is about; none for a kind that nobody brought.
    ///
    /// # Errors
    /// `internal` for a job without a tenant, of a kind that is about one; else what the errand says.
    pub async fn run(&self, job: &HeldJob) -> Option<Result<()>> {
        if let Some(run) = self.of_platform.get(job.kind.as_str()) {
            return Some(run(job.payload.clone()).await);
        }
        let run = self.of_tenants.get(job.kind.as_str())?;
        Some(match job.require_tenant() {
            Ok(tenant) => run(tenant, job.payload.clone()).await,
            Err(error) => Err(error),
        })
    }
}
