//! What the directory knows of a support session: an operator's look into one tenant.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::kernel::Role;
use crate::kernel::credentials::KeyHash;
use crate::kernel::ids::{SupportId, TenantId};

/// A support session that had not been ended when it was looked up.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Support {
    pub id: SupportId,
    pub tenant: TenantId,
    /// As the audit log names the one who looks.
    pub actor: String,
    /// Their name.
    pub operator: String,
    pub reason: String,
    pub role: Role,
    pub expires_at: DateTime<Utc>,
}

impl Support {
    /// Looked at on every use: a cached session ends on time.
    pub fn live(&self, now: DateTime<Utc>) -> bool {
        now < self.expires_at
    }
}

pub async fn by_token(db: &PgPool, token: &KeyHash) -> Result<Option<Arc<Support>>, sqlx::Error> {
    let found: Option<Support> = sqlx::query_as(
        "SELECT id, tenant, actor, operator, reason, role, expires_at
           FROM support_session WHERE token_hash = $1 AND ended_at IS NULL",
    )
    .bind(token.as_slice())
    .fetch_optional(db)
    .await?;
    Ok(found.map(Arc::new))
}
