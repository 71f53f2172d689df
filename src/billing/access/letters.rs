//! Mails to a workspace's owners about money. The job names what the mail is about; the text is made when it is sent.

use askama::Template;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::Access;
use crate::billing::customers::{account_of, owners, page_of};
use crate::control_plane::ControlPlane;
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::identity::letters::{Carrier, Mail};
use crate::jobs::queue::job_add;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result};

/// The kind of the job that sends such a letter.
pub const JOB: &str = "billing_letter";

/// What is written about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "letter", rename_all = "snake_case")]
pub enum Letter {
    /// A payment did not work.
    Owed,
    /// Nothing new can be made.
    PastDue,
    /// It can only be read.
    Restricted,
    /// It is shut.
    Suspended,
    /// It is paid, and open again.
    Paid,
    /// The subscription has ended.
    Canceled,
    /// A trial ends.
    TrialEnds { at: DateTime<Utc> },
}

impl Letter {
    /// The letter about a change of access, if it is worth one.
    pub fn about(from: Access, to: Access) -> Option<Self> {
        match to {
            Access::Grace => Some(Self::Owed),
            Access::PastDue => Some(Self::PastDue),
            Access::Restricted => Some(Self::Restricted),
            Access::Suspended => Some(Self::Suspended),
            Access::Canceled => Some(Self::Canceled),
            Access::Active if from.rank() > 0 => Some(Self::Paid),
            Access::Active | Access::Trialing => None,
        }
    }

    fn subject(&self, workspace: &str) -> String {
        match self {
            Self::Owed => format!("{workspace}: a payment is due"),
            Self::PastDue => format!("{workspace}: still unpaid, nothing new can be added"),
            Self::Restricted => format!("{workspace} is read-only until it is paid"),
            Self::Suspended => format!("{workspace} is suspended until it is paid"),
            Self::Paid => format!("{workspace} is paid, thank you"),
            Self::Canceled => format!("The subscription of {workspace} has ended"),
            Self::TrialEnds { .. } => format!("The trial of {workspace} ends soon"),
        }
    }

    fn lines(&self, workspace: &str) -> Vec<String> {
        let first = match self {
            Self::Owed => format!("A payment for the workspace {workspace} is due and has not been made."),
            Self::PastDue => format!(
                "The workspace {workspace} is still unpaid. Work on what is there can go on; nothing can be added."
            ),
            Self::Restricted => {
                format!(
                    "The workspace {workspace} is still unpaid. Everything can be read; nothing can be changed."
                )
            }
            Self::Suspended => format!(
                "The workspace {workspace} is suspended because it is unpaid. Its data is kept, and it opens again as \
                 soon as it is paid."
            ),
            Self::Paid => format!("The workspace {workspace} is paid. Everything works as before."),
            Self::Canceled => format!(
                "The subscription of the workspace {workspace} has ended. For {} days, everything can still be \
                 read and copied.",
                super::decide::EXPORT_DAYS
            ),
            Self::TrialEnds { at } => format!(
                "The trial of the workspace {workspace} ends on {}. After that, its plan is charged.",
                at.format("%-d %B %Y")
            ),
        };
        let second = match self {
            Self::Paid => return vec![first],
            Self::Canceled => "To continue, choose a plan.".to_owned(),
            Self::TrialEnds { .. } => "The page of its plan shows what it costs and how to pay.".to_owned(),
            _ => "The page of its plan shows how to pay. If you have just paid, please ignore this e-mail."
                .to_owned(),
        };
        vec![first, second]
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

/// Asks for a letter in the caller's transaction: it is sent if that commits.
///
/// # Errors
/// When the control database does not answer.
pub async fn post(
    conn: &mut PgConnection,
    tenant: TenantId,
    letter: &Letter,
    now: DateTime<Utc>,
) -> Result<()> {
    let payload = serde_json::to_value(letter).map_err(Error::internal)?;
    job_add(conn, JOB, Some(tenant), None, payload, now).await
}

/// Carries out a job of kind [`JOB`]: to each owner, or to the address that Stripe has.
///
/// # Errors
/// What the carrier says. Where no mail is sent at all, nobody waits for one.
pub async fn send(
    cp: &ControlPlane,
    carrier: Option<&Carrier>,
    tenant: TenantId,
    payload: Value,
) -> Result<()> {
    let letter: Letter = serde_json::from_value(payload).map_err(Error::internal)?;
    let Some(carrier) = carrier else { return Ok(()) };
    for mail in write(cp, tenant, &letter).await? {
        carrier(mail).await?;
    }
    Ok(())
}

/// Writes a letter, one for each who gets it.
///
/// # Errors
/// When the control database does not answer.
pub async fn write(cp: &ControlPlane, tenant: TenantId, letter: &Letter) -> Result<Vec<Mail>> {
    let mut conn = cp.db.acquire().await?;
    let row = tenant_find(&mut conn, &TenantRef::Id(tenant)).await?;
    let mut to = owners(&mut conn, tenant).await?;
    if to.is_empty() {
        to.extend(account_of(&mut conn, tenant).await?.and_then(|account| account.email));
    }
    drop(conn);
    let workspace: String = row.name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let (subject, lines) = (letter.subject(&workspace), letter.lines(&workspace));
    let address = format!("{}{}", cp.addresses.base_url(), page_of(tenant));
    let link = Some(("The workspace's plan", address.as_str()));
    let text = Text { lines: &lines, link }.render().map_err(Error::internal)?;
    let html = Html { lines: &lines, link }.render().map_err(Error::internal)?;
    let mail = |to| Mail { to, subject: subject.clone(), text: text.clone(), html: html.clone() };
    Ok(to.into_iter().map(mail).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_that_somebody_feels_is_worth_a_letter() {
        assert_eq!(Letter::about(Access::Active, Access::Trialing), None);
        assert_eq!(Letter::about(Access::Trialing, Access::Active), None);
        assert_eq!(Letter::about(Access::Grace, Access::Active), Some(Letter::Paid));
        assert_eq!(Letter::about(Access::Suspended, Access::Restricted), Some(Letter::Restricted));
        let text = Letter::Suspended.lines("Acme").join(" ");
        assert!(text.contains("Acme") && text.contains("kept"), "{text}");
    }
}
