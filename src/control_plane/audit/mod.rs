//! The audit log: one line for each change, in the transaction that makes it, each linked to the one before.
//!
//! | file | holds |
//! |---|---|
//! | `mod` | writing a line; forgetting what it says of a person |
//! | `chain` | what a link covers. Pure |
//! | `list` | reading, filtered and in pages |
//! | `export` | reading all of it, as a file |
//! | `verify` | whether every chain is whole |
//!
//! **Locks.** A line takes the row of its chain's end and keeps it until the transaction ends. So a line is written late
//! in a transaction, after the rows it is about; a transaction that writes into several chains does so in the order of
//! their ids. What is written often has chains of its own: signing in is in the person's, making a tenant in the tenant's.

pub mod chain;
pub mod export;
pub mod list;
pub mod verify;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgConnection;

use crate::kernel::ids::{AccountId, AuditId, TenantId};
use crate::kernel::{Entropy, Result};
use chain::{Content, ZERO, commitment};
pub use list::{AuditFilter, audit_list};

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
    /// Its place in its chain; none for lines from before there were chains.
    pub seq: Option<i64>,
    /// SHA-256 over the line and the hash before it, in hexadecimal digits.
    pub hash: Option<String>,
}

/// What of a detail is about a person and not about the change. It is kept apart from the line, is shown with it, and goes
/// with the person (see [`audit_forget`]). Every address in a detail has one of these names.
const PERSONAL: [&str; 3] = ["address", "email", "user_agent"];

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
    audit_write(conn, caller, now, action, tenant, subject, detail).await.map(drop)
}

/// The same, and says which line it is.
pub async fn audit_write(
    conn: &mut PgConnection,
    caller: &Caller,
    now: DateTime<Utc>,
    action: &str,
    tenant: Option<TenantId>,
    subject: &str,
    mut detail: Value,
) -> Result<AuditId> {
    // To the microsecond, as it is kept: the hash is over what can be read again.
    let (id, at, who) = (AuditId::new(), now.trunc_subsecs(6), caller.actor.parse::<AccountId>().ok());
    let chain = chain::chain_of(tenant, &caller.actor);
    let personal = take_personal(&mut detail).map(Value::Object);
    // It takes no part in what is decided, so it needs no source that tests could set.
    let salt: [u8; 16] = Entropy::default().bytes();
    let commitment = personal.as_ref().map(|personal| commitment(&salt, personal));
    let email = personal.as_ref().and_then(|data| data["email"].as_str()).map(str::to_lowercase);
    // An address that somebody wrote down is that of the one who has it, not of the one who wrote.
    let account = if email.is_some() && tenant.is_some() { None } else { who };
    let content = Content {
        id,
        at,
        chain,
        tenant,
        actor: &caller.actor,
        action,
        subject,
        detail: &detail,
        request_id: caller.request_id.as_deref(),
        personal: commitment.as_ref().map(<[u8; 32]>::as_slice),
    };
    // One statement, as it was before there were chains: the link needs the lock, and the lock costs no round trip.
    sqlx::query(
        "WITH head AS (
           INSERT INTO audit_head AS h (chain, seq, hash) VALUES ($2, 1, sha256($3 || int8send(1) || $4))
           ON CONFLICT (chain) DO UPDATE SET seq = h.seq + 1, hash = sha256(h.hash || int8send(h.seq + 1) || $4)
           RETURNING seq, hash),
         kept AS (
           INSERT INTO audit_personal (line, account, email, salt, data)
           SELECT $1, $12, $13, $14, $15 WHERE $15::jsonb IS NOT NULL)
         INSERT INTO audit (id, chain, at, actor, action, tenant, subject, detail, request_id, personal, seq, hash)
         SELECT $1, $2, $5, $6, $7, $8, $9, $10, $11, $16, head.seq, head.hash FROM head",
    )
    .bind(id)
    .bind(chain)
    .bind(&ZERO[..])
    .bind(&content.digest()[..])
    .bind(at)
    .bind(&caller.actor)
    .bind(action)
    .bind(tenant)
    .bind(subject)
    .bind(&detail)
    .bind(&caller.request_id)
    .bind(account)
    .bind(email)
    .bind(&salt[..])
    .bind(personal)
    .bind(commitment.map(Vec::from))
    .execute(conn)
    .await?;
    Ok(id)
}

fn take_personal(detail: &mut Value) -> Option<Map<String, Value>> {
    let detail = detail.as_object_mut()?;
    let taken: Map<String, Value> =
        PERSONAL.iter().filter_map(|name| Some(((*name).to_owned(), detail.remove(*name)?))).collect();
    (!taken.is_empty()).then_some(taken)
}

/// Forgets what the log says of a person beyond their id: for the erasure of an account. `emails` are all addresses the
/// person is known by. The lines stay, and so do the chains. Says how many lines were about them.
pub async fn audit_forget(conn: &mut PgConnection, account: AccountId, emails: &[String]) -> Result<u64> {
    let emails: Vec<String> = emails.iter().map(|email| email.to_lowercase()).collect();
    let gone = sqlx::query("DELETE FROM audit_personal WHERE account = $1 OR email = ANY($2)")
        .bind(account)
        .bind(emails)
        .execute(conn)
        .await?;
    Ok(gone.rows_affected())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_personal_is_taken_out_of_the_detail() {
        let mut detail = json!({ "role": "member", "email": "a@b.example", "address": "::1" });
        let taken = take_personal(&mut detail).unwrap();
        assert_eq!(detail, json!({ "role": "member" }));
        assert_eq!(Value::Object(taken), json!({ "email": "a@b.example", "address": "::1" }));
        assert!(take_personal(&mut detail).is_none());
        assert!(take_personal(&mut json!([1])).is_none());
    }
}
