//! Mails to a workspace's owners about money. The job names what the mail is about; the text is made when it is sent.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::Access;
use crate::billing::customers::{account_of, page_of};
use crate::control_plane::ControlPlane;
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::identity::account_letters::mail;
use crate::identity::letters::{Carrier, Mail};
use crate::jobs::queue::job_add;
use crate::kernel::ids::{AccountId, TenantId};
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

/// Owners of one tenant who are written to.
const OWNERS: i64 = 20;

/// What a job of kind [`JOB`] is about: a letter to one owner. Without one, it goes to the address that Stripe has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    #[serde(flatten)]
    letter: Letter,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<AccountId>,
}

/// Asks for a letter in the caller's transaction: it is sent if that commits. Each owner's is a job of its own: an address that does
/// not work is tried again, and nobody else gets theirs twice, or never.
///
/// # Errors
/// When the control database does not answer.
pub async fn post(
    conn: &mut PgConnection,
    tenant: TenantId,
    letter: &Letter,
    now: DateTime<Utc>,
) -> Result<()> {
    let owners: Vec<AccountId> = sqlx::query_scalar(
        "SELECT m.account FROM membership m JOIN account a ON a.id = m.account
          WHERE m.tenant = $1 AND m.role = 'owner' AND a.email IS NOT NULL AND a.deleted_at IS NULL
          ORDER BY m.joined_at, m.account LIMIT $2",
    )
    .bind(tenant)
    .bind(OWNERS)
    .fetch_all(&mut *conn)
    .await?;
    let to = if owners.is_empty() { vec![None] } else { owners.into_iter().map(Some).collect() };
    for account in to {
        let job = Job { letter: letter.clone(), account };
        let payload = serde_json::to_value(&job).map_err(Error::internal)?;
        job_add(&mut *conn, JOB, Some(tenant), None, payload, now).await?;
    }
    Ok(())
}

/// Carries out a job of kind [`JOB`].
///
/// # Errors
/// What the carrier says. Where no mail is sent at all, nobody waits for one.
pub async fn send(
    cp: &ControlPlane,
    carrier: Option<&Carrier>,
    tenant: TenantId,
    payload: Value,
) -> Result<()> {
    let Job { letter, account } = serde_json::from_value(payload).map_err(Error::internal)?;
    let Some(carrier) = carrier else { return Ok(()) };
    match write(cp, tenant, &letter, account).await? {
        Some(mail) => carrier(mail).await,
        None => Ok(()),
    }
}

/// Writes a letter to an owner, or to the address that Stripe has. None when they are no owner any more, or there is none.
///
/// # Errors
/// When the control database does not answer.
pub async fn write(
    cp: &ControlPlane,
    tenant: TenantId,
    letter: &Letter,
    account: Option<AccountId>,
) -> Result<Option<Mail>> {
    let mut conn = cp.db.acquire().await?;
    let row = tenant_find(&mut conn, &TenantRef::Id(tenant)).await?;
    let to: Option<String> = match account {
        Some(account) => {
            sqlx::query_scalar(
                "SELECT a.email FROM membership m JOIN account a ON a.id = m.account
                  WHERE m.tenant = $1 AND m.account = $2 AND m.role = 'owner' AND a.email IS NOT NULL
                    AND a.deleted_at IS NULL",
            )
            .bind(tenant)
            .bind(account)
            .fetch_optional(&mut *conn)
            .await?
        }
        None => account_of(&mut conn, tenant).await?.and_then(|account| account.email),
    };
    drop(conn);
    let Some(to) = to else { return Ok(None) };
    let workspace: String = row.name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let (subject, lines) = (letter.subject(&workspace), letter.lines(&workspace));
    let address = format!("{}{}", cp.addresses.base_url(), page_of(tenant));
    let link = Some(("The workspace's plan", address.as_str()));
    mail(to, subject, &lines, link).map(Some)
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
