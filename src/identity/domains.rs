//! Mail domains that a workspace has proven to be its own, by a TXT record. Its people may then join by themselves, if
//! the workspace wants that, and its own sign-in may be required of them (`sso`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::accounts::account_by_id;
use super::invitations::seats_locked;
use super::members::{By, member_add};
use super::throttle::{self, Rate};
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::tenants::tenant_hold;
use crate::db::on_constraint;
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::{Error, Result, Role, codes};

/// Domains of one workspace.
const MOST: i64 = 20;
/// Look-ups that one workspace may ask for.
const LOOK_UPS: Rate = Rate { every: TimeDelta::seconds(30), burst: 10 };
/// The longest a look-up may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most records of one name that are looked at.
const MOST_RECORDS: usize = 100;
/// Where anybody has an address: such a domain is nobody's own. Not complete, and it need not be: the record is the proof.
const PUBLIC: [&str; 12] = [
    "gmail.com",
    "googlemail.com",
    "outlook.com",
    "hotmail.com",
    "live.com",
    "yahoo.com",
    "icloud.com",
    "me.com",
    "proton.me",
    "protonmail.com",
    "gmx.de",
    "gmx.net",
];

/// The TXT records of a name, each with its parts joined; none when there is no such name.
pub type TxtLookup =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Vec<String>>> + Send>> + Send + Sync>;

/// A mail domain of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct EmailDomain {
    pub domain: String,
    /// What the TXT record at `_freehold.<domain>` has to say.
    pub challenge: String,
    pub created_at: DateTime<Utc>,
    pub verified_at: Option<DateTime<Utc>>,
    /// The role of those who join by themselves; null: nobody does.
    pub join_role: Option<Role>,
}

/// Which part of a workspace's domains to list: they are few and come whole.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DomainFilter {
    pub limit: Option<u32>,
}

impl DomainFilter {
    /// # Errors
    /// `invalid_fields` for a limit that no list takes.
    pub fn check(&self) -> Result<()> {
        crate::kernel::page::limit(self.limit).map(drop)
    }
}

/// Where the proof stands.
pub fn record_name(domain: &str) -> String {
    format!("_freehold.{domain}")
}

/// A domain as it is kept: in lower case, in ASCII, without a last dot.
///
/// # Errors
/// `invalid_fields` for what is no domain name below another, and for a public mail service.
pub fn normal(domain: &str) -> Result<String> {
    let domain = domain.trim().trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let top = domain.rsplit('.').next().unwrap_or_default();
    let named = top.bytes().any(|b| b.is_ascii_lowercase());
    if domain.len() > 240 || domain.split('.').count() < 2 || !domain.split('.').all(label) || !named {
        return Err(Error::field("domain", "is not a domain name, as example.com is one"));
    }
    if PUBLIC.contains(&domain.as_str()) {
        return Err(Error::field("domain", "belongs to a public mail service"));
    }
    Ok(domain)
}

/// The domain of an address, in lower case. None for what is not plainly one address.
pub fn domain_of(email: &str) -> Option<String> {
    let (local, domain) = email.rsplit_once('@')?;
    (!local.is_empty() && !local.contains('@') && !domain.is_empty()).then(|| domain.to_ascii_lowercase())
}

/// A workspace's domains, by name.
pub async fn domain_list(conn: &mut PgConnection, tenant: TenantId) -> Result<Vec<EmailDomain>> {
    Ok(sqlx::query_as(
        "SELECT domain, challenge, created_at, verified_at, join_role FROM email_domain
          WHERE tenant = $1 ORDER BY domain",
    )
    .bind(tenant)
    .fetch_all(conn)
    .await?)
}

/// One domain.
///
/// # Errors
/// `not_found` for one that this workspace has not named, whoever else has.
pub async fn domain_get(conn: &mut PgConnection, tenant: TenantId, domain: &str) -> Result<EmailDomain> {
    sqlx::query_as(
        "SELECT domain, challenge, created_at, verified_at, join_role FROM email_domain
          WHERE tenant = $1 AND domain = $2",
    )
    .bind(tenant)
    .bind(domain)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND))
}

/// Names a domain, and says what its record has to be. Naming one twice changes nothing. Several workspaces may name the
/// same: only one can prove it.
///
/// # Errors
/// As [`normal`]; `forbidden` below admin; `rate_limited` for too many.
pub async fn domain_add(
    identity: &Identity,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    domain: &str,
) -> Result<EmailDomain> {
    admins_only(by)?;
    let (domain, now) = (normal(domain)?, identity.cp.clock.now());
    // Random and of this workspace alone: a record that was put there for another proves nothing here.
    let challenge = format!("freehold-verification={}", identity.cp.entropy.base32::<20>());
    let mut tx = identity.cp.db.begin().await?;
    let many: i64 = sqlx::query_scalar("SELECT count(*) FROM email_domain WHERE tenant = $1")
        .bind(tenant)
        .fetch_one(&mut *tx)
        .await?;
    if many >= MOST {
        return Err(Error::new(&codes::RATE_LIMITED).detail(format!("the workspace has {many} domains")));
    }
    let added = sqlx::query(
        "INSERT INTO email_domain (tenant, domain, challenge, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant, domain) DO NOTHING",
    )
    .bind(tenant)
    .bind(&domain)
    .bind(challenge)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    if added.rows_affected() == 1 {
        audit_add(&mut tx, caller, now, "domain.add", Some(tenant), &domain, json!({})).await?;
    }
    let added = domain_get(&mut tx, tenant, &domain).await?;
    tx.commit().await?;
    Ok(added)
}

/// Looks for the record. No transaction is open meanwhile.
///
/// # Errors
/// `state_conflict` while the record is not there or cannot be looked up; `conflict` when another workspace has proven
/// the domain; `rate_limited`.
pub async fn domain_verify(
    identity: &Identity,
    lookup: &TxtLookup,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    domain: &str,
) -> Result<EmailDomain> {
    admins_only(by)?;
    let now = identity.cp.clock.now();
    let mut conn = identity.cp.db.acquire().await?;
    let known = domain_get(&mut conn, tenant, domain).await?;
    if known.verified_at.is_some() {
        return Ok(known);
    }
    throttle::take(&mut conn, &format!("domains:{tenant}"), LOOK_UPS, now).await?;
    drop(conn);
    let name = record_name(&known.domain);
    let silent = || {
        Error::new(&codes::STATE_CONFLICT)
            .detail(format!("{name} cannot be looked up: the name servers of the domain do not answer"))
            .hint("try again in a few minutes")
    };
    let records = match tokio::time::timeout(PATIENCE, lookup(name.clone())).await {
        Ok(records) => records.map_err(|error| silent().source(error))?,
        Err(late) => return Err(silent().source(late)),
    };
    if !records.iter().take(MOST_RECORDS).any(|record| record.trim() == known.challenge) {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("there is no TXT record {name} that says what it should"))
            .hint(format!("set {name} to {}; it may take a while to be seen", known.challenge)));
    }
    let mut tx = identity.cp.db.begin().await?;
    sqlx::query(
        "UPDATE email_domain SET verified_at = $3
          WHERE tenant = $1 AND domain = $2 AND challenge = $4 AND verified_at IS NULL",
    )
    .bind(tenant)
    .bind(&known.domain)
    .bind(now)
    .bind(&known.challenge)
    .execute(&mut *tx)
    .await
    .map_err(on_constraint("email_domain_verified", &codes::CONFLICT))?;
    audit_add(&mut tx, caller, now, "domain.verify", Some(tenant), &known.domain, json!({})).await?;
    let verified = domain_get(&mut tx, tenant, &known.domain).await?;
    tx.commit().await?;
    Ok(verified)
}

/// Says which role people of the domain get who join by themselves; none: nobody does.
///
/// # Errors
/// `forbidden` below admin; `not_found`; `state_conflict` before the domain is proven; `invalid_fields` for a role above
/// member.
pub async fn domain_join_role(
    identity: &Identity,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    domain: &str,
    role: Option<Role>,
) -> Result<EmailDomain> {
    admins_only(by)?;
    if role.is_some_and(|role| role > Role::Member) {
        return Err(Error::field("join_role", "is viewer or member"));
    }
    let now = identity.cp.clock.now();
    let mut tx = identity.cp.db.begin().await?;
    let known = domain_get(&mut tx, tenant, domain).await?;
    if known.verified_at.is_none() {
        return Err(Error::new(&codes::STATE_CONFLICT).detail("this domain is not proven yet"));
    }
    sqlx::query("UPDATE email_domain SET join_role = $3 WHERE tenant = $1 AND domain = $2")
        .bind(tenant)
        .bind(domain)
        .bind(role)
        .execute(&mut *tx)
        .await?;
    audit_add(&mut tx, caller, now, "domain.join_role", Some(tenant), domain, json!({ "role": role }))
        .await?;
    tx.commit().await?;
    Ok(EmailDomain { join_role: role, ..known })
}

/// Gives a domain up.
///
/// # Errors
/// `forbidden` below admin; `not_found`; `state_conflict` for the last proven one while single sign-on is required.
pub async fn domain_remove(
    identity: &Identity,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    domain: &str,
) -> Result<()> {
    admins_only(by)?;
    let now = identity.cp.clock.now();
    let mut tx = identity.cp.db.begin().await?;
    // One after the other: two must not each take the last but one.
    tenant_hold(&mut tx, tenant).await?;
    domain_get(&mut tx, tenant, domain).await?;
    sqlx::query("DELETE FROM email_domain WHERE tenant = $1 AND domain = $2")
        .bind(tenant)
        .bind(domain)
        .execute(&mut *tx)
        .await?;
    let needed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM tenant_sso WHERE tenant = $1 AND enforced)
            AND NOT EXISTS (SELECT FROM email_domain WHERE tenant = $1 AND verified_at IS NOT NULL)",
    )
    .bind(tenant)
    .fetch_one(&mut *tx)
    .await?;
    if needed {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail("single sign-on is required, and this is the last domain it is required of"));
    }
    audit_add(&mut tx, caller, now, "domain.remove", Some(tenant), domain, json!({})).await?;
    tx.commit().await?;
    Ok(())
}

/// A workspace that somebody may join by themselves.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Joinable {
    pub tenant: TenantId,
    pub slug: String,
    pub name: String,
    pub join_role: Role,
}

/// The workspaces that an account may join: those that have proven the domain of its verified address and want it.
pub async fn joinable(conn: &mut PgConnection, account: AccountId) -> Result<Vec<Joinable>> {
    let person = account_by_id(&mut *conn, account).await?;
    let Some(domain) = person.email.filter(|_| person.email_verified).as_deref().and_then(domain_of) else {
        return Ok(Vec::new());
    };
    Ok(sqlx::query_as(
        "SELECT t.id AS tenant, t.slug, t.name, d.join_role
           FROM email_domain d JOIN tenant t ON t.id = d.tenant
          WHERE d.domain = $1 AND d.verified_at IS NOT NULL AND d.join_role IS NOT NULL AND t.state = 'active'
            AND NOT EXISTS (SELECT FROM membership m WHERE m.tenant = t.id AND m.account = $2)",
    )
    .bind(domain)
    .bind(account)
    .fetch_all(conn)
    .await?)
}

/// Takes a seat in a workspace of one's own mail domain.
///
/// # Errors
/// `not_found` for every workspace that this account may not join, there or not; `payment_required` without a free seat.
pub async fn join_by_domain(
    identity: &Identity,
    caller: &Caller,
    account: AccountId,
    tenant: TenantId,
) -> Result<()> {
    let now = identity.cp.clock.now();
    let mut tx = identity.cp.db.begin().await?;
    let open = joinable(&mut tx, account).await?.into_iter().find(|open| open.tenant == tenant);
    let open = open.ok_or_else(|| Error::new(&codes::NOT_FOUND))?;
    let seats = seats_locked(&mut tx, tenant, now).await?;
    seats.need(seats.taken + 1)?;
    member_add(&mut tx, caller, tenant, account, open.join_role, None, now).await?;
    tx.commit().await?;
    Ok(())
}

pub(super) fn admins_only(by: By) -> Result<()> {
    if by.role < Role::Admin { Err(Error::new(&codes::FORBIDDEN)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_kept_in_one_way_only() {
        for (text, kept) in [
            ("Example.COM", "example.com"),
            (" a.b-c.io. ", "a.b-c.io"),
            ("xn--bcher-kva.de", "xn--bcher-kva.de"),
        ] {
            assert_eq!(normal(text).unwrap(), kept);
        }
        for bad in [
            "",
            "com",
            "a..b",
            "-a.com",
            "a-.com",
            "a b.com",
            "a@b.com",
            "bücher.de",
            "127.0.0.1",
            "*.a.com",
            "a_b.com",
            "gmail.com",
            "Gmail.Com.",
            &format!("{}.com", "a".repeat(64)),
            &"a.".repeat(130),
        ] {
            assert!(normal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_has_the_domain_after_its_only_at() {
        assert_eq!(domain_of("ada@Example.com").as_deref(), Some("example.com"));
        for bad in ["ada", "@example.com", "ada@", "a@evil.com@example.com", "\"a@b\"@example.com"] {
            assert_eq!(domain_of(bad), None, "{bad}");
        }
    }
}
