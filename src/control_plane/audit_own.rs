//! A tenant's own lines of the audit log. The tenant is an argument of its own and no part of the filter: what a client
//! sends cannot widen it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::audit::AuditLine;
use crate::kernel::ids::{AuditId, TenantId};
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result};

/// Which lines to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OwnAuditFilter {
    /// `member.role`, `api_key.create`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// `acc_…`, `key_…`, `operator:…`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Not before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    #[serde(skip_serializing)]
    pub limit: Option<u32>,
    #[serde(skip_serializing)]
    pub cursor: Option<String>,
}

/// What of the log is meant, whatever the page.
#[derive(Clone, Debug)]
pub struct What {
    action: Option<String>,
    actor: Option<String>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

impl OwnAuditFilter {
    /// # Errors
    /// `invalid_fields` for texts that are too long, or a limit out of bounds.
    pub fn what(&self) -> Result<What> {
        page::limit(self.limit)?;
        for (field, text) in [("action", &self.action), ("actor", &self.actor)] {
            if text.as_ref().is_some_and(|text| text.len() > 200) {
                return Err(Error::field(field, "is too long"));
            }
        }
        let (action, actor) = (self.action.clone(), self.actor.clone());
        Ok(What { action, actor, since: self.since, until: self.until })
    }
}

/// One page, newest first.
pub async fn own_audit_list(
    conn: &mut PgConnection,
    tenant: TenantId,
    filter: &OwnAuditFilter,
) -> Result<Page<AuditLine>> {
    let after = filter.cursor.as_deref().map(page::decode).transpose()?;
    own_audit_page(conn, tenant, &filter.what()?, after, page::limit(filter.limit)?).await
}

/// Up to `limit` lines that are older than `after`, newest first.
pub async fn own_audit_page(
    conn: &mut PgConnection,
    tenant: TenantId,
    what: &What,
    after: Option<AuditId>,
    limit: u32,
) -> Result<Page<AuditLine>> {
    let rows = sqlx::query_as(
        "SELECT id, at, actor, action, tenant, subject, detail, request_id FROM audit
          WHERE tenant = $1 AND ($2::text IS NULL OR action = $2) AND ($3::text IS NULL OR actor = $3)
            AND ($4::timestamptz IS NULL OR at >= $4) AND ($5::timestamptz IS NULL OR at < $5)
            AND ($6::uuid IS NULL OR id < $6)
          ORDER BY id DESC LIMIT $7",
    )
    .bind(tenant)
    .bind(&what.action)
    .bind(&what.actor)
    .bind(what.since)
    .bind(what.until)
    .bind(after)
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await?;
    Ok(Page::build(rows, limit, |line: &AuditLine| line.id))
}
