//! A workspace's own OpenID provider, and whether it is the only way in.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::accounts::account_by_id;
use super::domains::{admins_only, domain_of};
use super::members::By;
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::changes::{self, Change};
use crate::kernel::ids::{AccountId, SessionId, TenantId};
use crate::kernel::seal::Use;
use crate::kernel::{Error, Result, Role, codes};

/// A workspace's provider, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Sso {
    pub issuer: String,
    pub client_id: String,
    /// People with an address of a proven domain get in by this provider only.
    pub enforced: bool,
    /// The role of those who come for the first time; null: only people who are members already.
    pub join_role: Option<Role>,
    pub updated_at: DateTime<Utc>,
}

/// What a provider is to be. Whether it answers is asked before.
#[derive(Clone)]
pub struct NewSso {
    pub issuer: String,
    pub client_id: String,
    pub client_secret: SecretString,
    pub join_role: Option<Role>,
}

/// The `method` of sessions that this workspace's own provider vouched for. It names the workspace: another's provider
/// is no proof here.
pub fn sso_method(tenant: TenantId) -> String {
    format!("sso:{tenant}")
}

/// # Errors
/// `not_found` where none is set up.
pub async fn sso_get(conn: &mut PgConnection, tenant: TenantId) -> Result<Sso> {
    sqlx::query_as(
        "SELECT issuer, client_id, enforced, join_role, updated_at FROM tenant_sso WHERE tenant = $1",
    )
    .bind(tenant)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND))
}

/// Sets the provider up, or changes it. A changed one is not required any more until somebody says so again.
///
/// # Errors
/// `forbidden` below admin; `invalid_fields`.
pub async fn sso_set(
    identity: &Identity,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    new: &NewSso,
) -> Result<Sso> {
    admins_only(by)?;
    for (field, text, most) in [
        ("issuer", new.issuer.as_str(), 512),
        ("client_id", new.client_id.as_str(), 512),
        ("client_secret", new.client_secret.expose_secret(), 2_000),
    ] {
        if text.is_empty() || text.len() > most {
            return Err(Error::field(field, format!("has 1 to {most} bytes")));
        }
    }
    if new.join_role.is_some_and(|role| role > Role::Member) {
        return Err(Error::field("join_role", "is viewer or member"));
    }
    let now = identity.cp.clock.now();
    let sealed = identity.master.seal(
        Use::ClientSecret,
        tenant.to_string().as_bytes(),
        &identity.cp.entropy,
        new.client_secret.expose_secret().as_bytes(),
    );
    let mut tx = identity.cp.db.begin().await?;
    sqlx::query(
        "INSERT INTO tenant_sso (tenant, issuer, client_id, client_secret, join_role, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $6)
         ON CONFLICT (tenant) DO UPDATE SET issuer = $2, client_id = $3, client_secret = $4, join_role = $5,
                updated_at = $6, enforced = false",
    )
    .bind(tenant)
    .bind(&new.issuer)
    .bind(&new.client_id)
    .bind(sealed)
    .bind(new.join_role)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let detail = json!({ "issuer": new.issuer, "client_id": new.client_id, "join_role": new.join_role });
    audit_add(&mut tx, caller, now, "sso.set", Some(tenant), &tenant.to_string(), detail).await?;
    let sso = sso_get(&mut tx, tenant).await?;
    tx.commit().await?;
    Ok(sso)
}

/// The secret at the provider, for a sign-in.
///
/// # Errors
/// `not_found` where none is set up.
pub async fn sso_secret(identity: &Identity, tenant: TenantId) -> Result<SecretString> {
    let sealed: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT client_secret FROM tenant_sso WHERE tenant = $1")
            .bind(tenant)
            .fetch_optional(&identity.cp.db)
            .await?;
    let sealed = sealed.ok_or_else(|| Error::new(&codes::NOT_FOUND))?;
    let plain = identity.master.open(Use::ClientSecret, tenant.to_string().as_bytes(), &sealed)?;
    Ok(SecretString::from(String::from_utf8(plain).map_err(Error::internal)?))
}

/// Requires the provider of everybody with an address of a proven domain, or no longer. Those of them who are here by
/// another way are signed out of this workspace.
///
/// # Errors
/// `forbidden` below owner; `not_found`; `state_conflict` without a proven domain, or when the one who asks is not here by
/// this provider: then nobody knows that it works, and the door might shut for good.
pub async fn sso_enforce(
    identity: &Identity,
    caller: &Caller,
    (by, session): (By, Option<SessionId>),
    tenant: TenantId,
    enforced: bool,
) -> Result<Sso> {
    if by.role < Role::Owner {
        return Err(Error::new(&codes::FORBIDDEN));
    }
    let now = identity.cp.clock.now();
    let mut tx = identity.cp.db.begin().await?;
    sqlx::query("SELECT id FROM tenant WHERE id = $1 FOR NO KEY UPDATE")
        .bind(tenant)
        .execute(&mut *tx)
        .await?;
    let known = sso_get(&mut tx, tenant).await?;
    if enforced {
        let proven: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM email_domain WHERE tenant = $1 AND verified_at IS NOT NULL)",
        )
        .bind(tenant)
        .fetch_one(&mut *tx)
        .await?;
        if !proven {
            return Err(Error::new(&codes::STATE_CONFLICT)
                .detail("there is no proven mail domain that it could be required of"));
        }
        let mine: Option<String> = sqlx::query_scalar("SELECT method FROM session WHERE id = $1")
            .bind(session)
            .fetch_optional(&mut *tx)
            .await?;
        if mine != Some(sso_method(tenant)) {
            return Err(Error::new(&codes::STATE_CONFLICT)
                .detail("you are not here by this provider, so nobody knows that it works")
                .hint("sign in with it once, then require it"));
        }
    }
    sqlx::query("UPDATE tenant_sso SET enforced = $2, updated_at = $3 WHERE tenant = $1")
        .bind(tenant)
        .bind(enforced)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    if enforced {
        let out: Vec<AccountId> = sqlx::query_scalar(
            "UPDATE session s SET revoked_at = $2
               FROM account a, email_domain d
              WHERE s.tenant = $1 AND s.revoked_at IS NULL AND s.method <> $3 AND a.id = s.account
                AND a.email_verified AND d.tenant = $1 AND d.verified_at IS NOT NULL
                AND d.domain = lower(substring(a.email from '[^@]*$'))
             RETURNING s.account",
        )
        .bind(tenant)
        .bind(now)
        .bind(sso_method(tenant))
        .fetch_all(&mut *tx)
        .await?;
        for account in out {
            changes::notify(&mut tx, Change::Account(account)).await?;
        }
    }
    let detail = json!({ "enforced": enforced });
    audit_add(&mut tx, caller, now, "sso.enforce", Some(tenant), &tenant.to_string(), detail).await?;
    tx.commit().await?;
    Ok(Sso { enforced, updated_at: now, ..known })
}

/// Whether a session that was begun by this method may enter the workspace. Asked at every way in: the hand-off to the
/// workspace's host, and before a token for it is made.
///
/// # Errors
/// `forbidden` where the workspace's own provider is required.
pub async fn sso_allows(
    conn: &mut PgConnection,
    tenant: TenantId,
    account: AccountId,
    method: &str,
) -> Result<()> {
    let domains: Vec<String> = sqlx::query_scalar(
        "SELECT d.domain FROM tenant_sso s JOIN email_domain d ON d.tenant = s.tenant
          WHERE s.tenant = $1 AND s.enforced AND d.verified_at IS NOT NULL",
    )
    .bind(tenant)
    .fetch_all(&mut *conn)
    .await?;
    if domains.is_empty() || method == sso_method(tenant) {
        return Ok(());
    }
    let person = account_by_id(conn, account).await?;
    let theirs = person.email.filter(|_| person.email_verified).as_deref().and_then(domain_of);
    if theirs.is_none_or(|theirs| !domains.contains(&theirs)) {
        return Ok(());
    }
    Err(Error::new(&codes::FORBIDDEN).detail("this workspace wants you to sign in with its own provider"))
}

/// The same, of a session.
///
/// # Errors
/// As [`sso_allows`]; `sign_in_required` for a session that is not this account's.
pub async fn sso_allows_session(
    conn: &mut PgConnection,
    tenant: TenantId,
    account: AccountId,
    session: SessionId,
) -> Result<()> {
    let method: Option<String> =
        sqlx::query_scalar("SELECT method FROM session WHERE id = $1 AND account = $2")
            .bind(session)
            .bind(account)
            .fetch_optional(&mut *conn)
            .await?;
    let method = method.ok_or_else(|| Error::new(&codes::SIGN_IN_REQUIRED))?;
    sso_allows(conn, tenant, account, &method).await
}
