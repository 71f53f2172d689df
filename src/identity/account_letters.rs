//! Letters to a person, of no workspace: links to choose a password, and word that something about their sign-in changed.
//! As with invitations, the job names what the letter is about, and the text is made when it is sent.

use askama::Template;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::Identity;
use super::letters::{Carrier, Mail};
use super::password::version_of;
use super::password_links::{LINK, LinkPurpose};
use crate::jobs::queue::job_add;
use crate::kernel::ids::{AccountId, PasswordLinkId};
use crate::kernel::{Error, Result, codes};

/// The kind of the job that sends such a letter.
pub const JOB: &str = "account_letter";

/// What is written about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "letter", rename_all = "snake_case")]
pub enum AccountLetter {
    PasswordLink {
        link: PasswordLinkId,
    },
    /// `at` tells one from the next of the same kind.
    Notice {
        account: AccountId,
        what: Notice,
        at: DateTime<Utc>,
    },
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    PasswordAdded,
    PasswordChanged,
    PasswordReset,
    SecondFactorOn,
    SecondFactorOff,
    RecoveryCodes,
}

impl Notice {
    const fn subject(self) -> &'static str {
        match self {
            Self::PasswordAdded => "A password was added to your account",
            Self::PasswordChanged => "Your password was changed",
            Self::PasswordReset => "Your password was reset",
            Self::SecondFactorOn => "A second factor was turned on",
            Self::SecondFactorOff => "Your second factor was turned off",
            Self::RecoveryCodes => "You have new recovery codes",
        }
    }
}

#[derive(Template)]
#[template(path = "mail/account.txt", escape = "none")]
struct Text<'a> {
    lines: &'a [String],
    link: Option<(&'a str, &'a str)>,
}

#[derive(Template)]
#[template(path = "mail/account.html")]
struct Html<'a> {
    lines: &'a [String],
    link: Option<(&'a str, &'a str)>,
}

/// A letter of plain lines, with one address to go to.
///
/// # Errors
/// None that a line could cause.
pub fn mail(to: String, subject: String, lines: &[String], link: Option<(&str, &str)>) -> Result<Mail> {
    Ok(Mail {
        to,
        subject,
        text: Text { lines, link }.render().map_err(Error::internal)?,
        html: Html { lines, link }.render().map_err(Error::internal)?,
    })
}

/// Asks for a letter in the caller's transaction.
pub(super) async fn account_letter_post(
    conn: &mut PgConnection,
    letter: &AccountLetter,
    now: DateTime<Utc>,
) -> Result<()> {
    let payload = serde_json::to_value(letter).map_err(Error::internal)?;
    job_add(conn, JOB, None, None, payload, now).await
}

/// Carries out a job of kind [`JOB`].
///
/// # Errors
/// As `letters::letter_send`.
pub async fn account_letter_send(
    identity: &Identity,
    carrier: Option<&Carrier>,
    payload: Value,
) -> Result<()> {
    let letter: AccountLetter = serde_json::from_value(payload).map_err(Error::internal)?;
    let Some(mail) = account_letter_write(identity, &letter).await? else { return Ok(()) };
    match (carrier, letter) {
        (Some(carrier), _) => carrier(mail).await,
        // Where no mail is sent at all, nobody waits for word of a change.
        (None, AccountLetter::Notice { .. }) => Ok(()),
        (None, AccountLetter::PasswordLink { .. }) => Err(Error::new(&codes::STATE_CONFLICT)
            .detail("this worker has no mail settings")
            .hint("give it the same FREEHOLD_IDENTITY as the servers")),
    }
}

/// Writes a letter. None when there is nobody to write to, or no more reason.
pub async fn account_letter_write(identity: &Identity, letter: &AccountLetter) -> Result<Option<Mail>> {
    match letter {
        AccountLetter::PasswordLink { link } => write_link(identity, *link).await,
        AccountLetter::Notice { account, what, at } => write_notice(identity, *account, *what, *at).await,
    }
}

async fn write_link(identity: &Identity, id: PasswordLinkId) -> Result<Option<Mail>> {
    let mut conn = identity.cp.db.acquire().await?;
    let found: Option<(LinkPurpose, String)> = sqlx::query_as(
        "SELECT purpose, email FROM password_link WHERE id = $1 AND used_at IS NULL AND expires_at > $2",
    )
    .bind(id)
    .bind(identity.cp.clock.now())
    .fetch_optional(&mut *conn)
    .await?;
    let Some((purpose, email)) = found else { return Ok(None) };
    let version = version_of(&mut conn, &email).await?;
    let (site, base) = (&identity.cp.addresses.base_domain, identity.cp.addresses.base_url());
    let secret = identity.master.link_secret(LINK, &id.to_string(), version);
    let link = format!("{base}/sign-in/password/links/{id}?secret={secret}");
    let ignore = "If this was not you, ignore this e-mail, and nothing will happen.".to_owned();
    let once = "The link works once, within an hour.".to_owned();
    Ok(Some(match (purpose, version) {
        (LinkPurpose::SignUp, 0) => mail(
            email,
            format!("Confirm your address for {site}"),
            &[
                format!("Somebody, hopefully you, wants to create an account at {site} with this address."),
                once,
                ignore,
            ],
            Some(("Choose a password", link.as_str())),
        )?,
        // No link: whoever asked said that they were new here.
        (LinkPurpose::SignUp, _) => mail(
            email,
            format!("You already have an account at {site}"),
            &[
                format!(
                    "Somebody, hopefully you, wanted an account at {site} with this address. There already is one."
                ),
                "Sign in with your password, or choose a new one there if you have forgotten it.".to_owned(),
                ignore,
            ],
            Some(("Sign in", format!("{base}/sign-in").as_str())),
        )?,
        // Nobody to write to: strangers do not send people mail through us.
        (LinkPurpose::Reset, 0) => return Ok(None),
        (LinkPurpose::Reset, _) => mail(
            email,
            format!("A new password for {site}"),
            &[
                format!("Somebody, hopefully you, forgot the password of your account at {site}."),
                format!("{once} A new password signs you out everywhere."),
                ignore,
            ],
            Some(("Choose a new password", link.as_str())),
        )?,
        (LinkPurpose::Add, _) => mail(
            email,
            format!("Add a password to your account at {site}"),
            &[
                format!("You asked to be able to sign in to {site} with this address and a password, too."),
                format!("{once} Open it in the browser where you are signed in."),
                ignore,
            ],
            Some(("Choose a password", link.as_str())),
        )?,
    }))
}

async fn write_notice(
    identity: &Identity,
    account: AccountId,
    what: Notice,
    at: DateTime<Utc>,
) -> Result<Option<Mail>> {
    let email: Option<Option<String>> = sqlx::query_scalar(
        "SELECT coalesce(p.email, a.email) FROM account a LEFT JOIN account_password p ON p.account = a.id
          WHERE a.id = $1 AND a.deleted_at IS NULL",
    )
    .bind(account)
    .fetch_optional(&identity.cp.db)
    .await?;
    let Some(email) = email.flatten() else { return Ok(None) };
    let base = identity.cp.addresses.base_url();
    let lines = [
        format!("{}.", what.subject()),
        format!("That was on {}.", at.format("%-d %B %Y at %H:%M:%S UTC")),
        "If it was not you, somebody else has access to your account: choose a new password, and check where you \
         are signed in."
            .to_owned(),
    ];
    mail(email, what.subject().to_owned(), &lines, Some(("Your account", format!("{base}/account").as_str())))
        .map(Some)
}
