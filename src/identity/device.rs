//! Signing a terminal in (RFC 8628): it shows a short code, the person types it into a browser that is signed in and says
//! yes, and the terminal, which asks every few seconds, gets its tokens.
//!
//! What the person is shown must let them see a code that somebody else sent them: which program, since when. The short
//! code is no secret worth stealing (it lets its reader say yes, not in), but guessing it is throttled, for each person
//! over all servers.

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::sessions::{self, Asking, Device};
use super::throttle::{self, Rate};
use super::tokens::{Granted, Refusal, refresh_token};
use crate::control_plane::audit::{Caller, audit_add};
use crate::db::error::violated;
use crate::kernel::credentials::{self, KeyHash, KeyKind};
use crate::kernel::ids::{AccountId, SessionId};
use crate::kernel::{Entropy, Error, Result, codes};

/// How long the person may take.
pub const PATIENCE: TimeDelta = TimeDelta::minutes(10);
/// How often the terminal is told to ask, in seconds.
pub const INTERVAL: i64 = 5;
/// A terminal that asks sooner than this is told to slow down; a little less than it was told, for slow clocks.
const TOO_SOON: TimeDelta = TimeDelta::seconds(INTERVAL - 1);
/// No vowels, so no words; no letters that look like others (RFC 8628 §6.1). 20⁸ codes.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE: usize = 8;
/// Codes that one person may try.
const GUESSES: Rate = Rate { every: TimeDelta::seconds(12), burst: 10 };
/// Codes that all terminals together may ask for: strangers can, so there must be an end to it.
const STARTS: Rate = Rate { every: TimeDelta::milliseconds(50), burst: 200 };

/// A sign-in that a terminal has begun.
#[derive(Debug)]
pub struct DeviceStarted {
    pub device_code: SecretString,
    /// As it is shown: `WDJB-MJHT`.
    pub user_code: String,
    /// In seconds.
    pub expires_in: i64,
}

/// What the person is asked.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct DeviceAsk {
    /// What the program calls itself. Anybody may call themselves anything.
    pub client_name: String,
    pub created_at: DateTime<Utc>,
    /// As it is shown: `WDJB-MJHT`.
    #[sqlx(skip)]
    pub user_code: String,
}

/// A browser that is signed in at the sign-in host.
#[derive(Clone, Copy, Debug)]
pub struct Approver {
    pub account: AccountId,
    pub session: SessionId,
}

impl Identity {
    /// Begins: makes both codes.
    ///
    /// # Errors
    /// `rate_limited`.
    pub async fn device_start(&self, client_name: &str) -> Result<DeviceStarted> {
        let now = self.cp.clock.now();
        let mut conn = self.cp.db.acquire().await?;
        throttle::take(&mut conn, "device:start", STARTS, now).await?;
        let name: String = client_name.trim().chars().filter(|c| !c.is_control()).take(80).collect();
        let name = if name.is_empty() { "a terminal".to_owned() } else { name };
        // Two terminals may draw one code: with all places taken, once in a million.
        for _ in 0..5 {
            let device = credentials::make(KeyKind::Device, &self.cp.entropy);
            let code = user_code(&self.cp.entropy);
            let added = sqlx::query(
                "INSERT INTO device_code (code_hash, user_code, client_name, created_at, expires_at)
                 VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(&device.hash[..])
            .bind(&code)
            .bind(&name)
            .bind(now)
            .bind(now + PATIENCE)
            .execute(&mut *conn)
            .await;
            match added {
                Ok(_) => {
                    return Ok(DeviceStarted {
                        device_code: device.key,
                        user_code: shown(&code),
                        expires_in: PATIENCE.num_seconds(),
                    });
                }
                Err(error) if violated(&error) == Some("device_code_user_code_key") => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::internal("no free code was found"))
    }

    /// What stands behind a code, for the page that asks.
    ///
    /// # Errors
    /// `not_found` for a code that is wrong, over or answered; `rate_limited` after too many.
    pub async fn device_ask(&self, who: Approver, user_code: &str) -> Result<DeviceAsk> {
        let now = self.cp.clock.now();
        let mut conn = self.cp.db.acquire().await?;
        throttle::take(&mut conn, &format!("device:guess:{}", who.account), GUESSES, now).await?;
        let code = typed(user_code).ok_or_else(no_such_code)?;
        let asked: Option<DeviceAsk> = sqlx::query_as(
            "SELECT client_name, created_at FROM device_code
              WHERE user_code = $1 AND account IS NULL AND expires_at > $2",
        )
        .bind(&code)
        .bind(now)
        .fetch_optional(&mut *conn)
        .await?;
        Ok(DeviceAsk { user_code: shown(&code), ..asked.ok_or_else(no_such_code)? })
    }

    /// The person's answer. Given once, it stays.
    ///
    /// # Errors
    /// As [`Identity::device_ask`]; `unauthenticated` when the browser's session has ended.
    pub async fn device_answer(
        &self,
        who: Approver,
        user_code: &str,
        yes: bool,
        request_id: Option<String>,
    ) -> Result<()> {
        let now = self.cp.clock.now();
        let mut conn = self.cp.db.acquire().await?;
        throttle::take(&mut conn, &format!("device:guess:{}", who.account), GUESSES, now).await?;
        let code = typed(user_code).ok_or_else(no_such_code)?;
        let mut tx = sqlx::Connection::begin(&mut *conn).await?;
        let signed_in: Option<SessionId> = sqlx::query_scalar(
            "SELECT id FROM session
              WHERE id = $1 AND account = $2 AND kind = 'base' AND revoked_at IS NULL AND expires_at > $3",
        )
        .bind(who.session)
        .bind(who.account)
        .bind(now)
        .fetch_optional(&mut *tx)
        .await?;
        signed_in.ok_or_else(|| Error::new(&codes::UNAUTHENTICATED))?;
        let client: Option<String> = sqlx::query_scalar(
            "UPDATE device_code SET account = $2, approved_by = $3, denied = NOT $4
              WHERE user_code = $1 AND account IS NULL AND expires_at > $5 RETURNING client_name",
        )
        .bind(code)
        .bind(who.account)
        .bind(yes.then_some(who.session))
        .bind(yes)
        .bind(now)
        .fetch_optional(&mut *tx)
        .await?;
        let client = client.ok_or_else(no_such_code)?;
        let caller = Caller { actor: who.account.to_string(), request_id };
        let action = if yes { "device.approve" } else { "device.deny" };
        let subject = who.account.to_string();
        audit_add(&mut tx, &caller, now, action, None, &subject, json!({ "client_name": client })).await?;
        Ok(tx.commit().await?)
    }

    /// A terminal asks whether it may come in. After a yes it gets its tokens, once.
    ///
    /// # Errors
    /// All of [`Refusal`] but those of a tenant.
    pub async fn device_poll(&self, device_code: &str, asking: &Asking) -> Result<Granted, Refusal> {
        let hash = credentials::parse(KeyKind::Device, device_code).ok_or(Refusal::Grant)?;
        let signer = self.keyring.signer().await?;
        let now = self.cp.clock.now();
        let mut tx = self.cp.db.begin().await?;
        let asked = asked(&mut tx, &hash).await?.ok_or(Refusal::Grant)?;
        let approver = match asked.judge(now) {
            Ok(approver) => approver,
            Err(refusal) => {
                if matches!(refusal, Refusal::Pending | Refusal::SlowDown) {
                    polled(&mut tx, &hash, now).await?;
                    tx.commit().await?;
                }
                return Err(refusal);
            }
        };
        let device = Device { user_agent: asked.client_name, address: asking.device.address.clone() };
        let begun = sessions::session_start_cli(&mut tx, approver.session, &device, now).await?;
        // The browser was signed out between its yes and now.
        let session = begun.ok_or(Refusal::Denied)?;
        sqlx::query("UPDATE device_code SET used_at = $2 WHERE code_hash = $1")
            .bind(&hash[..])
            .bind(now)
            .execute(&mut *tx)
            .await?;
        let refresh_token = refresh_token(&mut tx, &self.cp.entropy, session, now).await?;
        let caller = Caller { actor: approver.account.to_string(), request_id: asking.request_id.clone() };
        let detail =
            json!({ "kind": "cli", "approved_by": approver.session, "address": asking.device.address });
        audit_add(&mut tx, &caller, now, "session.start", None, &session.to_string(), detail).await?;
        tx.commit().await?;
        self.granted(&signer, approver.account, session, None, refresh_token, now)
    }
}

fn no_such_code() -> Error {
    Error::new(&codes::NOT_FOUND).detail("this code is wrong, over, or was answered already")
}

#[derive(sqlx::FromRow)]
struct Asked {
    client_name: String,
    expires_at: DateTime<Utc>,
    polled_at: Option<DateTime<Utc>>,
    account: Option<AccountId>,
    approved_by: Option<SessionId>,
    denied: bool,
    used_at: Option<DateTime<Utc>>,
}

impl Asked {
    fn judge(&self, now: DateTime<Utc>) -> Result<Approver, Refusal> {
        if self.used_at.is_some() {
            return Err(Refusal::Grant);
        }
        if self.expires_at <= now {
            return Err(Refusal::Expired);
        }
        if self.denied {
            return Err(Refusal::Denied);
        }
        match (self.account, self.approved_by) {
            (Some(account), Some(session)) => Ok(Approver { account, session }),
            _ if self.polled_at.is_some_and(|at| now - at < TOO_SOON) => Err(Refusal::SlowDown),
            _ => Err(Refusal::Pending),
        }
    }
}

async fn asked(conn: &mut PgConnection, hash: &KeyHash) -> Result<Option<Asked>> {
    Ok(sqlx::query_as(
        "SELECT client_name, expires_at, polled_at, account, approved_by, denied, used_at
           FROM device_code WHERE code_hash = $1 FOR UPDATE",
    )
    .bind(&hash[..])
    .fetch_optional(conn)
    .await?)
}

async fn polled(conn: &mut PgConnection, hash: &KeyHash, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("UPDATE device_code SET polled_at = $2 WHERE code_hash = $1")
        .bind(&hash[..])
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// Eight letters, each as likely as any other.
fn user_code(entropy: &Entropy) -> String {
    let mut code = String::with_capacity(CODE);
    while code.len() < CODE {
        // 240 is the largest multiple of 20 in a byte: what lies above would favour the first letters.
        let fair = entropy.bytes::<16>().into_iter().filter(|byte| *byte < 240);
        let letters = fair.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
        code.extend(letters.take(CODE - code.len()));
    }
    code
}

fn shown(code: &str) -> String {
    format!("{}-{}", &code[..CODE / 2], &code[CODE / 2..])
}

/// A code as a person types it: in any case, with or without the hyphen.
fn typed(text: &str) -> Option<String> {
    if text.len() > 64 {
        return None;
    }
    let separator = |c: char| c.is_whitespace() || c == '-';
    let code: String = text.chars().filter(|c| !separator(*c)).map(|c| c.to_ascii_uppercase()).collect();
    let ours = code.len() == CODE && code.bytes().all(|byte| LETTERS.contains(&byte));
    ours.then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        for text in ["WDJBMJHT", "wdjb-mjht", " WDJB MJHT\n", "wdjb--mjht"] {
            assert_eq!(typed(text).as_deref(), Some("WDJBMJHT"), "{text:?}");
        }
        for text in ["", "WDJB", "WDJB-MJHTX", "WDJA-MJHT", "WDJB_MJHT", "ＷDJB-MJHT", &"-".repeat(100)] {
            assert_eq!(typed(text), None, "{text:?}");
        }
        let codes: std::collections::HashSet<String> =
            (0..200).map(|_| user_code(&Entropy::default())).collect();
        assert!(codes.len() == 200 && codes.iter().all(|code| typed(code).as_ref() == Some(code)));
    }
}
