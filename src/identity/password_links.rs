//! Mailed links with which a password is chosen: for a new account, in place of a forgotten one, or beside the other ways
//! into an account.
//!
//! Asking does the same work and gives the same answer whatever the address is: who is known is looked up by the worker that
//! writes the letter. Nothing is made before a link was used.

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::account_letters::{AccountLetter, Notice, account_letter_post};
use super::accounts::{Vouched, account_enter, link_add};
use super::arrive::Here;
use super::enter::{LetIn, Proven};
use super::password::{PROVIDER, address, of_address, version_of};
use super::password_rules::acceptable;
use super::sessions::{Asking, session_is_fresh};
use super::throttle::{self, Rate};
use crate::control_plane::audit::{Caller, audit_add};
use crate::db::error::violated;
use crate::db::on_constraint;
use crate::kernel::ids::{AccountId, PasswordLinkId};
use crate::kernel::{Error, Result, codes};

/// What a link's secret is derived for.
pub const LINK: &str = "password";
/// How long a mailed link works. Not shorter than what [`LETTERS`] lets one more letter wait.
const LINK_LIFE: TimeDelta = TimeDelta::hours(1);
/// Letters to one address, whoever asks.
const LETTERS: Rate = Rate { every: TimeDelta::minutes(30), burst: 3 };
/// Letters that one client's network may ask for.
const ASKED: Rate = Rate { every: TimeDelta::seconds(30), burst: 10 };

/// What a mailed link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum LinkPurpose {
    /// A new account.
    SignUp,
    /// Another password in place of a forgotten one.
    Reset,
    /// A password beside the other ways into an account.
    Add,
}

/// What somebody with a good link is shown.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LinkFor {
    pub purpose: LinkPurpose,
    pub email: String,
    #[sqlx(default)]
    account: Option<AccountId>,
}

/// What is chosen with a link.
pub struct Choice<'a> {
    pub link: PasswordLinkId,
    pub secret: &'a str,
    pub password: SecretString,
    /// What a new person wants to be called.
    pub name: Option<&'a str>,
    pub browser_hash: [u8; 32],
}

/// What came of it.
pub enum Chosen {
    /// A new account, signed in.
    SignedUp(LetIn),
    /// A new password; signed out everywhere.
    Reset,
    /// The account has a password now.
    Added,
}

fn gone() -> Error {
    Error::new(&codes::NOT_FOUND)
        .detail("this link was used, is too old, or is not whole")
        .hint("ask for another one")
}

impl Identity {
    /// Asks for a link by mail. Says nothing about the address: not whether it is known, nor whether a letter is sent.
    ///
    /// # Errors
    /// `invalid_fields` for what is no address; `rate_limited` for one network's too many; with an account, which adds a
    /// password, `confirm_required` without a fresh sign-in.
    pub async fn password_ask(
        &self,
        purpose: LinkPurpose,
        email: &str,
        here: Option<Here>,
        from: &str,
    ) -> Result<()> {
        self.passwords_are_on()?;
        let (email, now) = (address(email)?, self.cp.clock.now());
        let mut conn = self.cp.db.acquire().await?;
        throttle::take_of_network(&mut conn, "password-letters", from, ASKED, now).await?;
        if let Some(here) = here {
            session_is_fresh(&mut conn, here.account, here.session, now).await?;
        }
        let letters = format!("password-letters-to:{}", of_address(&email));
        match throttle::take(&mut conn, &letters, LETTERS, now).await {
            Ok(()) => {}
            // As if it were sent: what this address was sent before is nobody else's business.
            Err(error) if error.is(&codes::RATE_LIMITED) => return Ok(()),
            Err(error) => return Err(error),
        }
        drop(conn);
        let mut tx = self.cp.db.begin().await?;
        let link = PasswordLinkId::new();
        sqlx::query(
            "INSERT INTO password_link (id, purpose, email, account, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(link)
        .bind(purpose)
        .bind(&email)
        .bind(here.map(|here| here.account))
        .bind(now)
        .bind(now + LINK_LIFE)
        .execute(&mut *tx)
        .await?;
        account_letter_post(&mut tx, &AccountLetter::PasswordLink { link }, now).await?;
        Ok(tx.commit().await?)
    }

    /// What a link is for. One answer for everything that is no good link.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn password_link(&self, link: PasswordLinkId, secret: &str) -> Result<LinkFor> {
        self.passwords_are_on()?;
        let mut conn = self.cp.db.acquire().await?;
        self.good_link(&mut conn, link, secret, self.cp.clock.now()).await
    }

    /// The link's row is locked: of two at once, one uses it.
    async fn good_link(
        &self,
        conn: &mut PgConnection,
        link: PasswordLinkId,
        secret: &str,
        now: DateTime<Utc>,
    ) -> Result<LinkFor> {
        let found: Option<LinkFor> = sqlx::query_as(
            "SELECT purpose, email, account FROM password_link
              WHERE id = $1 AND used_at IS NULL AND expires_at > $2 FOR UPDATE",
        )
        .bind(link)
        .bind(now)
        .fetch_optional(&mut *conn)
        .await?;
        let version = match &found {
            Some(found) => version_of(conn, &found.email).await?,
            None => 0,
        };
        let good = self.master.link_is_good(LINK, &link.to_string(), version, secret);
        found.filter(|_| good).ok_or_else(gone)
    }

    /// Chooses a password with a link, which is used up by it.
    ///
    /// # Errors
    /// `not_found` for no good link; `invalid_fields` for a password that is refused; `forbidden` when a password is to be
    /// added and the browser is not signed in as who asked; `conflict` when the address signs in to another account.
    pub async fn password_choose(
        &self,
        choice: &Choice<'_>,
        here: Option<Here>,
        asking: &Asking,
    ) -> Result<Chosen> {
        // Before the hash: nobody without a link makes us compute one.
        let asked = self.password_link(choice.link, choice.secret).await?;
        acceptable(choice.password.expose_secret(), &asked.email)?;
        let hash = self.passwords.hash(&choice.password, &self.cp.entropy).await?;
        let now = self.cp.clock.now();
        let mut tx = self.cp.db.begin().await?;
        let asked = self.good_link(&mut tx, choice.link, choice.secret, now).await?;
        // All that are out for this address: who proved it once has what they wanted.
        sqlx::query("UPDATE password_link SET used_at = $2 WHERE email = $1 AND used_at IS NULL")
            .bind(&asked.email)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        let chosen = match asked.purpose {
            LinkPurpose::SignUp => {
                let account = self.password_sign_up(&mut tx, &asked.email, choice.name, &hash, now).await?;
                let proven = Proven {
                    account,
                    new: true,
                    method: PROVIDER.to_owned(),
                    action: "session.start",
                    return_to: "/",
                    browser_hash: choice.browser_hash,
                };
                Chosen::SignedUp(self.let_in(&mut tx, &proven, here, asking, now).await?)
            }
            LinkPurpose::Reset => {
                let account: AccountId =
                    sqlx::query_scalar("SELECT account FROM account_password WHERE email = $1")
                        .bind(&asked.email)
                        .fetch_optional(&mut *tx)
                        .await?
                        .ok_or_else(gone)?;
                let caller = Caller { actor: account.to_string(), request_id: asking.request_id.clone() };
                self.password_replace(&mut tx, (&caller, account), &hash, None, Notice::PasswordReset, now)
                    .await?;
                Chosen::Reset
            }
            LinkPurpose::Add => {
                let here = here.filter(|here| Some(here.account) == asked.account).ok_or_else(|| {
                    Error::new(&codes::FORBIDDEN)
                        .detail("this link is for an account that this browser is not signed in to")
                        .hint("open it in the browser where you asked for it")
                })?;
                self.password_add(&mut tx, here, &asked.email, &hash, asking, now).await?;
                Chosen::Added
            }
        };
        tx.commit().await?;
        Ok(chosen)
    }

    /// What this site vouches for.
    fn password_vouched(&self, email: &str, name: Option<&str>) -> Vouched {
        Vouched {
            issuer: self.keyring.issuer().to_owned(),
            // Not the address: that may change hands.
            subject: format!("pwd_{}", self.cp.entropy.base32::<20>()),
            provider: PROVIDER.to_owned(),
            name: name.map(str::to_owned),
            email: Some(email.to_owned()),
            email_verified: true,
        }
    }

    async fn password_sign_up(
        &self,
        conn: &mut PgConnection,
        email: &str,
        name: Option<&str>,
        hash: &str,
        now: DateTime<Utc>,
    ) -> Result<AccountId> {
        let (account, _) = account_enter(&mut *conn, &self.password_vouched(email, name), now).await?;
        let made = insert(conn, account, email, hash, now).await;
        made.map_err(|error| if error.is(&codes::CONFLICT) { gone() } else { error })?;
        Ok(account)
    }

    async fn password_add(
        &self,
        conn: &mut PgConnection,
        here: Here,
        email: &str,
        hash: &str,
        asking: &Asking,
        now: DateTime<Utc>,
    ) -> Result<()> {
        session_is_fresh(&mut *conn, here.account, here.session, now).await?;
        insert(&mut *conn, here.account, email, hash, now).await?;
        link_add(&mut *conn, here.account, &self.password_vouched(email, None), now).await?;
        let caller = Caller { actor: here.account.to_string(), request_id: asking.request_id.clone() };
        let whose = here.account.to_string();
        audit_add(&mut *conn, &caller, now, "password.add", None, &whose, json!({})).await?;
        let letter = AccountLetter::Notice { account: here.account, what: Notice::PasswordAdded, at: now };
        account_letter_post(conn, &letter, now).await
    }
}

async fn insert(
    conn: &mut PgConnection,
    account: AccountId,
    email: &str,
    hash: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let inserted = sqlx::query(
        "INSERT INTO account_password (account, email, hash, updated_at) VALUES ($1, $2, $3, $4)",
    )
    .bind(account)
    .bind(email)
    .bind(hash)
    .bind(now)
    .execute(conn)
    .await;
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if violated(&error) == Some("account_password_pkey") => {
            Err(Error::new(&codes::STATE_CONFLICT)
                .detail("this account has a password already")
                .source(error))
        }
        Err(error) => Err(on_constraint("account_password_email_key", &codes::CONFLICT)(error)),
    }
}
