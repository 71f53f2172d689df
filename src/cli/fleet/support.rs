//! Looks into tenants.

use super::Fleet;
use super::changes::checked;
use crate::control_plane::tenants::TenantRef;
use crate::identity::support::{
    NewSupport, StartedSupport, SupportFilter, SupportSession, support_end, support_list, support_start,
};
use crate::kernel::Result;
use crate::kernel::ids::SupportId;
use crate::kernel::page::Page;

impl Fleet {
    pub async fn support_start(&self, tenant: &TenantRef, new: &NewSupport) -> Result<StartedSupport> {
        checked(new)?;
        match self {
            Self::Direct(direct) => {
                // Who sits in front of the terminal.
                let name = direct.caller.actor.strip_prefix("cli:").unwrap_or(&direct.caller.actor);
                support_start(&direct.cp, &direct.caller, name, tenant, new).await
            }
            Self::Remote(client) => {
                client.post(&["tenants", &tenant.to_string(), "support-sessions"], new).await
            }
        }
    }

    pub async fn support_list(&self, filter: &SupportFilter) -> Result<Page<SupportSession>> {
        match self {
            Self::Direct(direct) => {
                support_list(&mut *direct.control().await?, filter, direct.cp.clock.now()).await
            }
            Self::Remote(client) => client.get(&["support-sessions"], filter).await,
        }
    }

    pub async fn support_end(&self, id: SupportId) -> Result<SupportSession> {
        match self {
            Self::Direct(direct) => support_end(&direct.cp, &direct.caller, None, id).await,
            Self::Remote(client) => client.post(&["support-sessions", &id.to_string(), "end"], &()).await,
        }
    }
}
