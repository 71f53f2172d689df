//! What a request finds wrong and a worker can set right.

use std::time::Duration;

use moka::sync::Cache;

use super::{Directory, LOAD_LIMIT};
use crate::control_plane::provisioning::align_later;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// How often one tenant's login is complained of by one process: many requests find the same.
const EVERY: Duration = Duration::from_secs(5);
/// Tenants that are remembered to have been complained of. One that is forgotten is only asked for again.
const MOST: u64 = 10_000;

/// Tenants whose logins were complained of a moment ago.
pub(super) struct Amends(Cache<TenantId, ()>);

impl Default for Amends {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MOST).time_to_live(EVERY).build())
    }
}

impl Directory {
    /// A shard refuses this tenant's password: asks a worker to give its login the right one. Nobody waits for it.
    pub fn login_is_wrong(&self, tenant: TenantId) {
        if self.0.amends.0.contains_key(&tenant) {
            return;
        }
        self.0.amends.0.insert(tenant, ());
        let directory = self.clone();
        tokio::spawn(async move {
            let asked = tokio::time::timeout(LOAD_LIMIT, directory.ask_for_login(tenant)).await;
            match asked {
                Ok(Ok(())) => {
                    tracing::warn!(%tenant, "its login has another password; a worker is asked to set it right")
                }
                Ok(Err(error)) => {
                    tracing::warn!(%tenant, ?error, "its login has another password, and no worker could be asked")
                }
                Err(_) => {
                    tracing::warn!(%tenant, "its login has another password, and the control database does not answer")
                }
            }
        });
    }

    async fn ask_for_login(&self, tenant: TenantId) -> Result<()> {
        let mut tx = self.0.db.begin().await?;
        align_later(&mut tx, tenant, self.0.clock.now()).await?;
        Ok(tx.commit().await?)
    }
}
