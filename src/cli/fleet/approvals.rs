//! One operator's word for another.

use super::Fleet;
use super::changes::checked;
use crate::control_plane::approvals::{Approval, ApprovalFilter, NewApproval, approval_give, approval_list};
use crate::kernel::Result;
use crate::kernel::page::Page;

impl Fleet {
    pub async fn approval_give(&self, new: &NewApproval) -> Result<Approval> {
        checked(new)?;
        match self {
            Self::Direct(direct) => approval_give(&direct.cp, &direct.caller, new).await,
            Self::Remote(client) => client.post(&["approvals"], new).await,
        }
    }

    pub async fn approval_list(&self, filter: &ApprovalFilter) -> Result<Page<Approval>> {
        match self {
            Self::Direct(direct) => approval_list(&mut *direct.control().await?, filter).await,
            Self::Remote(client) => client.get(&["approvals"], filter).await,
        }
    }
}
