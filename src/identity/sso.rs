//! A workspace's own OpenID provider, and whether it is the only way in.
//!
//! The workspace runs the provider, so it can say of anybody what it likes. Therefore its word is about this workspace and
//! nothing else: an account that it vouched for is another than one that somebody else vouched for with the same (issuer,
//! subject); a session that it began enters this workspace only, and touches no account ([`tenant_of`]); an address that
//! it calls verified is believed in the workspace's proven domains only ([`within`]).

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::accounts::{Vouched, account_by_id};
use super::domains::{admins_only, domain_of};
use super::invitations::seats_locked;
use super::members::{By, member_add};
use super::oidc::discovery;
use super::oidc::web::{Web, WebError};
use super::sessions::session_is_fresh;
use super::throttle::{self, Rate};
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::changes::{self, Change};
use crate::control_plane::tenants::tenant_hold;
use crate::kernel::ids::{AccountId, SessionId, TenantId};
use crate::kernel::seal::Use;
use crate::kernel::{Error, Result, Role, codes};

/// Providers that one workspace may have us ask about.
const LOOK_UPS: Rate = Rate { every: TimeDelta::seconds(10), burst: 20 };
const METHOD: &str = "sso:";

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
    format!("{METHOD}{tenant}")
}

/// The workspace whose own provider a session's `method` (or a link's provider) is of; none for all other ways in.
pub fn tenant_of(method: &str) -> Option<TenantId> {
    method.strip_prefix(METHOD)?.parse().ok()
}

/// # Errors
/// `not_found` where none is set up.
pub async fn sso_get(conn: &mut PgConnection, tenant: TenantId) -> Result<Sso> {
    sso_find(conn, tenant).await?.ok_or_else(|| Error::new(&codes::NOT_FOUND))
}

/// A workspace's provider, if it has one.
pub async fn sso_find(conn: &mut PgConnection, tenant: TenantId) -> Result<Option<Sso>> {
    Ok(sqlx::query_as(
        "SELECT issuer, client_id, enforced, join_role, updated_at FROM tenant_sso WHERE tenant = $1",
    )
    .bind(tenant)
    .fetch_optional(conn)
    .await?)
}

/// Asks a provider about itself, then sets it up. No transaction is open meanwhile.
///
/// # Errors
/// As [`sso_set`]; `invalid_fields` for an issuer that is not where a provider says who it is; `rate_limited`.
pub async fn sso_connect(
    identity: &Identity,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    new: &NewSso,
) -> Result<Sso> {
    admins_only(by)?;
    new.check()?;
    let now = identity.cp.clock.now();
    throttle::take(&mut *identity.cp.db.acquire().await?, &format!("sso:{tenant}"), LOOK_UPS, now).await?;
    known_to_itself(identity.own.web(), &new.issuer).await?;
    sso_set(identity, caller, by, tenant, new).await
}

/// What is behind the address is not told: only whether it is a provider.
async fn known_to_itself(web: &Web, issuer: &str) -> Result<()> {
    let why = match discovery::look(web, issuer).await {
        Ok(_) => return Ok(()),
        Err(WebError::Address(other)) if web.address(&other).is_ok() => {
            "the provider says that it has another name; write it exactly as in its own document"
        }
        Err(WebError::Address(_)) => "is an https address on the open internet, and so is all that it names",
        Err(error) => {
            tracing::info!(%error, issuer, "a workspace's provider did not say who it is");
            "no OpenID provider answers there, at /.well-known/openid-configuration"
        }
    };
    Err(Error::field("issuer", why))
}

impl NewSso {
    fn check(&self) -> Result<()> {
        for (field, text, most) in [
            ("issuer", self.issuer.as_str(), 512),
            ("client_id", self.client_id.as_str(), 512),
            ("client_secret", self.client_secret.expose_secret(), 2_000),
        ] {
            if text.is_empty() || text.len() > most || text.chars().any(char::is_control) {
                return Err(Error::field(field, format!("has 1 to {most} bytes")));
            }
        }
        if self.join_role.is_some_and(|role| role > Role::Member) {
            return Err(Error::field("join_role", "is viewer or member"));
        }
        Ok(())
    }
}

/// Sets the provider up, or changes it. A changed one is not required any more until somebody says so again; of another
/// issuer, it ends what the old one began.
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
    new.check()?;
    let now = identity.cp.clock.now();
    let sealed = identity.master.seal(
        Use::ClientSecret,
        tenant.to_string().as_bytes(),
        &identity.cp.entropy,
        new.client_secret.expose_secret().as_bytes(),
    );
    let mut tx = identity.cp.db.begin().await?;
    let before: Option<String> =
        sqlx::query_scalar("SELECT issuer FROM tenant_sso WHERE tenant = $1 FOR UPDATE")
            .bind(tenant)
            .fetch_optional(&mut *tx)
            .await?;
    if before.is_some_and(|before| before != new.issuer) {
        sessions_end(&mut tx, tenant, now).await?;
    }
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

/// Takes the provider away, and ends every session that it began.
///
/// # Errors
/// `forbidden` below owner; `not_found`.
pub async fn sso_remove(identity: &Identity, caller: &Caller, by: By, tenant: TenantId) -> Result<()> {
    if by.role < Role::Owner {
        return Err(Error::new(&codes::FORBIDDEN));
    }
    let now = identity.cp.clock.now();
    let mut tx = identity.cp.db.begin().await?;
    let issuer: Option<String> =
        sqlx::query_scalar("DELETE FROM tenant_sso WHERE tenant = $1 RETURNING issuer")
            .bind(tenant)
            .fetch_optional(&mut *tx)
            .await?;
    let issuer = issuer.ok_or_else(|| Error::new(&codes::NOT_FOUND))?;
    sessions_end(&mut tx, tenant, now).await?;
    let detail = json!({ "issuer": issuer });
    audit_add(&mut tx, caller, now, "sso.remove", Some(tenant), &tenant.to_string(), detail).await?;
    tx.commit().await?;
    Ok(())
}

async fn sessions_end(conn: &mut PgConnection, tenant: TenantId, now: DateTime<Utc>) -> Result<()> {
    let out: Vec<AccountId> = sqlx::query_scalar(
        "UPDATE session SET revoked_at = $2 WHERE method = $1 AND revoked_at IS NULL RETURNING account",
    )
    .bind(sso_method(tenant))
    .bind(now)
    .fetch_all(&mut *conn)
    .await?;
    for account in out {
        changes::notify(&mut *conn, Change::Account(account)).await?;
    }
    Ok(())
}

/// What a provider of a workspace's own said, as far as it is believed: an address counts as verified only in a domain that
/// the workspace has proven to be its own. Otherwise it could vouch for anybody's address, and so join what is open to
/// that address.
pub async fn within(conn: &mut PgConnection, vouched: &Vouched) -> Result<Vouched> {
    let mut believed = vouched.clone();
    let Some(tenant) = vouched.tenant() else { return Ok(believed) };
    if !believed.email_verified {
        return Ok(believed);
    }
    let domain = believed.email.as_deref().and_then(domain_of);
    believed.email_verified = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM email_domain WHERE tenant = $1 AND domain = $2 AND verified_at IS NOT NULL)",
    )
    .bind(tenant)
    .bind(domain)
    .fetch_one(conn)
    .await?;
    Ok(believed)
}

/// A seat for somebody whom the workspace's own provider sent: the one they have, or a new one if the workspace wants that.
/// Who has none, and none open to them by invitation, stays outside, and is no account.
///
/// # Errors
/// `forbidden`; `payment_required` without a free seat.
pub(super) async fn sso_seat(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<()> {
    let (seated, invited, join_role): (bool, bool, Option<Role>) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM membership WHERE tenant = $1 AND account = $2),
                EXISTS (SELECT FROM invitation i JOIN account a ON lower(a.email) = i.email
                         WHERE i.tenant = $1 AND a.id = $2 AND a.email_verified AND i.accepted_at IS NULL
                           AND i.revoked_at IS NULL AND i.expires_at > $3),
                (SELECT join_role FROM tenant_sso WHERE tenant = $1)",
    )
    .bind(tenant)
    .bind(account)
    .bind(now)
    .fetch_one(&mut *conn)
    .await?;
    match join_role {
        _ if seated => Ok(()),
        Some(role) => {
            let seats = seats_locked(&mut *conn, tenant, now).await?;
            seats.need(seats.taken + 1)?;
            member_add(conn, caller, tenant, account, role, None, now).await.map(drop)
        }
        None if invited => Ok(()),
        None => Err(Error::new(&codes::FORBIDDEN)
            .detail("you are signed in, and you have no seat in this workspace")
            .hint(
                "ask one of its admins to invite you; if you have a seat by another sign-in, connect the two",
            )),
    }
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
    tenant_hold(&mut tx, tenant).await?;
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
        let fresh = match (by.account, session) {
            (Some(account), Some(session)) => session_is_fresh(&mut tx, account, session, now).await.is_ok(),
            _ => false,
        };
        if mine != Some(sso_method(tenant)) || !fresh {
            return Err(Error::new(&codes::STATE_CONFLICT)
                .detail("you have not just signed in with this provider, so nobody knows that it works")
                .hint("sign in with it, then require it within five minutes"));
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
/// `forbidden` where the workspace's own provider is required, and for a session that another workspace's provider began.
pub async fn sso_allows(
    conn: &mut PgConnection,
    tenant: TenantId,
    account: AccountId,
    method: &str,
) -> Result<()> {
    if tenant_of(method).is_some_and(|theirs| theirs != tenant) {
        return Err(Error::new(&codes::FORBIDDEN)
            .detail("you are here by another workspace's own sign-in, which opens that workspace only")
            .hint("sign in with a provider of your own"));
    }
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

/// The same, of a session that has just begun at the workspace's host: the rule may have changed since the way there began.
///
/// # Errors
/// As [`sso_allows`].
pub async fn sso_allows_started(conn: &mut PgConnection, tenant: TenantId, session: SessionId) -> Result<()> {
    let (account, method): (AccountId, String) =
        sqlx::query_as("SELECT account, method FROM session WHERE id = $1")
            .bind(session)
            .fetch_one(&mut *conn)
            .await?;
    sso_allows(conn, tenant, account, &method).await
}
