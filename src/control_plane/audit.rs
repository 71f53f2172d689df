//! The audit log: one line for each change, in the transaction that makes it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use crate::kernel::Result;
use crate::kernel::ids::{AuditId, TenantId};
use crate::kernel::page::{self, Page};

/// Who changes something, for the log.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `cli:<user>`, `operator:<key id>`, `worker`.
    pub actor: String,
    pub request_id: Option<String>,
}

impl Caller {
    pub fn worker() -> Self {
        Self { actor: "worker".to_owned(), request_id: None }
    }
}

/// One line of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct AuditLine {
    pub id: AuditId,
    pub at: DateTime<Utc>,
    pub actor: String,
    /// `tenant.create`, `tenant.suspend`, `api_key.revoke`, …
    pub action: String,
    pub tenant: Option<TenantId>,
    pub subject: String,
    #[schema(value_type = Object)]
    pub detail: Value,
    pub request_id: Option<String>,
}

/// Writes one line.
pub async fn audit_add(
    conn: &mut PgConnection,
    caller: &Caller,
    now: DateTime<Utc>,
    action: &str,
    tenant: Option<TenantId>,
    subject: &str,
    detail: Value,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO audit (id, at, actor, action, tenant, subject, detail, request_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(AuditId::new())
    .bind(now)
    .bind(&caller.actor)
    .bind(action)
    .bind(tenant)
    .bind(subject)
    .bind(detail)
    .bind(&caller.request_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Which lines to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditFilter {
    pub tenant: Option<TenantId>,
    pub action: Option<String>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Lines, newest first.
pub async fn audit_list(conn: &mut PgConnection, filter: &AuditFilter) -> Result<Page<AuditLine>> {
    let limit = page::limit(filter.limit)?;
    let mut query = sqlx::QueryBuilder::new(
        "SELECT id, at, actor, action, tenant, subject, detail, request_id FROM audit WHERE true",
    );
    if let Some(tenant) = filter.tenant {
        query.push(" AND tenant = ").push_bind(tenant);
    }
    if let Some(action) = &filter.action {
        query.push(" AND action = ").push_bind(action);
    }
    if let Some(cursor) = &filter.cursor {
        let last: AuditId = page::decode(cursor)?;
        query.push(" AND id < ").push_bind(last);
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit) + 1);
    let rows = query.build_query_as().fetch_all(conn).await?;
    Ok(Page::build(rows, limit, |line: &AuditLine| line.id))
}
