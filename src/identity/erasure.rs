//! A person goes, and what is kept about them with them.
//!
//! In the control database that is one transaction: all of it, or nothing. What stays is the account's row without a name or
//! an address, as the end of references, and the audit log's lines, which name people by their id: what they say beyond that
//! is kept apart from them, and goes. What workspaces'
//! own tables say of the person is the product's to forget: a job for each workspace where they ever had a seat, noted in
//! `erasure` until it is done, so that neither a killed worker nor a suspended workspace makes it get lost.

use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::Identity;
use super::accounts::addresses_of;
use super::arrive::Here;
use super::members::goes_with_seat;
use super::sessions::session_is_fresh;
use crate::control_plane::ControlPlane;
use crate::control_plane::audit::{Caller, audit_add, audit_forget};
use crate::control_plane::changes::{self, Change};
use crate::jobs::queue::job_add;
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Result, codes};

/// The kind of the job in which a product forgets a person.
pub const JOB: &str = "forget_person";
/// What an erased person is called, here and in products.
pub const NOBODY: &str = "Former member";
/// Stands where an address was.
const NO_ADDRESS: &str = "erased@erased.invalid";
/// Jobs that are added in one round of [`remind`].
const AT_ONCE: i64 = 200;

/// The payload of a job of kind [`JOB`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Forget {
    pub account: AccountId,
}

impl Identity {
    /// Erases the account of the person who asks. `typed` is their address, or their name when they have none: nobody
    /// does this by a slip.
    ///
    /// # Errors
    /// `confirm_required` without a fresh sign-in; `invalid_fields` for another address; `state_conflict` for the last owner
    /// of a workspace.
    pub async fn account_erase(&self, caller: &Caller, here: Here, typed: &str) -> Result<()> {
        let (account, now) = (here.account, self.cp.clock.now());
        let mut tx = self.cp.db.begin().await?;
        session_is_fresh(&mut tx, account, here.session, now).await?;
        let person: Option<(String, Option<String>)> =
            sqlx::query_as("SELECT name, email FROM account WHERE id = $1 AND deleted_at IS NULL FOR UPDATE")
                .bind(account)
                .fetch_optional(&mut *tx)
                .await?;
        let (name, email) = person.ok_or_else(|| Error::new(&codes::SIGN_IN_REQUIRED))?;
        let wanted = email.unwrap_or(name);
        if typed.trim().to_lowercase() != wanted.to_lowercase() {
            return Err(Error::field("address", format!("type {wanted}")));
        }
        nobody_is_left_alone(&mut tx, account).await?;
        erase(&mut tx, caller, account, now).await?;
        Ok(tx.commit().await?)
    }
}

/// Refuses while a workspace would be left without an owner. Its members cannot change until the transaction ends.
async fn nobody_is_left_alone(conn: &mut PgConnection, account: AccountId) -> Result<()> {
    // In one order, so that two who go at once do not wait for each other.
    sqlx::query(
        "SELECT t.id FROM tenant t WHERE t.id IN (SELECT tenant FROM membership WHERE account = $1)
          ORDER BY t.id FOR NO KEY UPDATE",
    )
    .bind(account)
    .execute(&mut *conn)
    .await?;
    let alone: Vec<String> = sqlx::query_scalar(
        "SELECT t.name || ' (' || t.slug || ')' FROM membership m JOIN tenant t ON t.id = m.tenant
          WHERE m.account = $1 AND m.role = 'owner' AND t.state IN ('provisioning', 'active', 'suspended')
            AND NOT EXISTS (SELECT FROM membership o
                             WHERE o.tenant = m.tenant AND o.role = 'owner' AND o.account <> m.account)
          ORDER BY t.slug",
    )
    .bind(account)
    .fetch_all(conn)
    .await?;
    if alone.is_empty() {
        return Ok(());
    }
    Err(Error::new(&codes::STATE_CONFLICT)
        .detail(format!("you are the last owner of {}", alone.join(", ")))
        .hint("make another member the owner there, or have the workspace deleted; then come back"))
}

/// Everything that this database keeps about a person.
async fn erase(
    conn: &mut PgConnection,
    caller: &Caller,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<()> {
    let addresses = addresses_of(conn, account).await?;
    leave(conn, caller, account, now).await?;
    // Invitations to an address that is proven to be theirs; one that they only claim may be another's.
    sqlx::query(
        "UPDATE invitation SET email = $4,
                revoked_at = CASE WHEN accepted_at IS NULL THEN coalesce(revoked_at, $3) ELSE revoked_at END
          WHERE accepted_by = $1 OR email = ANY($2)",
    )
    .bind(account)
    .bind(&addresses)
    .bind(now)
    .bind(NO_ADDRESS)
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM password_link WHERE account = $1 OR email = ANY($2)")
        .bind(account)
        .bind(&addresses)
        .execute(&mut *conn)
        .await?;
    // Counts of tries go under hashes of addresses, and under the account's id.
    let mut counted: Vec<String> =
        addresses.iter().map(|address| HEXLOWER.encode(&sha256(address.as_bytes()))).collect();
    counted.push(account.to_string());
    for statement in [
        "DELETE FROM tries WHERE split_part(subject, ':', 2) = ANY($1)",
        "DELETE FROM throttle WHERE split_part(subject, ':', 2) = ANY($1)",
    ] {
        sqlx::query(statement).bind(&counted).execute(&mut *conn).await?;
    }
    for statement in [
        "DELETE FROM refresh_token WHERE session IN (SELECT id FROM session WHERE account = $1)",
        "DELETE FROM hand_off WHERE session IN (SELECT id FROM session WHERE account = $1)",
        "DELETE FROM device_code WHERE account = $1",
        "DELETE FROM second_step WHERE account = $1",
        "DELETE FROM sign_in WHERE account = $1",
        "DELETE FROM session WHERE account = $1",
        "DELETE FROM account_recovery_code WHERE account = $1",
        "DELETE FROM account_password WHERE account = $1",
        "DELETE FROM account_identity WHERE account = $1",
    ] {
        sqlx::query(statement).bind(account).execute(&mut *conn).await?;
    }
    sqlx::query(
        "UPDATE account SET name = $2, email = NULL, email_verified = false, locale = 'en', totp_secret = NULL,
                totp_since = NULL, totp_step = 0, updated_at = $3, deleted_at = $3
          WHERE id = $1",
    )
    .bind(account)
    .bind(NOBODY)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    audit_forget(&mut *conn, account, &addresses).await?;
    audit_add(&mut *conn, caller, now, "account.erase", None, &account.to_string(), json!({})).await?;
    Ok(changes::notify(conn, Change::Account(account)).await?)
}

/// Gives up every seat, and asks the product to forget the person wherever they ever had one.
async fn leave(
    conn: &mut PgConnection,
    caller: &Caller,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut seats: Vec<TenantId> =
        sqlx::query_scalar("DELETE FROM membership WHERE account = $1 RETURNING tenant")
            .bind(account)
            .fetch_all(&mut *conn)
            .await?;
    // In the order of their ids, as all who write lines of several workspaces do.
    seats.sort();
    for tenant in &seats {
        let detail = json!({ "erased": true });
        audit_add(&mut *conn, caller, now, "member.leave", Some(*tenant), &account.to_string(), detail)
            .await?;
        goes_with_seat(&mut *conn, caller, *tenant, account, None, now).await?;
    }
    // Each seat that was ever taken has a line in the log, which nobody can remove.
    let known_in: Vec<TenantId> = sqlx::query_scalar(
        "INSERT INTO erasure (tenant, account, asked_at)
         SELECT t.id, $1, $3 FROM tenant t
          WHERE t.state <> 'deleted'
            AND (t.id = ANY($4) OR t.id IN (SELECT tenant FROM audit
                                             WHERE action = 'member.join' AND subject = $2))
         ON CONFLICT DO NOTHING RETURNING tenant",
    )
    .bind(account)
    .bind(account.to_string())
    .bind(now)
    .bind(&seats)
    .fetch_all(&mut *conn)
    .await?;
    for tenant in known_in {
        ask(conn, tenant, account, now).await?;
    }
    Ok(())
}

async fn ask(
    conn: &mut PgConnection,
    tenant: TenantId,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<()> {
    let payload = serde_json::to_value(Forget { account }).map_err(Error::internal)?;
    job_add(conn, JOB, Some(tenant), Some(&format!("{tenant}:{account}")), payload, now).await
}

/// Asks again for what is not done: jobs that failed for good, and workspaces that were suspended and are back.
pub async fn remind(cp: &ControlPlane) -> Result<()> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    // One that waits already is not asked for twice: see the job's key.
    let open: Vec<(TenantId, AccountId)> = sqlx::query_as(
        "SELECT e.tenant, e.account FROM erasure e JOIN tenant t ON t.id = e.tenant
          WHERE t.state = 'active' ORDER BY e.asked_at, e.tenant, e.account LIMIT $1",
    )
    .bind(AT_ONCE)
    .fetch_all(&mut *tx)
    .await?;
    for (tenant, account) in open {
        ask(&mut tx, tenant, account, now).await?;
    }
    Ok(tx.commit().await?)
}

/// The product has forgotten this person in this workspace.
pub async fn forgotten(db: &PgPool, tenant: TenantId, account: AccountId) -> Result<()> {
    sqlx::query("DELETE FROM erasure WHERE tenant = $1 AND account = $2")
        .bind(tenant)
        .bind(account)
        .execute(db)
        .await?;
    Ok(())
}
