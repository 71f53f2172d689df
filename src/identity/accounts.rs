//! People, and the providers that vouch for them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::password::PROVIDER;
use super::sso;
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::changes::{self, Change};
use crate::db::error::violated;
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::{Error, Result, codes};

/// A person.
#[derive(Clone, Debug, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    pub email: Option<String>,
    /// A provider, or a mail that was answered, says that the address is theirs.
    pub email_verified: bool,
    pub created_at: DateTime<Utc>,
}

/// What a provider said of a person, after everything about its word was checked.
#[derive(Clone, Debug)]
pub struct Vouched {
    pub issuer: String,
    pub subject: String,
    /// The provider's id in the configuration, or `sso:<tenant>`.
    pub provider: String,
    pub name: Option<String>,
    pub email: Option<String>,
    /// Only what the provider itself verified counts.
    pub email_verified: bool,
}

impl Vouched {
    /// The workspace whose own provider says it. Its word is about that workspace's people: the same (issuer, subject)
    /// from anybody else is somebody else.
    pub fn tenant(&self) -> Option<TenantId> {
        sso::tenant_of(&self.provider)
    }
}

/// A provider that an account is linked to.
#[derive(Clone, Debug, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Link {
    pub issuer: String,
    pub subject: String,
    /// The provider's id, or whose own it is.
    pub provider: String,
    pub email: Option<String>,
    pub linked_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
}

/// The account of this id, unless it was erased.
pub async fn account_by_id(conn: &mut PgConnection, id: AccountId) -> Result<Account> {
    sqlx::query_as(
        "SELECT id, name, email, email_verified, created_at FROM account WHERE id = $1 AND deleted_at IS NULL",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND))
}

/// The account that this provider's word leads to. The address plays no part.
pub async fn account_by_link(conn: &mut PgConnection, vouched: &Vouched) -> Result<Option<AccountId>> {
    Ok(sqlx::query_scalar(
        "SELECT account FROM account_identity
          WHERE issuer = $1 AND subject = $2 AND tenant IS NOT DISTINCT FROM $3",
    )
    .bind(&vouched.issuer)
    .bind(&vouched.subject)
    .bind(vouched.tenant())
    .fetch_optional(conn)
    .await?)
}

/// Signs a person in: the account of (issuer, subject), made now if there is none. Tells whether it is new.
///
/// What the provider says of the address is kept beside the link; the account takes it over when it has no verified one.
pub async fn account_enter(
    conn: &mut PgConnection,
    vouched: &Vouched,
    now: DateTime<Utc>,
) -> Result<(AccountId, bool)> {
    if let Some(account) = link_touch(&mut *conn, vouched, now).await? {
        account_learn(conn, account, vouched, now).await?;
        return Ok((account, false));
    }
    let account = account_create(&mut *conn, vouched, now).await?;
    // Two first sign-ins at once: one makes the link, the other finds it and leaves its account behind in a rollback.
    link_add(conn, account, vouched, now).await?;
    Ok((account, true))
}

async fn link_touch(
    conn: &mut PgConnection,
    vouched: &Vouched,
    now: DateTime<Utc>,
) -> Result<Option<AccountId>> {
    Ok(sqlx::query_scalar(
        "UPDATE account_identity SET last_used_at = $3, email = $4, email_verified = $5
          WHERE issuer = $1 AND subject = $2 AND tenant IS NOT DISTINCT FROM $6 RETURNING account",
    )
    .bind(&vouched.issuer)
    .bind(&vouched.subject)
    .bind(now)
    .bind(&vouched.email)
    .bind(vouched.email_verified)
    .bind(vouched.tenant())
    .fetch_optional(conn)
    .await?)
}

async fn account_learn(
    conn: &mut PgConnection,
    account: AccountId,
    vouched: &Vouched,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query(
        "UPDATE account SET email = $2, email_verified = true, updated_at = $3
          WHERE id = $1 AND NOT email_verified AND $4",
    )
    .bind(account)
    .bind(&vouched.email)
    .bind(now)
    .bind(vouched.email_verified && vouched.email.is_some())
    .execute(conn)
    .await?;
    Ok(())
}

async fn account_create(conn: &mut PgConnection, vouched: &Vouched, now: DateTime<Utc>) -> Result<AccountId> {
    let id = AccountId::new();
    sqlx::query(
        "INSERT INTO account (id, name, email, email_verified, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5)",
    )
    .bind(id)
    .bind(display_name(vouched))
    .bind(&vouched.email)
    .bind(vouched.email_verified && vouched.email.is_some())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(id)
}

/// What a person is called when the provider gives no usable name: the address without its domain, or "New member".
fn display_name(vouched: &Vouched) -> String {
    let clean = |text: &str| {
        let text: String = text.chars().filter(|c| !c.is_control()).take(120).collect();
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let local = || vouched.email.as_deref().and_then(|email| email.split('@').next()).and_then(clean);
    vouched.name.as_deref().and_then(clean).or_else(local).unwrap_or_else(|| "New member".to_owned())
}

/// Adds a provider to an account.
///
/// # Errors
/// `conflict` when that (issuer, subject) is another account's already.
pub async fn link_add(
    conn: &mut PgConnection,
    account: AccountId,
    vouched: &Vouched,
    now: DateTime<Utc>,
) -> Result<()> {
    let added = sqlx::query(
        "INSERT INTO account_identity
             (issuer, subject, account, provider, email, email_verified, linked_at, last_used_at, tenant)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)",
    )
    .bind(&vouched.issuer)
    .bind(&vouched.subject)
    .bind(account)
    .bind(&vouched.provider)
    .bind(&vouched.email)
    .bind(vouched.email_verified)
    .bind(now)
    .bind(vouched.tenant())
    .execute(conn)
    .await;
    match added {
        Ok(_) => Ok(()),
        Err(error) if violated(&error) == Some("account_identity_one") => {
            Err(Error::new(&codes::CONFLICT).detail("that sign-in belongs to another account").source(error))
        }
        Err(error) => Err(error.into()),
    }
}

/// An account's providers, first linked first.
pub async fn link_list(conn: &mut PgConnection, account: AccountId) -> Result<Vec<Link>> {
    Ok(sqlx::query_as(
        "SELECT i.issuer, i.subject, coalesce('the sign-in of ' || t.name, i.provider) AS provider, i.email,
                i.linked_at, i.last_used_at
           FROM account_identity i LEFT JOIN tenant t ON t.id = i.tenant
          WHERE i.account = $1 ORDER BY i.linked_at, i.issuer, i.subject",
    )
    .bind(account)
    .fetch_all(conn)
    .await?)
}

/// Takes a provider's word from an account.
///
/// # Errors
/// `not_found`; `state_conflict` when it is the last way in. The caller rolls back.
pub async fn link_remove(
    conn: &mut PgConnection,
    caller: &Caller,
    account: AccountId,
    issuer: &str,
    subject: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    // The account's row is the lock: two removals at once must not both see the other's link.
    sqlx::query("SELECT id FROM account WHERE id = $1 FOR UPDATE").bind(account).execute(&mut *conn).await?;
    let removed: Option<String> = sqlx::query_scalar(
        "DELETE FROM account_identity WHERE account = $1 AND issuer = $2 AND subject = $3 RETURNING provider",
    )
    .bind(account)
    .bind(issuer)
    .bind(subject)
    .fetch_optional(&mut *conn)
    .await?;
    let removed = removed.ok_or_else(|| Error::new(&codes::NOT_FOUND))?;
    if removed == PROVIDER {
        sqlx::query("DELETE FROM account_password WHERE account = $1")
            .bind(account)
            .execute(&mut *conn)
            .await?;
    }
    // A password counts as well: this site vouches for it as a provider does. A workspace's own provider does not: it opens
    // that workspace, not the account.
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM account_identity WHERE account = $1 AND tenant IS NULL")
            .bind(account)
            .fetch_one(&mut *conn)
            .await?;
    if left == 0 {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail("this is the only way into your account")
            .hint("link another sign-in first"));
    }
    let detail = json!({ "issuer": issuer });
    audit_add(conn, caller, now, "account.unlink", None, &account.to_string(), detail).await
}

/// The addresses that are proven to be this person's, in lower case.
pub(super) async fn addresses_of(conn: &mut PgConnection, account: AccountId) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT lower(email) FROM account WHERE id = $1 AND email_verified AND email IS NOT NULL
         UNION SELECT lower(email) FROM account_identity
                WHERE account = $1 AND email_verified AND email IS NOT NULL
         UNION SELECT email FROM account_password WHERE account = $1",
    )
    .bind(account)
    .fetch_all(conn)
    .await?)
}

/// The names of these people, by their ids; of accounts that are still there.
pub async fn names_of(
    conn: &mut PgConnection,
    ids: &[AccountId],
) -> Result<std::collections::HashMap<String, String>> {
    let rows: Vec<(AccountId, String)> =
        sqlx::query_as("SELECT id, name FROM account WHERE id = ANY($1) AND deleted_at IS NULL")
            .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().map(|(id, name)| (id.to_string(), name)).collect())
}

/// Gives an account another name.
pub async fn account_rename(
    conn: &mut PgConnection,
    account: AccountId,
    name: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query("UPDATE account SET name = $2, updated_at = $3 WHERE id = $1 AND deleted_at IS NULL")
        .bind(account)
        .bind(name)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    Ok(changes::notify(conn, Change::Account(account)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_or_made() {
        let vouched = |name: Option<&str>, email: Option<&str>| Vouched {
            issuer: "i".into(),
            subject: "s".into(),
            provider: "p".into(),
            name: name.map(Into::into),
            email: email.map(Into::into),
            email_verified: false,
        };
        assert_eq!(display_name(&vouched(Some(" Ada\u{7}\n"), None)), "Ada");
        assert_eq!(display_name(&vouched(Some(" "), Some("ada@example.com"))), "ada");
        assert_eq!(display_name(&vouched(None, None)), "New member");
        assert_eq!(display_name(&vouched(Some(&"x".repeat(300)), None)).len(), 120);
    }
}
