//! Signed-in devices. The token is in the device's cookie, its SHA-256 in the control database.

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::sso::tenant_of;
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::changes::{self, Change};
use crate::kernel::credentials::{self, KeyHash, KeyKind};
use crate::kernel::ids::{AccountId, SessionId, TenantId};
use crate::kernel::{Entropy, Error, Result, codes};

/// A session ends this long after it began, however busy it is.
pub const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Live sessions of one account; the oldest give way.
const MOST: i64 = 50;
/// How long after proving who they are a person may do what is grave.
pub const FRESH: Duration = Duration::from_secs(300);
/// How long a hand-off to a tenant's host may take.
const HAND_OFF: Duration = Duration::from_secs(30);

/// Where a session is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum SessionKind {
    /// A browser at the sign-in host.
    Base,
    /// The same browser at a tenant's host.
    Tenant,
    /// A terminal.
    Cli,
}

/// What a device says of itself; only for people to recognise it by.
#[derive(Clone, Debug, Default)]
pub struct Device {
    pub user_agent: String,
    pub address: String,
}

/// What a sign-in notes of the request that brings it.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    pub device: Device,
    /// For the audit log.
    pub request_id: Option<String>,
}

/// How a person proved who they are.
#[derive(Clone, Debug)]
pub struct Proof {
    pub account: AccountId,
    /// `oidc:google`, `password`, `sso:<tenant>`.
    pub method: String,
    pub second_factor: bool,
    pub at: DateTime<Utc>,
}

/// A session, as its owner sees it.
#[derive(Clone, Debug, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Session {
    pub id: SessionId,
    pub kind: SessionKind,
    pub method: String,
    pub user_agent: String,
    pub address: String,
    pub created_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// A session just begun.
pub struct Started {
    pub id: SessionId,
    pub account: AccountId,
    /// For the cookie; it is not kept.
    pub token: SecretString,
    pub expires_at: DateTime<Utc>,
}

/// Holds off whoever ends all of an account's sessions until this transaction ends. Who begins a session asks for this
/// first, and only then whether what was shown is still good (a password, a browser's session): then either the new session
/// is there to be ended, or the ending is there to be seen.
///
/// An account is locked before its sessions, always.
///
/// # Errors
/// `sign_in_failed` for an account that is gone.
pub(super) async fn account_shared(conn: &mut PgConnection, account: AccountId) -> Result<()> {
    let there: Option<AccountId> =
        sqlx::query_scalar("SELECT id FROM account WHERE id = $1 AND deleted_at IS NULL FOR SHARE")
            .bind(account)
            .fetch_optional(conn)
            .await?;
    there.map(drop).ok_or_else(|| Error::new(&codes::SIGN_IN_FAILED))
}

/// The other side of [`account_shared`]: waits for sessions that are being begun, and holds off others.
pub(super) async fn account_alone(conn: &mut PgConnection, account: AccountId) -> Result<()> {
    sqlx::query("SELECT id FROM account WHERE id = $1 FOR NO KEY UPDATE").bind(account).execute(conn).await?;
    Ok(())
}

/// Begins a session of a browser at the sign-in host, always with a new token.
///
/// # Errors
/// `sign_in_failed` for an account that is gone.
pub async fn session_start(
    conn: &mut PgConnection,
    entropy: &Entropy,
    proof: &Proof,
    device: &Device,
) -> Result<Started> {
    let (id, token, expires_at) =
        (SessionId::new(), credentials::make(KeyKind::Session, entropy), proof.at + LIFE);
    account_shared(&mut *conn, proof.account).await?;
    sqlx::query(
        "INSERT INTO session (id, account, kind, token_hash, method, second_factor, user_agent, address,
                              authenticated_at, created_at, last_seen_at, expires_at)
         VALUES ($1, $2, 'base', $3, $4, $5, $6, $7, $8, $8, $8, $9)",
    )
    .bind(id)
    .bind(proof.account)
    .bind(&token.hash[..])
    .bind(&proof.method)
    .bind(proof.second_factor)
    .bind(cut(&device.user_agent))
    .bind(cut(&device.address))
    .bind(proof.at)
    .bind(expires_at)
    .execute(&mut *conn)
    .await?;
    oldest_give_way(&mut *conn, proof.account, proof.at).await?;
    changes::notify(conn, Change::Account(proof.account)).await?;
    Ok(Started { id, account: proof.account, token: token.key, expires_at })
}

/// Begins a session of a terminal, on the word of a browser that is signed in: as that one began. It outlives the browser's.
/// `None` when the browser's session has ended.
pub(super) async fn session_start_cli(
    conn: &mut PgConnection,
    approver: SessionId,
    device: &Device,
    now: DateTime<Utc>,
) -> Result<Option<SessionId>> {
    let id = SessionId::new();
    if let Some(account) = account_of(&mut *conn, approver).await? {
        account_shared(&mut *conn, account).await?;
    }
    let account: Option<AccountId> = sqlx::query_scalar(
        "INSERT INTO session (id, account, kind, method, second_factor, user_agent, address,
                              authenticated_at, created_at, last_seen_at, expires_at)
         SELECT $2, account, 'cli', method, second_factor, $3, $4, authenticated_at, $5, $5, $6
           FROM session WHERE id = $1 AND kind = 'base' AND revoked_at IS NULL AND expires_at > $5
         RETURNING account",
    )
    .bind(approver)
    .bind(id)
    .bind(cut(&device.user_agent))
    .bind(cut(&device.address))
    .bind(now)
    .bind(now + LIFE)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(account) = account else { return Ok(None) };
    oldest_give_way(&mut *conn, account, now).await?;
    changes::notify(conn, Change::Account(account)).await?;
    Ok(Some(id))
}

async fn account_of(conn: &mut PgConnection, session: SessionId) -> Result<Option<AccountId>> {
    Ok(sqlx::query_scalar("SELECT account FROM session WHERE id = $1")
        .bind(session)
        .fetch_optional(conn)
        .await?)
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

async fn oldest_give_way(conn: &mut PgConnection, account: AccountId, now: DateTime<Utc>) -> Result<()> {
    let old: Vec<SessionId> = sqlx::query_scalar(
        "SELECT id FROM session
          WHERE account = $1 AND kind <> 'tenant' AND revoked_at IS NULL AND expires_at > $2
          ORDER BY created_at DESC, id DESC OFFSET $3",
    )
    .bind(account)
    .bind(now)
    .bind(MOST)
    .fetch_all(&mut *conn)
    .await?;
    for id in old {
        end(&mut *conn, id, now).await?;
    }
    Ok(())
}

/// A session with what it began. Its row first: what it is just beginning is waited for, and then seen.
async fn end(conn: &mut PgConnection, id: SessionId, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("SELECT id FROM session WHERE id = $1 FOR NO KEY UPDATE")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    sqlx::query("UPDATE session SET revoked_at = $2 WHERE (id = $1 OR parent = $1) AND revoked_at IS NULL")
        .bind(id)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// An account's live sessions, newest first; a browser counts once, however many tenants it visits.
pub async fn session_list(
    conn: &mut PgConnection,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<Vec<Session>> {
    Ok(sqlx::query_as(
        "SELECT s.id, s.kind, s.method, s.user_agent, s.address, s.created_at, s.expires_at,
                greatest(s.last_seen_at, (SELECT max(c.last_seen_at) FROM session c WHERE c.parent = s.id))
                    AS last_seen_at
           FROM session s
          WHERE s.account = $1 AND s.kind <> 'tenant' AND s.revoked_at IS NULL AND s.expires_at > $2
          ORDER BY s.created_at DESC, s.id DESC",
    )
    .bind(account)
    .bind(now)
    .fetch_all(conn)
    .await?)
}

/// Which part of one's sessions to list: they are few and come whole.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SessionFilter {
    pub limit: Option<u32>,
}

impl SessionFilter {
    pub fn check(&self) -> Result<()> {
        crate::kernel::page::limit(self.limit).map(drop)
    }
}

/// The method of a session that a workspace's own provider began, and which therefore is about that workspace only; none for
/// all others.
async fn confined(conn: &mut PgConnection, account: AccountId, id: SessionId) -> Result<Option<String>> {
    let method: Option<String> =
        sqlx::query_scalar("SELECT method FROM session WHERE id = $1 AND account = $2")
            .bind(id)
            .bind(account)
            .fetch_optional(conn)
            .await?;
    Ok(method.filter(|method| tenant_of(method).is_some()))
}

/// What one session may see of its person's: all; or, where a workspace's own provider began it, what that began. The
/// workspace runs that provider, and the person's other devices are none of its business.
pub async fn session_list_seen(
    conn: &mut PgConnection,
    account: AccountId,
    by: SessionId,
    now: DateTime<Utc>,
) -> Result<Vec<Session>> {
    let mut all = session_list(&mut *conn, account, now).await?;
    if let Some(method) = confined(conn, account, by).await? {
        all.retain(|session| session.method == method);
    }
    Ok(all)
}

/// [`session_revoke`] of what the session `by` may see.
///
/// # Errors
/// `not_found` for what it may not see, as for what is not there.
pub async fn session_revoke_seen(
    conn: &mut PgConnection,
    account: AccountId,
    by: SessionId,
    id: SessionId,
    now: DateTime<Utc>,
) -> Result<()> {
    if id != by && confined(&mut *conn, account, by).await?.is_some() {
        let seen = session_list_seen(&mut *conn, account, by, now).await?;
        if seen.iter().all(|session| session.id != id) {
            return Err(Error::new(&codes::NOT_FOUND));
        }
    }
    session_revoke(conn, account, id, now).await
}

/// [`session_revoke_others`] of what the session `by` may see; its own device stays.
pub async fn session_revoke_others_seen(
    conn: &mut PgConnection,
    account: AccountId,
    by: SessionId,
    now: DateTime<Utc>,
) -> Result<u64> {
    let keep = session_root(&mut *conn, account, by).await?;
    if confined(&mut *conn, account, by).await?.is_none() {
        return session_revoke_others(conn, account, Some(keep), now).await;
    }
    let mut ended = 0;
    for session in session_list_seen(&mut *conn, account, by, now).await? {
        if session.id != keep {
            session_revoke(&mut *conn, account, session.id, now).await?;
            ended += 1;
        }
    }
    Ok(ended)
}

/// The device that a session is on: the browser's own session for one at a tenant's host, else itself.
pub async fn session_root(conn: &mut PgConnection, account: AccountId, id: SessionId) -> Result<SessionId> {
    sqlx::query_scalar("SELECT coalesce(parent, id) FROM session WHERE id = $1 AND account = $2")
        .bind(id)
        .bind(account)
        .fetch_optional(conn)
        .await?
        .ok_or_else(|| Error::new(&codes::SIGN_IN_REQUIRED))
}

/// Ends a session and what it began; every server refuses it within a second. Ending twice changes nothing.
///
/// # Errors
/// `not_found` when the account has no such session.
pub async fn session_revoke(
    conn: &mut PgConnection,
    account: AccountId,
    id: SessionId,
    now: DateTime<Utc>,
) -> Result<()> {
    let known: Option<SessionId> =
        sqlx::query_scalar("SELECT id FROM session WHERE id = $1 AND account = $2")
            .bind(id)
            .bind(account)
            .fetch_optional(&mut *conn)
            .await?;
    known.ok_or_else(|| Error::new(&codes::NOT_FOUND))?;
    end(&mut *conn, id, now).await?;
    Ok(changes::notify(conn, Change::Account(account)).await?)
}

/// Ends all of an account's sessions, but for the one it speaks from, if given. In a transaction.
pub async fn session_revoke_others(
    conn: &mut PgConnection,
    account: AccountId,
    keep: Option<SessionId>,
    now: DateTime<Utc>,
) -> Result<u64> {
    account_alone(&mut *conn, account).await?;
    let ended = sqlx::query(
        "UPDATE session SET revoked_at = $3
          WHERE account = $1 AND revoked_at IS NULL
            AND ($2::uuid IS NULL OR (id <> $2 AND parent IS DISTINCT FROM $2))",
    )
    .bind(account)
    .bind(keep)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    changes::notify(conn, Change::Account(account)).await?;
    Ok(ended.rows_affected())
}

/// Whether a session of this account is neither revoked nor over. Asks the database: for what must not rest on a cache.
pub async fn session_is_live(
    conn: &mut PgConnection,
    account: AccountId,
    id: SessionId,
    now: DateTime<Utc>,
) -> Result<bool> {
    Ok(authenticated_at(conn, account, id, now).await?.is_some())
}

/// Refuses what is grave unless the person of this session proved a moment ago who they are.
///
/// # Errors
/// `sign_in_required` when the session has ended; `confirm_required`.
pub async fn session_is_fresh(
    conn: &mut PgConnection,
    account: AccountId,
    id: SessionId,
    now: DateTime<Utc>,
) -> Result<()> {
    let proven = authenticated_at(conn, account, id, now).await?;
    let proven = proven.ok_or_else(|| Error::new(&codes::SIGN_IN_REQUIRED))?;
    if now <= proven + FRESH { Ok(()) } else { Err(Error::new(&codes::CONFIRM_REQUIRED)) }
}

async fn authenticated_at(
    conn: &mut PgConnection,
    account: AccountId,
    id: SessionId,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar(
        "SELECT greatest(s.authenticated_at, p.authenticated_at) FROM session s LEFT JOIN session p ON p.id = s.parent
          WHERE s.id = $1 AND s.account = $2 AND s.revoked_at IS NULL AND p.revoked_at IS NULL
            AND least(s.expires_at, p.expires_at) > $3",
    )
    .bind(id)
    .bind(account)
    .bind(now)
    .fetch_optional(conn)
    .await?)
}

/// Ends the session that a browser had before it signed in again. The same person's stays at tenants' hosts go on, under
/// the new session; another person's end.
pub async fn session_succeed(
    conn: &mut PgConnection,
    (old_account, old): (AccountId, SessionId),
    (account, new): (AccountId, SessionId),
    now: DateTime<Utc>,
) -> Result<()> {
    if old_account == account {
        sqlx::query(
            "UPDATE session SET parent = $2 WHERE parent = $1 AND account = $3 AND revoked_at IS NULL",
        )
        .bind(old)
        .bind(new)
        .bind(account)
        .execute(&mut *conn)
        .await?;
    }
    session_revoke(conn, old_account, old, now).await
}

/// Ends the session of a browser at one tenant's host, which it gave up for a new one.
pub async fn session_end_by_token(
    conn: &mut PgConnection,
    token: &KeyHash,
    now: DateTime<Utc>,
) -> Result<()> {
    let ended: Option<AccountId> = sqlx::query_scalar(
        "UPDATE session SET revoked_at = $2
          WHERE token_hash = $1 AND kind = 'tenant' AND revoked_at IS NULL RETURNING account",
    )
    .bind(&token[..])
    .bind(now)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(account) = ended {
        changes::notify(conn, Change::Account(account)).await?;
    }
    Ok(())
}

/// Signs a browser out: the session of this token, the one that began it, and all that that one began.
pub async fn session_sign_out(
    conn: &mut PgConnection,
    token: &KeyHash,
    caller: impl FnOnce(String) -> Caller,
    now: DateTime<Utc>,
) -> Result<()> {
    let found: Option<(SessionId, AccountId)> = sqlx::query_as(
        "SELECT coalesce(parent, id), account FROM session WHERE token_hash = $1 AND revoked_at IS NULL",
    )
    .bind(&token[..])
    .fetch_optional(&mut *conn)
    .await?;
    let Some((session, account)) = found else { return Ok(()) };
    session_revoke(&mut *conn, account, session, now).await?;
    let caller = caller(account.to_string());
    audit_add(conn, &caller, now, "session.end", None, &session.to_string(), json!({})).await
}

/// A code that lets this browser into a tenant's host once, within half a minute. Who may enter is checked when it is
/// redeemed and at each request; the code only carries the session over. `browser` is the SHA-256 of the mark that this
/// browser has at the tenant's host: the code is of no use in another.
pub async fn hand_off(
    conn: &mut PgConnection,
    entropy: &Entropy,
    session: SessionId,
    tenant: TenantId,
    browser: &[u8; 32],
    return_to: &str,
    now: DateTime<Utc>,
) -> Result<SecretString> {
    let code = credentials::make(KeyKind::HandOff, entropy);
    sqlx::query(
        "INSERT INTO hand_off (code_hash, session, tenant, browser_hash, return_to, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&code.hash[..])
    .bind(session)
    .bind(tenant)
    .bind(&browser[..])
    .bind(return_to)
    .bind(now + HAND_OFF)
    .execute(conn)
    .await?;
    Ok(code.key)
}

/// Redeems a code at the host of `tenant`: a session of its own for that host, and where to go.
///
/// # Errors
/// `sign_in_failed` for a code that is used, over, of another tenant or browser, or whose session has ended.
pub async fn hand_off_redeem(
    conn: &mut PgConnection,
    entropy: &Entropy,
    code: &KeyHash,
    tenant: TenantId,
    browser: &[u8; 32],
    device: &Device,
    now: DateTime<Utc>,
) -> Result<(Started, String)> {
    let refused = || {
        Error::new(&codes::SIGN_IN_FAILED).detail("this link was used, is too old, or is another browser's")
    };
    let (parent, return_to): (SessionId, String) = sqlx::query_as(
        "UPDATE hand_off SET used_at = $3
          WHERE code_hash = $1 AND tenant = $2 AND browser_hash = $4 AND used_at IS NULL AND expires_at > $3
         RETURNING session, return_to",
    )
    .bind(&code[..])
    .bind(tenant)
    .bind(now)
    .bind(&browser[..])
    .fetch_optional(&mut *conn)
    .await?
    .ok_or_else(refused)?;
    let account = account_of(&mut *conn, parent).await?.ok_or_else(refused)?;
    account_shared(&mut *conn, account).await?;
    // Whoever ends this one session waits for what it begins here.
    sqlx::query("SELECT id FROM session WHERE id = $1 FOR SHARE").bind(parent).execute(&mut *conn).await?;
    let (id, token) = (SessionId::new(), credentials::make(KeyKind::Session, entropy));
    let begun: Option<(AccountId, DateTime<Utc>)> = sqlx::query_as(
        "INSERT INTO session (id, account, kind, parent, tenant, token_hash, method, second_factor, user_agent,
                              address, authenticated_at, created_at, last_seen_at, expires_at)
         SELECT $2, account, 'tenant', id, $3, $4, method, second_factor, $5, $6, authenticated_at, $7, $7, expires_at
           FROM session WHERE id = $1 AND kind = 'base' AND revoked_at IS NULL AND expires_at > $7
         RETURNING account, expires_at",
    )
    .bind(parent)
    .bind(id)
    .bind(tenant)
    .bind(&token.hash[..])
    .bind(cut(&device.user_agent))
    .bind(cut(&device.address))
    .bind(now)
    .fetch_optional(&mut *conn)
    .await?;
    let (account, expires_at) = begun.ok_or_else(refused)?;
    changes::notify(conn, Change::Account(account)).await?;
    Ok((Started { id, account, token: token.key, expires_at }, return_to))
}

/// Removes what has been over for a month; for an hour, what strangers can make many of.
pub async fn sweep(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<()> {
    for statement in [
        "DELETE FROM sign_in WHERE expires_at < $1",
        "DELETE FROM second_step WHERE expires_at < $1",
        "DELETE FROM password_link WHERE expires_at < $1",
        "DELETE FROM hand_off WHERE expires_at < $1",
        "DELETE FROM device_code WHERE expires_at < $1",
    ] {
        sqlx::query(statement).bind(now - chrono::TimeDelta::hours(1)).execute(&mut *conn).await?;
    }
    let before = now - LIFE;
    for statement in [
        "DELETE FROM refresh_token WHERE expires_at < $1",
        "DELETE FROM session s WHERE s.expires_at < $1
            AND NOT EXISTS (SELECT FROM session c WHERE c.parent = s.id AND c.expires_at >= $1)
            AND NOT EXISTS (SELECT FROM refresh_token r WHERE r.session = s.id)
            AND NOT EXISTS (SELECT FROM hand_off h WHERE h.session = s.id)",
    ] {
        sqlx::query(statement).bind(before).execute(&mut *conn).await?;
    }
    Ok(())
}
