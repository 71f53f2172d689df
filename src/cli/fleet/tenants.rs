//! Tenants.

use reqwest::Method;

use super::changes::checked;
use super::client::Reply;
use super::{Direct, Fleet};
use crate::control_plane::provisioning::{NewTenant, tenant_create};
use crate::control_plane::tenants::{
    Rename, Tenant, TenantDetail, TenantFilter, TenantRef, TenantState, tenant_list, tenant_of_run,
    tenant_rename, tenant_show,
};
use crate::control_plane::{access, probe};
use crate::http::operator::{Purge, Reason};
use crate::jobs::run::Run;
use crate::kernel::ids::{RunId, TenantId};
use crate::kernel::page::Page;
use crate::kernel::{Result, codes};

/// A change of what a tenant may do.
#[derive(Clone, Debug)]
pub enum Change {
    Suspend { reason: String },
    Resume,
    Delete { reason: String },
    Undelete,
    Purge { now: bool },
}

impl Fleet {
    pub async fn tenant_create(&self, new: &NewTenant) -> Result<Tenant> {
        checked(new)?;
        match self {
            Self::Direct(direct) => direct.tenant_create(new).await,
            Self::Remote(client) => {
                match client.change(client.request(Method::POST, &["tenants"])?.json(new)).await? {
                    Reply::Done(tenant) => Ok(tenant),
                    Reply::Underway(run) => self.tenant_after(run).await,
                }
            }
        }
    }

    pub async fn tenant_list(&self, filter: &TenantFilter) -> Result<Page<Tenant>> {
        match self {
            Self::Direct(direct) => tenant_list(&direct.cp, filter).await,
            Self::Remote(client) => client.get(&["tenants"], filter).await,
        }
    }

    pub async fn tenant_show(&self, tenant: &TenantRef) -> Result<TenantDetail> {
        match self {
            Self::Direct(direct) => tenant_show(&direct.cp, tenant).await,
            Self::Remote(client) => client.get(&["tenants", &tenant.to_string()], &()).await,
        }
    }

    /// A tenant's id, for filters that take only that.
    pub async fn tenant_id(&self, tenant: &TenantRef) -> Result<TenantId> {
        match tenant {
            TenantRef::Id(id) => Ok(*id),
            TenantRef::Slug(_) => Ok(self.tenant_show(tenant).await?.tenant.id),
        }
    }

    pub async fn tenant_rename(&self, tenant: &TenantRef, to: &Rename) -> Result<TenantDetail> {
        checked(to)?;
        match self {
            Self::Direct(direct) => tenant_rename(&direct.cp, &direct.caller, tenant, to).await,
            Self::Remote(client) => client.patch(&["tenants", &tenant.to_string()], to).await,
        }
    }

    pub async fn tenant_change(&self, tenant: &TenantRef, change: &Change) -> Result<Tenant> {
        let client = match self {
            Self::Direct(direct) => return direct.tenant_change(tenant, change).await,
            Self::Remote(client) => client,
        };
        let at = |verb| client.request(Method::POST, &["tenants", &tenant.to_string(), verb]);
        let request = match change {
            Change::Suspend { reason } => at("suspend")?.json(&Reason { reason: reason.clone() }),
            Change::Resume => at("resume")?,
            Change::Delete { reason } => client
                .request(Method::DELETE, &["tenants", &tenant.to_string()])?
                .query(&Reason { reason: reason.clone() }),
            Change::Undelete => at("undelete")?,
            Change::Purge { now } => at("purge")?.json(&Purge { now: *now }),
        };
        match client.change(request).await? {
            Reply::Done(tenant) => Ok(tenant),
            Reply::Underway(run) => self.tenant_after(run).await,
        }
    }

    /// The tenant when its run is done.
    async fn tenant_after(&self, run: Run) -> Result<Tenant> {
        let subject = run.subject.parse().unwrap_or_else(|never| match never {});
        self.run_follow(run.id).await?;
        Ok(self.tenant_show(&subject).await?.tenant)
    }
}

impl Direct {
    async fn tenant_create(&self, new: &NewTenant) -> Result<Tenant> {
        let hands = self.hands()?;
        let (tenant, run) = match self.tenant_record(new).await {
            // Without a worker nobody has looked at the shards lately, and none of them counts as there.
            Err(error) if error.is(&codes::NO_CAPACITY) => {
                probe::probe_all(hands).await?;
                self.tenant_record(new).await?
            }
            other => other?,
        };
        if tenant.state == TenantState::Active {
            return Ok(tenant);
        }
        self.finish(run).await?;
        Ok(tenant_show(&self.cp, &TenantRef::Id(tenant.id)).await?.tenant)
    }

    async fn tenant_record(&self, new: &NewTenant) -> Result<(Tenant, RunId)> {
        let mut tx = self.cp.db.begin().await?;
        let made = tenant_create(&self.cp, &mut tx, &self.caller, new).await?;
        tx.commit().await?;
        Ok(made)
    }

    async fn tenant_change(&self, tenant: &TenantRef, change: &Change) -> Result<Tenant> {
        // Nothing is recorded that could not be carried out.
        self.hands()?;
        let (cp, caller) = (&self.cp, &self.caller);
        let run = match change {
            Change::Suspend { reason } => access::tenant_suspend(cp, caller, tenant, reason).await?,
            Change::Resume => access::tenant_resume(cp, caller, tenant).await?,
            Change::Delete { reason } => access::tenant_delete(cp, caller, tenant, reason).await?,
            Change::Undelete => access::tenant_undelete(cp, caller, tenant).await?,
            Change::Purge { now } => access::tenant_purge(cp, caller, tenant, *now).await?,
        };
        tenant_of_run(cp, &self.finish(run).await?).await
    }
}
