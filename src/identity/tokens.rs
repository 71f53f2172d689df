//! Access for a terminal that is signed in: short access tokens, got for a refresh token that changes with each use.
//!
//! A refresh token is good once. One that comes again is in two hands: ours cannot tell which is the thief's, so both lose
//! the session. But a good client may ask twice at once, or again because the answer was lost; within [`GRACE`] of the
//! first use it is answered again.

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::access_token::{self, Says, Signer};
use super::sessions;
use super::sso::sso_allows_session;
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::tenants::TenantRef;
use crate::kernel::credentials::{self, KeyHash, KeyKind};
use crate::kernel::ids::{AccountId, SessionId, TenantId};
use crate::kernel::{Entropy, Error, Result, Role, codes};

/// How long after its first use a refresh token is answered again.
pub const GRACE: TimeDelta = TimeDelta::seconds(10);
/// The one program that may sign in by a code. It has no secret: anybody may say that they are it.
pub const CLIENT: &str = "freehold-cli";

/// What a terminal gets.
#[derive(Debug)]
pub struct Granted {
    pub access_token: String,
    /// In seconds.
    pub expires_in: i64,
    pub refresh_token: SecretString,
}

/// Why it gets nothing.
#[derive(Debug)]
pub enum Refusal {
    /// The token or code is not one of ours, used, or over.
    Grant,
    /// There is no such tenant, or no seat in it: one answer for both.
    Target,
    /// The tenant wants its people to come by its own provider, and this session did not.
    OwnProvider,
    /// Nobody has answered on the page yet.
    Pending,
    /// The same, and asked too soon.
    SlowDown,
    /// The code is over.
    Expired,
    /// The person said no.
    Denied,
    /// Something else went wrong.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Identity {
    /// A new access token and a new refresh token for a refresh token: about the person, or for one tenant.
    ///
    /// # Errors
    /// [`Refusal::Grant`], [`Refusal::Target`], [`Refusal::OwnProvider`].
    pub async fn token_refresh(
        &self,
        token: &str,
        tenant: Option<&TenantRef>,
        request_id: Option<String>,
    ) -> Result<Granted, Refusal> {
        let hash = credentials::parse(KeyKind::Refresh, token).ok_or(Refusal::Grant)?;
        // Before the transaction: it may have to ask the same database.
        let signer = self.keyring.signer().await?;
        let now = self.cp.clock.now();
        let mut tx = self.cp.db.begin().await?;
        let held = held(&mut tx, &hash).await?.ok_or(Refusal::Grant)?;
        match held.judge(now) {
            Verdict::First | Verdict::Again => {}
            Verdict::Over => return Err(Refusal::Grant),
            Verdict::Stolen => {
                end_family(&mut tx, &held, request_id, now).await?;
                tx.commit().await?;
                tracing::warn!(session = %held.session, "a refresh token came twice; its session was ended");
                return Err(Refusal::Grant);
            }
        }
        // Before the token is used up: a wrong name costs nothing.
        let seat = match tenant {
            Some(tenant) => Some(seat(&mut tx, held.account, tenant).await?.ok_or(Refusal::Target)?),
            None => None,
        };
        if let Some((tenant, _)) = seat {
            let allowed = sso_allows_session(&mut tx, tenant, held.account, held.session).await;
            allowed.map_err(|error| match error.is(&codes::FORBIDDEN) {
                true => Refusal::OwnProvider,
                false => Refusal::Failed(error),
            })?;
        }
        used(&mut tx, &hash, held.session, now).await?;
        let refresh_token = refresh_token(&mut tx, &self.cp.entropy, held.session, now).await?;
        tx.commit().await?;
        self.granted(&signer, held.account, held.session, seat, refresh_token, now)
    }

    /// Ends the session that a refresh token is of. What is none of ours changes nothing.
    pub async fn token_revoke(&self, token: &str, request_id: Option<String>) -> Result<()> {
        let Some(hash) = credentials::parse(KeyKind::Refresh, token) else { return Ok(()) };
        let now = self.cp.clock.now();
        let mut tx = self.cp.db.begin().await?;
        let Some(held) = held(&mut tx, &hash).await?.filter(|held| held.judge(now) != Verdict::Over) else {
            return Ok(());
        };
        sessions::session_revoke(&mut tx, held.account, held.session, now).await?;
        let caller = Caller { actor: held.account.to_string(), request_id };
        audit_add(
            &mut tx,
            &caller,
            now,
            "session.end",
            None,
            &held.session.to_string(),
            json!({ "kind": "cli" }),
        )
        .await?;
        Ok(tx.commit().await?)
    }

    pub(super) fn granted(
        &self,
        signer: &Signer,
        account: AccountId,
        session: SessionId,
        tenant: Option<(TenantId, Role)>,
        refresh_token: SecretString,
        now: DateTime<Utc>,
    ) -> Result<Granted, Refusal> {
        let says = Says { issuer: self.keyring.issuer(), client: CLIENT, account, session, tenant };
        let access_token = access_token::sign(&says, signer, &self.cp.entropy, now)?;
        Ok(Granted { access_token, expires_in: access_token::LIFE.num_seconds(), refresh_token })
    }
}

/// A refresh token's record, with the session it is of.
#[derive(sqlx::FromRow)]
struct Held {
    session: SessionId,
    account: AccountId,
    used_at: Option<DateTime<Utc>>,
    expires_at: DateTime<Utc>,
    session_expires_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    First,
    /// Used a moment ago: the same client, in all likelihood.
    Again,
    /// Used longer ago than any good client would.
    Stolen,
    /// Its time, or its session's, is over.
    Over,
}

impl Held {
    fn judge(&self, now: DateTime<Utc>) -> Verdict {
        if self.revoked_at.is_some() || self.session_expires_at <= now || self.expires_at <= now {
            return Verdict::Over;
        }
        match self.used_at {
            None => Verdict::First,
            Some(at) if now - at <= GRACE => Verdict::Again,
            Some(_) => Verdict::Stolen,
        }
    }
}

/// The token's row is locked: of two at once the second sees what the first did.
async fn held(conn: &mut PgConnection, hash: &KeyHash) -> Result<Option<Held>> {
    Ok(sqlx::query_as(
        "SELECT r.session, s.account, r.used_at, r.expires_at, s.expires_at AS session_expires_at, s.revoked_at
           FROM refresh_token r JOIN session s ON s.id = r.session JOIN account a ON a.id = s.account
          WHERE r.token_hash = $1 AND a.deleted_at IS NULL
            FOR UPDATE OF r",
    )
    .bind(&hash[..])
    .fetch_optional(conn)
    .await?)
}

/// A first use stays the first: the grace does not begin anew.
async fn used(conn: &mut PgConnection, hash: &KeyHash, session: SessionId, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("UPDATE refresh_token SET used_at = coalesce(used_at, $2) WHERE token_hash = $1")
        .bind(&hash[..])
        .bind(now)
        .execute(&mut *conn)
        .await?;
    sqlx::query("UPDATE session SET last_seen_at = greatest(last_seen_at, $2) WHERE id = $1")
        .bind(session)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// A new refresh token; it ends with its session.
pub(super) async fn refresh_token(
    conn: &mut PgConnection,
    entropy: &Entropy,
    session: SessionId,
    now: DateTime<Utc>,
) -> Result<SecretString> {
    let token = credentials::make(KeyKind::Refresh, entropy);
    sqlx::query(
        "INSERT INTO refresh_token (token_hash, session, created_at, expires_at)
         SELECT $1, id, $3, expires_at FROM session WHERE id = $2",
    )
    .bind(&token.hash[..])
    .bind(session)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(token.key)
}

async fn end_family(
    conn: &mut PgConnection,
    held: &Held,
    request_id: Option<String>,
    now: DateTime<Utc>,
) -> Result<()> {
    sessions::session_revoke(&mut *conn, held.account, held.session, now).await?;
    let caller = Caller { actor: held.account.to_string(), request_id };
    let detail = json!({ "first_used_at": held.used_at });
    audit_add(conn, &caller, now, "refresh_token.reuse", None, &held.session.to_string(), detail).await
}

/// A person's seat in a tenant, by slug or id.
pub(super) async fn seat(
    conn: &mut PgConnection,
    account: AccountId,
    tenant: &TenantRef,
) -> Result<Option<(TenantId, Role)>> {
    let (slug, id) = match tenant {
        TenantRef::Slug(slug) => (Some(slug), None),
        TenantRef::Id(id) => (None, Some(id)),
    };
    Ok(sqlx::query_as(
        "SELECT m.tenant, m.role FROM membership m JOIN tenant t ON t.id = m.tenant
          WHERE m.account = $1 AND (t.slug = $2 OR t.id = $3) AND t.state <> 'deleted'",
    )
    .bind(account)
    .bind(slug)
    .bind(id)
    .fetch_optional(conn)
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_use_is_forgiven_for_a_moment() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let later = now + TimeDelta::days(1);
        let held = |used: Option<i64>, revoked| Held {
            session: SessionId(uuid::Uuid::nil()),
            account: AccountId(uuid::Uuid::nil()),
            used_at: used.map(|seconds| now - TimeDelta::seconds(seconds)),
            expires_at: later,
            session_expires_at: later,
            revoked_at: revoked,
        };
        assert_eq!(held(None, None).judge(now), Verdict::First);
        assert_eq!(held(Some(10), None).judge(now), Verdict::Again);
        assert_eq!(held(Some(11), None).judge(now), Verdict::Stolen);
        assert_eq!(held(Some(11), Some(now)).judge(now), Verdict::Over);
        assert_eq!(held(None, None).judge(later), Verdict::Over);
    }
}
