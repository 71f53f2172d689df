//! The state that a run leads its tenant to: the last thing it does, in the transaction of its record.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::Hands;
use super::changes::{self, Change};
use crate::jobs::saga::{self, Writes};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// What a run made of its tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// A new one works.
    Ready,
    /// A new one could not be made, and its slug is free again.
    Failed,
    /// A suspended one works again.
    Resumed,
    /// A deleted one is what it was before: active, or suspended for the same reason.
    Undeleted,
    /// A deleted one is gone for good.
    Purged,
}

impl Settled {
    /// Each from the one state that its run begins with: a step may be executed twice. The epoch is raised where connections
    /// may have been opened before.
    const fn sql(self) -> &'static str {
        match self {
            Self::Ready => {
                "UPDATE tenant SET state = 'active', updated_at = $2 WHERE id = $1 AND state = 'provisioning'"
            }
            Self::Failed => {
                "UPDATE tenant SET state = 'deleted', state_reason = 'provisioning failed', updated_at = $2
                  WHERE id = $1 AND state = 'provisioning'"
            }
            Self::Resumed => {
                "UPDATE tenant SET state = 'active', state_reason = NULL, epoch = epoch + 1, updated_at = $2
                  WHERE id = $1 AND state = 'suspended'"
            }
            Self::Undeleted => {
                "UPDATE tenant SET state = coalesce(former_state, 'active'), state_reason = former_reason,
                        former_state = NULL, former_reason = NULL, purge_after = NULL, epoch = epoch + 1, updated_at = $2
                  WHERE id = $1 AND state = 'deleting'"
            }
            Self::Purged => {
                "UPDATE tenant SET state = 'deleted', former_state = NULL, former_reason = NULL, purge_after = NULL,
                        epoch = epoch + 1, updated_at = $2
                  WHERE id = $1 AND state = 'deleting'"
            }
        }
    }

    /// Brings the tenant there, and tells the servers. Says whether it was not there before.
    pub(super) async fn set(
        self,
        tx: &mut PgConnection,
        tenant: TenantId,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let done = sqlx::query(self.sql()).bind(tenant).bind(now).execute(&mut *tx).await?;
        changes::notify(tx, Change::Tenant(tenant)).await?;
        Ok(done.rows_affected() == 1)
    }

    /// The same, as all that a step writes.
    pub(super) fn write(self, hands: &Hands, tenant: TenantId) -> Result<Option<Writes>> {
        let now = hands.cp.clock.now();
        saga::write(move |tx| Box::pin(async move { self.set(tx, tenant, now).await.map(drop) }))
    }
}
