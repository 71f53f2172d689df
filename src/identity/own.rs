//! Workspaces' own providers, ready to be asked: made of the control database's rows, kept while those stay as they are.

use std::sync::Arc;

use moka::sync::Cache;
use secrecy::SecretString;
use sqlx::PgConnection;

use super::Identity;
use super::oidc::Provider;
use super::oidc::settings::{ProviderKind, Registration};
use super::oidc::web::Web;
use super::sso::sso_method;
use crate::control_plane::tenants::TenantRef;
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::seal::Use;
use crate::kernel::{Error, Result, codes};

/// Providers that are kept with what they publish of themselves.
const MOST: u64 = 1_000;

/// What is known of workspaces' providers in this process.
#[derive(Clone)]
pub struct OwnProviders {
    web: Web,
    kept: Cache<TenantId, Arc<Kept>>,
}

struct Kept {
    /// As it is in the database; sealed anew at each change, so it tells one setting from the next.
    secret: Vec<u8>,
    workspace: Workspace,
    provider: Arc<Provider>,
}

/// A workspace, as its sign-in shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    pub id: TenantId,
    pub slug: String,
    pub name: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: TenantId,
    slug: String,
    name: String,
    issuer: String,
    client_id: String,
    client_secret: Vec<u8>,
}

impl OwnProviders {
    /// `loopback`: whether they may be on this machine, in development.
    pub fn new(loopback: bool) -> Self {
        Self { web: Web::for_strangers(loopback), kept: Cache::new(MOST) }
    }

    /// How such a provider is asked.
    pub fn web(&self) -> &Web {
        &self.web
    }
}

impl Identity {
    /// The provider of a workspace's own.
    ///
    /// # Errors
    /// `not_found`, one answer for a workspace that is not there (any more) and one without a provider.
    pub async fn own_provider(&self, tenant: &TenantRef) -> Result<(Workspace, Arc<Provider>)> {
        let (slug, id) = match tenant {
            TenantRef::Slug(slug) => (Some(slug), None),
            TenantRef::Id(id) => (None, Some(id)),
        };
        let row: Option<Row> = sqlx::query_as(
            "SELECT t.id, t.slug, t.name, s.issuer, s.client_id, s.client_secret
               FROM tenant_sso s JOIN tenant t ON t.id = s.tenant
              WHERE t.state = 'active' AND (t.slug = $1 OR t.id = $2)",
        )
        .bind(slug)
        .bind(id)
        .fetch_optional(&self.cp.db)
        .await?;
        let row = row.ok_or_else(|| {
            Error::new(&codes::NOT_FOUND)
                .detail("there is no such workspace, or it has no sign-in of its own")
                .hint("ask an admin of your workspace how to sign in")
        })?;
        let workspace = Workspace { id: row.id, slug: row.slug, name: row.name };
        if let Some(kept) = self.own.kept.get(&row.id)
            && kept.secret == row.client_secret
            && kept.workspace == workspace
        {
            return Ok((workspace, kept.provider.clone()));
        }
        let plain = self.master.open(Use::ClientSecret, row.id.to_string().as_bytes(), &row.client_secret)?;
        let client_secret = SecretString::from(String::from_utf8(plain).map_err(Error::internal)?);
        let registration = Registration {
            id: sso_method(row.id),
            name: workspace.name.clone(),
            kind: ProviderKind::Oidc,
            issuer: row.issuer,
            client_id: row.client_id,
            client_secret,
            api_url: None,
        };
        let provider = Arc::new(Provider::new(registration, self.own.web.clone()));
        let kept =
            Kept { secret: row.client_secret, workspace: workspace.clone(), provider: provider.clone() };
        self.own.kept.insert(row.id, Arc::new(kept));
        Ok((workspace, provider))
    }
}

/// The workspace whose own provider people with an address of this domain sign in with: the one that has proven it.
pub async fn own_by_domain(conn: &mut PgConnection, domain: &str) -> Result<Option<TenantId>> {
    Ok(sqlx::query_scalar(
        "SELECT d.tenant FROM email_domain d JOIN tenant_sso s ON s.tenant = d.tenant JOIN tenant t ON t.id = d.tenant
          WHERE d.domain = $1 AND d.verified_at IS NOT NULL AND t.state = 'active'",
    )
    .bind(domain)
    .fetch_optional(conn)
    .await?)
}

/// Whether a workspace's own provider leads to this account already.
pub async fn own_is_linked(conn: &mut PgConnection, tenant: TenantId, account: AccountId) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM account_identity i JOIN tenant_sso s ON s.tenant = i.tenant AND s.issuer = i.issuer
                         WHERE i.tenant = $1 AND i.account = $2)",
    )
    .bind(tenant)
    .bind(account)
    .fetch_one(conn)
    .await?)
}
