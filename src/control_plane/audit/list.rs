//! Reading the log. The tenant is an argument of its own wherever a tenant asks, and no part of what a client sends.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::AuditLine;
use super::export::Format;
use crate::kernel::ids::{AuditId, TenantId};
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result};

/// Which lines to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// `member.role`, or `member.` for all of that kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// `acc_…`, `key_…`, `operator:…`, `cli:…`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What it was done to, as an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Not before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// For an export; csv when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Which lines of one's own tenant to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OwnAuditFilter {
    /// `member.role`, or `member.` for all of that kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// `acc_…`, `key_…`, `operator:…`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What it was done to, as an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Not before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// For the export; csv when not given.
    #[serde(skip_serializing)]
    pub format: Option<Format>,
    #[serde(skip_serializing)]
    pub limit: Option<u32>,
    #[serde(skip_serializing)]
    pub cursor: Option<String>,
}

/// What of the log is meant, whatever the page.
#[derive(Clone, Debug, Default, Serialize)]
pub struct What {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

impl What {
    fn checked(self, limit: Option<u32>) -> Result<Self> {
        page::limit(limit)?;
        for (field, text) in [("action", &self.action), ("actor", &self.actor), ("subject", &self.subject)] {
            if text.as_ref().is_some_and(|text| text.len() > 200) {
                return Err(Error::field(field, "is too long"));
            }
        }
        Ok(self)
    }
}

impl AuditFilter {
    /// # Errors
    /// `invalid_fields` for texts that are too long, or a limit out of bounds.
    pub fn what(&self) -> Result<What> {
        let (action, actor, subject) = (self.action.clone(), self.actor.clone(), self.subject.clone());
        What { action, actor, subject, since: self.since, until: self.until }.checked(self.limit)
    }
}

impl OwnAuditFilter {
    /// # Errors
    /// As [`AuditFilter::what`].
    pub fn what(&self) -> Result<What> {
        let (action, actor, subject) = (self.action.clone(), self.actor.clone(), self.subject.clone());
        What { action, actor, subject, since: self.since, until: self.until }.checked(self.limit)
    }
}

/// Lines of all tenants and of the platform, newest first.
pub async fn audit_list(conn: &mut PgConnection, filter: &AuditFilter) -> Result<Page<AuditLine>> {
    let after = filter.cursor.as_deref().map(page::decode).transpose()?;
    audit_page(conn, filter.tenant, &filter.what()?, after, page::limit(filter.limit)?).await
}

/// One page of a tenant's lines, newest first.
pub async fn own_audit_list(
    conn: &mut PgConnection,
    tenant: TenantId,
    filter: &OwnAuditFilter,
) -> Result<Page<AuditLine>> {
    let after = filter.cursor.as_deref().map(page::decode).transpose()?;
    audit_page(conn, Some(tenant), &filter.what()?, after, page::limit(filter.limit)?).await
}

/// Up to `limit` lines that are older than `after`, newest first; of one tenant, if one is given.
pub async fn audit_page(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    what: &What,
    after: Option<AuditId>,
    limit: u32,
) -> Result<Page<AuditLine>> {
    let mut query = sqlx::QueryBuilder::new(
        "SELECT a.id, a.at, a.actor, a.action, a.tenant, a.subject, coalesce(a.detail || p.data, a.detail) AS detail,
                a.request_id, a.seq, encode(a.hash, 'hex') AS hash
           FROM audit a LEFT JOIN audit_personal p ON p.line = a.id WHERE true",
    );
    conditions(&mut query, tenant, what, after);
    query.push(" ORDER BY a.id DESC LIMIT ").push_bind(i64::from(limit) + 1);
    let rows = query.build_query_as().fetch_all(conn).await?;
    Ok(Page::build(rows, limit, |line: &AuditLine| line.id))
}

/// Whether more than `most` lines are meant.
pub async fn audit_is_longer(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    what: &What,
    most: i64,
) -> Result<bool> {
    let mut query = sqlx::QueryBuilder::new("SELECT count(*) > ");
    query.push_bind(most).push(" FROM (SELECT FROM audit a WHERE true");
    conditions(&mut query, tenant, what, None);
    query.push(" LIMIT ").push_bind(most + 1).push(") AS found");
    Ok(query.build_query_scalar().fetch_one(conn).await?)
}

fn conditions(
    query: &mut sqlx::QueryBuilder<sqlx::Postgres>,
    tenant: Option<TenantId>,
    what: &What,
    after: Option<AuditId>,
) {
    if let Some(tenant) = tenant {
        query.push(" AND a.tenant = ").push_bind(tenant);
    }
    match &what.action {
        Some(kind) if kind.ends_with('.') => {
            query.push(" AND starts_with(a.action, ").push_bind(kind.clone()).push(")");
        }
        Some(action) => {
            query.push(" AND a.action = ").push_bind(action.clone());
        }
        None => {}
    }
    if let Some(actor) = &what.actor {
        query.push(" AND a.actor = ").push_bind(actor.clone());
    }
    if let Some(subject) = &what.subject {
        query.push(" AND a.subject = ").push_bind(subject.clone());
    }
    if let Some(since) = what.since {
        query.push(" AND a.at >= ").push_bind(since);
    }
    if let Some(until) = what.until {
        query.push(" AND a.at < ").push_bind(until);
    }
    if let Some(after) = after {
        query.push(" AND a.id < ").push_bind(after);
    }
}
