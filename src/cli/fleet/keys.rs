//! Keys of tenants and of operators.

use super::Fleet;
use super::changes::checked;
use crate::control_plane::tenants::TenantRef;
use crate::http::operator::NewOperatorKey;
use crate::identity::keys::{self, ApiKey, KeyFilter, NewApiKey, OperatorKey, WithSecret};
use crate::kernel::Result;
use crate::kernel::ids::{ApiKeyId, OperatorKeyId};
use crate::kernel::page::Page;

impl Fleet {
    pub async fn api_key_list(&self, tenant: &TenantRef, filter: &KeyFilter) -> Result<Page<ApiKey>> {
        match self {
            Self::Direct(direct) => keys::api_key_list(&mut *direct.control().await?, tenant, filter).await,
            Self::Remote(client) => client.get(&["tenants", &tenant.to_string(), "api-keys"], filter).await,
        }
    }

    pub async fn api_key_create(&self, tenant: &TenantRef, new: &NewApiKey) -> Result<WithSecret<ApiKey>> {
        checked(new)?;
        match self {
            Self::Direct(direct) => keys::api_key_create(&direct.cp, &direct.caller, tenant, new).await,
            Self::Remote(client) => client.post(&["tenants", &tenant.to_string(), "api-keys"], new).await,
        }
    }

    pub async fn api_key_revoke(&self, id: ApiKeyId) -> Result<ApiKey> {
        match self {
            Self::Direct(direct) => keys::api_key_revoke(&direct.cp, &direct.caller, id).await,
            Self::Remote(client) => client.delete(&["api-keys", &id.to_string()]).await,
        }
    }

    pub async fn operator_key_list(&self, filter: &KeyFilter) -> Result<Page<OperatorKey>> {
        match self {
            Self::Direct(direct) => keys::operator_key_list(&mut *direct.control().await?, filter).await,
            Self::Remote(client) => client.get(&["operator-keys"], filter).await,
        }
    }

    pub async fn operator_key_create(&self, new: &NewOperatorKey) -> Result<WithSecret<OperatorKey>> {
        checked(new)?;
        match self {
            Self::Direct(direct) => {
                let (cp, caller, owner) = (&direct.cp, &direct.caller, new.owner());
                keys::operator_key_create_for(cp, caller, &new.name, new.role, owner.as_ref(), new.expires_at)
                    .await
            }
            Self::Remote(client) => client.post(&["operator-keys"], new).await,
        }
    }

    pub async fn operator_key_revoke(&self, id: OperatorKeyId) -> Result<OperatorKey> {
        match self {
            Self::Direct(direct) => keys::operator_key_revoke(&direct.cp, &direct.caller, id).await,
            Self::Remote(client) => client.delete(&["operator-keys", &id.to_string()]).await,
        }
    }
}
