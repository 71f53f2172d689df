//! The last step of every way in: a person has shown who they are, and gets a session; or, when they have a second factor,
//! the wait for it, which is no session and belongs to this one browser for a few minutes.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::arrive::Here;
use super::return_to;
use super::second_factor::{second_factor_is_on, second_factor_shown};
use super::sessions::{Asking, Proof, Started, account_shared, session_start, session_succeed};
use super::sso::tenant_of;
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::AccountId;
use crate::kernel::{Error, Result, codes};

/// How long a person may look for their second factor.
pub const SECOND_STEP: TimeDelta = TimeDelta::minutes(5);

/// A person whose first factor was good.
#[derive(Clone, Debug)]
pub struct Proven<'a> {
    pub account: AccountId,
    /// The account was made just now.
    pub new: bool,
    /// `oidc:google`, `password`, `sso:…`
    pub method: String,
    /// `session.start` or `session.confirm`.
    pub action: &'a str,
    pub return_to: &'a str,
    /// SHA-256 of the browser's mark.
    pub browser_hash: [u8; 32],
}

/// What they got.
pub enum LetIn {
    Session(Started),
    /// The second factor is still to come.
    SecondStep,
}

#[derive(sqlx::FromRow)]
struct Waiting {
    account: AccountId,
    method: String,
    action: String,
    return_to: String,
}

impl Identity {
    /// Lets a person in whose first factor was good, in the caller's transaction.
    pub(super) async fn let_in(
        &self,
        conn: &mut PgConnection,
        proven: &Proven<'_>,
        here: Option<Here>,
        asking: &Asking,
        now: DateTime<Utc>,
    ) -> Result<LetIn> {
        account_shared(&mut *conn, proven.account).await?;
        if !second_factor_is_on(conn, proven.account).await? {
            return self.session_begin(conn, proven, false, here, asking, now).await.map(LetIn::Session);
        }
        sqlx::query(
            "INSERT INTO second_step (browser_hash, account, method, action, return_to, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (browser_hash) DO UPDATE SET account = $2, method = $3, action = $4, return_to = $5,
                    expires_at = $6",
        )
        .bind(&proven.browser_hash[..])
        .bind(proven.account)
        .bind(&proven.method)
        .bind(proven.action)
        .bind(return_to::path_of(Some(proven.return_to)))
        .bind(now + SECOND_STEP)
        .execute(conn)
        .await?;
        Ok(LetIn::SecondStep)
    }

    /// Whether this browser has shown a first factor and owes the second.
    pub async fn second_step_waits(&self, browser_hash: &[u8; 32]) -> Result<bool> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM second_step WHERE browser_hash = $1 AND expires_at > $2)",
        )
        .bind(&browser_hash[..])
        .bind(self.cp.clock.now())
        .fetch_one(&self.cp.db)
        .await?)
    }

    /// The second factor of the person who waits in this browser: a session, and where to go.
    ///
    /// # Errors
    /// `sign_in_failed` when nobody waits here (any more), or the code is wrong, was used, or is over; `rate_limited`.
    pub async fn second_step(
        &self,
        browser_hash: &[u8; 32],
        code: &str,
        here: Option<Here>,
        asking: &Asking,
    ) -> Result<(Started, String)> {
        let gone = || {
            Error::new(&codes::SIGN_IN_FAILED)
                .detail("this sign-in took too long, or was begun in another browser")
                .hint("begin again")
        };
        let now = self.cp.clock.now();
        let waiting: Waiting = sqlx::query_as(
            "SELECT s.account, s.method, s.action, s.return_to
               FROM second_step s JOIN account a ON a.id = s.account
              WHERE s.browser_hash = $1 AND s.expires_at > $2 AND a.deleted_at IS NULL",
        )
        .bind(&browser_hash[..])
        .bind(now)
        .fetch_optional(&self.cp.db)
        .await?
        .ok_or_else(gone)?;
        let mut conn = self.cp.db.acquire().await?;
        self.second_factor_try(&mut conn, waiting.account, code, now).await?;
        drop(conn);
        let mut tx = self.cp.db.begin().await?;
        second_factor_shown(self, &mut tx, waiting.account, code, now).await?;
        account_shared(&mut tx, waiting.account).await?;
        // Of two at once with one code, one is refused by the code and the other finds its row here. A change of password
        // takes it away.
        let held = sqlx::query("DELETE FROM second_step WHERE browser_hash = $1 AND account = $2")
            .bind(&browser_hash[..])
            .bind(waiting.account)
            .execute(&mut *tx)
            .await?;
        if held.rows_affected() == 0 {
            return Err(gone());
        }
        let proven = Proven {
            account: waiting.account,
            new: false,
            method: waiting.method,
            action: &waiting.action,
            return_to: &waiting.return_to,
            browser_hash: *browser_hash,
        };
        let started = self.session_begin(&mut tx, &proven, true, here, asking, now).await?;
        tx.commit().await?;
        self.second_factor_good(waiting.account).await?;
        Ok((started, waiting.return_to))
    }

    /// Always a session with a new token; the one that the browser had ends.
    async fn session_begin(
        &self,
        conn: &mut PgConnection,
        proven: &Proven<'_>,
        second_factor: bool,
        here: Option<Here>,
        asking: &Asking,
        now: DateTime<Utc>,
    ) -> Result<Started> {
        let (account, method) = (proven.account, proven.method.clone());
        let proof = Proof { account, method, second_factor, at: now };
        let started = session_start(&mut *conn, &self.cp.entropy, &proof, &asking.device).await?;
        if let Some(here) = here {
            session_succeed(&mut *conn, (here.account, here.session), (account, started.id), now).await?;
        }
        let caller = Caller { actor: account.to_string(), request_id: asking.request_id.clone() };
        let mut detail = json!({
            "method": proven.method, "new_account": proven.new, "address": asking.device.address,
        });
        if second_factor {
            detail["second_factor"] = json!(true);
        }
        // A sign-in by a workspace's own provider is that workspace's to see.
        let tenant = tenant_of(&proven.method);
        audit_add(conn, &caller, now, proven.action, tenant, &started.id.to_string(), detail).await?;
        Ok(started)
    }
}
