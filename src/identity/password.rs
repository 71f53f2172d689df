//! An address and a password as a way in, where the settings switch it on.
//!
//! Such an account is (this site, a random subject), as every account is (issuer, subject): an address that is proven here
//! leads to no account that another issuer vouches for, and none of theirs leads here.
//!
//! Nothing is made before the address is proven by a mailed link: see `password_links`.
//!
//! Guessing is slowed down for each address and each network, by waits that grow. What strangers do cannot lock a person
//! out: their waits are of their own networks; what all networks together may try of one address has an end too, and a
//! browser that signed in before is not counted with the strangers. And a mailed link is always a way in: a stranger who
//! uses up the letters to an address has them sent to that address, where each works for as long as it takes until the
//! next may be sent.

use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::account_letters::{AccountLetter, Notice, account_letter_post};
use super::arrive::Here;
use super::enter::{LetIn, Proven};
use super::oidc::plausible;
use super::password_rules::acceptable;
use super::passwords::Verdict;
use super::sessions::{Asking, account_alone, account_shared, session_is_live, session_revoke_others};
use super::throttle::{self, Rate, network};
use super::tries::{self, Patience};
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::AccountId;
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Result, codes};

/// What the provider is called in an account's list, and the method of its sessions.
pub const PROVIDER: &str = "password";
/// What the mark of a browser that signed in before is derived for.
const KNOWN: &str = "known-browser";
/// Passwords that one client's network may try, of all addresses together: an office comes to work at nine.
const OF_NETWORK: Rate = Rate { every: TimeDelta::seconds(3), burst: 60 };
/// Tries of one address by browsers that never signed in to it, from everywhere together.
const BY_STRANGERS: Rate = Rate { every: TimeDelta::seconds(60), burst: 60 };
/// Tries of one address from one network, or by a browser that it knows.
const TRIES: Patience = Patience {
    free: 5,
    first: TimeDelta::seconds(2),
    most: TimeDelta::minutes(15),
    forget: TimeDelta::hours(24),
};

/// A password that is tried.
pub struct Tried<'a> {
    pub email: &'a str,
    pub password: SecretString,
    /// The mark of a browser that signed in to this address before.
    pub known: Option<&'a str>,
    pub return_to: &'a str,
    pub browser_hash: [u8; 32],
}

/// It was right.
pub struct Entered {
    pub let_in: LetIn,
    /// For the browser to be known by: lets nobody in, and is worth nothing after the next change of password.
    pub known: String,
}

/// The version of an address's password; 0 when it has none.
pub(super) async fn version_of(conn: &mut PgConnection, email: &str) -> Result<i32> {
    let version: Option<i32> = sqlx::query_scalar("SELECT version FROM account_password WHERE email = $1")
        .bind(email)
        .fetch_optional(conn)
        .await?;
    Ok(version.unwrap_or(0))
}

/// The address that an account signs in with by password, if it does.
pub async fn password_email(conn: &mut PgConnection, account: AccountId) -> Result<Option<String>> {
    Ok(sqlx::query_scalar("SELECT email FROM account_password WHERE account = $1")
        .bind(account)
        .fetch_optional(conn)
        .await?)
}

#[derive(sqlx::FromRow)]
struct Known {
    account: AccountId,
    hash: String,
    version: i32,
}

fn wrong() -> Error {
    Error::new(&codes::SIGN_IN_FAILED).detail("the address or the password is wrong")
}

pub(super) fn address(email: &str) -> Result<String> {
    let email = email.trim().to_lowercase();
    if plausible(&email) { Ok(email) } else { Err(Error::field("email", "is not an e-mail address")) }
}

pub(super) fn of_address(email: &str) -> String {
    HEXLOWER.encode(&sha256(email.as_bytes()))
}

impl Identity {
    /// Whether there is this way in at all.
    ///
    /// # Errors
    /// `not_found` where it is switched off.
    pub fn passwords_are_on(&self) -> Result<()> {
        if self.settings.password.enabled { Ok(()) } else { Err(Error::new(&codes::NOT_FOUND)) }
    }

    /// Another password: links that are out are dead, and so are all sessions but the one it is done from.
    pub(super) async fn password_replace(
        &self,
        conn: &mut PgConnection,
        (caller, account): (&Caller, AccountId),
        hash: &str,
        keep: Option<Here>,
        what: Notice,
        now: DateTime<Utc>,
    ) -> Result<()> {
        // A sign-in with the old one is either over, and its session is among those that end, or finds the new one.
        account_alone(&mut *conn, account).await?;
        sqlx::query(
            "UPDATE account_password SET hash = $2, version = version + 1, updated_at = $3 WHERE account = $1",
        )
        .bind(account)
        .bind(hash)
        .bind(now)
        .execute(&mut *conn)
        .await?;
        // Whoever got past the old one and not yet past the second factor begins again.
        sqlx::query("DELETE FROM second_step WHERE account = $1").bind(account).execute(&mut *conn).await?;
        session_revoke_others(&mut *conn, account, keep.map(|here| here.session), now).await?;
        let action = if what == Notice::PasswordReset { "password.reset" } else { "password.change" };
        audit_add(&mut *conn, caller, now, action, None, &account.to_string(), json!({})).await?;
        account_letter_post(conn, &AccountLetter::Notice { account, what, at: now }, now).await
    }

    /// Changes the password of a person who is signed in and knows the one they have. Everywhere else they are signed out.
    ///
    /// # Errors
    /// `sign_in_failed` for a wrong one; `invalid_fields`; `not_found` for an account without; `rate_limited`;
    /// `sign_in_required`.
    pub async fn password_change(
        &self,
        caller: &Caller,
        here: Here,
        (current, new): (SecretString, SecretString),
    ) -> Result<()> {
        self.passwords_are_on()?;
        let mut conn = self.cp.db.acquire().await?;
        let email = password_email(&mut conn, here.account).await?;
        let email = email.ok_or_else(|| Error::new(&codes::NOT_FOUND))?;
        drop(conn);
        acceptable(new.expose_secret(), &email)?;
        self.right_here(here, &email, &current).await?;
        let hash = self.passwords.hash(&new, &self.cp.entropy).await?;
        let now = self.cp.clock.now();
        let mut tx = self.cp.db.begin().await?;
        if !session_is_live(&mut tx, here.account, here.session, now).await? {
            return Err(Error::new(&codes::SIGN_IN_REQUIRED));
        }
        self.password_replace(
            &mut tx,
            (caller, here.account),
            &hash,
            Some(here),
            Notice::PasswordChanged,
            now,
        )
        .await?;
        Ok(tx.commit().await?)
    }

    /// A fresh sign-in of a person who is signed in, by the password.
    ///
    /// # Errors
    /// As [`Identity::password_change`].
    pub async fn password_confirm(
        &self,
        here: Here,
        password: &SecretString,
        (return_to, browser_hash): (&str, [u8; 32]),
        asking: &Asking,
    ) -> Result<LetIn> {
        self.passwords_are_on()?;
        let mut conn = self.cp.db.acquire().await?;
        let email = password_email(&mut conn, here.account).await?;
        let email = email.ok_or_else(|| Error::new(&codes::NOT_FOUND))?;
        drop(conn);
        self.right_here(here, &email, password).await?;
        let proven = Proven {
            account: here.account,
            new: false,
            method: PROVIDER.to_owned(),
            action: "session.confirm",
            return_to,
            browser_hash,
        };
        let now = self.cp.clock.now();
        let mut tx = self.cp.db.begin().await?;
        account_shared(&mut tx, here.account).await?;
        if !session_is_live(&mut tx, here.account, here.session, now).await? {
            return Err(Error::new(&codes::SIGN_IN_REQUIRED));
        }
        let let_in = self.let_in(&mut tx, &proven, Some(here), asking, now).await?;
        tx.commit().await?;
        Ok(let_in)
    }

    /// Whether it is the password of the person who is signed in here. Their tries are counted apart from strangers'.
    async fn right_here(&self, here: Here, email: &str, password: &SecretString) -> Result<()> {
        let subject = format!("password:{}:here", of_address(email));
        let mut conn = self.cp.db.acquire().await?;
        tries::begin(&mut conn, &subject, TRIES, self.cp.clock.now()).await?;
        let known = known(&mut conn, email).await?.filter(|known| known.account == here.account);
        drop(conn);
        let verdict =
            self.passwords.verify(password, known.as_ref().map(|known| known.hash.as_str())).await?;
        if verdict == Verdict::Wrong {
            return Err(wrong());
        }
        tries::good(&mut *self.cp.db.acquire().await?, &subject).await
    }

    /// Signs in with an address and a password.
    ///
    /// # Errors
    /// `sign_in_failed`, with one answer for an unknown address and a wrong password, after the same work; `rate_limited`.
    pub async fn password_enter(
        &self,
        tried: &Tried<'_>,
        here: Option<Here>,
        asking: &Asking,
    ) -> Result<Entered> {
        self.passwords_are_on()?;
        let (email, now) = (address(tried.email)?, self.cp.clock.now());
        let (whose, from) = (of_address(&email), &asking.device.address);
        let mut conn = self.cp.db.acquire().await?;
        throttle::take_of_network(&mut conn, "password", from, OF_NETWORK, now).await?;
        let known = known(&mut conn, &email).await?;
        let version = known.as_ref().map_or(0, |known| known.version);
        let mark = self.master.link_secret(KNOWN, &email, version);
        let familiar = self.master.link_is_good(KNOWN, &email, version, tried.known.unwrap_or_default());
        let subject = if familiar {
            format!("password:{whose}:known")
        } else {
            format!("password:{whose}:{}", network(from).unwrap_or_default())
        };
        tries::begin(&mut conn, &subject, TRIES, now).await?;
        if !familiar {
            throttle::take(&mut conn, &format!("password-of:{whose}"), BY_STRANGERS, now).await?;
        }
        // Nobody waits for a processor with a connection in hand.
        drop(conn);
        let hash = known.as_ref().map(|known| known.hash.as_str());
        let verdict = self.passwords.verify(&tried.password, hash).await?;
        let known = known.filter(|_| verdict != Verdict::Wrong).ok_or_else(wrong)?;
        if verdict == Verdict::RightAndWeak {
            self.hash_anew(&known, &tried.password).await?;
        }
        let mut tx = self.cp.db.begin().await?;
        account_shared(&mut tx, known.account).await?;
        let touched = sqlx::query(
            "UPDATE account_identity i SET last_used_at = $2 FROM account_password p
              WHERE p.account = $1 AND p.version = $3 AND i.account = p.account AND i.provider = $4",
        )
        .bind(known.account)
        .bind(now)
        .bind(version)
        .bind(PROVIDER)
        .execute(&mut *tx)
        .await?;
        // Changed or taken away while it was looked at.
        if touched.rows_affected() == 0 {
            return Err(wrong());
        }
        tries::good(&mut tx, &subject).await?;
        let proven = Proven {
            account: known.account,
            new: false,
            method: PROVIDER.to_owned(),
            action: "session.start",
            return_to: tried.return_to,
            browser_hash: tried.browser_hash,
        };
        let let_in = self.let_in(&mut tx, &proven, here, asking, now).await?;
        tx.commit().await?;
        Ok(Entered { let_in, known: mark })
    }

    /// The same password with the parameters of today.
    async fn hash_anew(&self, known: &Known, password: &SecretString) -> Result<()> {
        let hash = self.passwords.hash(password, &self.cp.entropy).await?;
        sqlx::query("UPDATE account_password SET hash = $2 WHERE account = $1 AND version = $3")
            .bind(known.account)
            .bind(hash)
            .bind(known.version)
            .execute(&self.cp.db)
            .await?;
        Ok(())
    }
}

async fn known(conn: &mut PgConnection, email: &str) -> Result<Option<Known>> {
    Ok(sqlx::query_as(
        "SELECT p.account, p.hash, p.version FROM account_password p JOIN account a ON a.id = p.account
          WHERE p.email = $1 AND a.deleted_at IS NULL",
    )
    .bind(email)
    .fetch_optional(conn)
    .await?)
}
