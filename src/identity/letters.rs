//! Mail to people: what is written, and the job that sends it. The job names what the letter is about; the text, and the
//! secret in its link, are made when it is sent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use askama::Template;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::Identity;
use super::invitations::LINK;
use super::throttle::{self, Rate};
use crate::jobs::queue::job_add;
use crate::kernel::ids::{InvitationId, TenantId};
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Result, codes};

/// The kind of the job that sends a letter.
pub const JOB: &str = "letter";
/// Letters that one workspace may ask for.
const PER_TENANT: Rate = Rate { every: TimeDelta::minutes(2), burst: 200 };
/// Letters to one address, whoever asks for them: nobody's mailbox is filled through us.
const PER_ADDRESS: Rate = Rate { every: TimeDelta::hours(1), burst: 5 };

/// A letter to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "letter", rename_all = "snake_case")]
pub enum Letter {
    Invitation { invitation: InvitationId },
}

/// A mail, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub to: String,
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// Who carries mail: implemented by `adapters::mail`.
pub type Carrier = Arc<dyn Fn(Mail) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// Refuses to begin what ends with a letter where none can be sent.
///
/// # Errors
/// `state_conflict` with what an operator has to set.
pub fn mail_is_set_up(identity: &Identity) -> Result<()> {
    match identity.settings.mail {
        Some(_) => Ok(()),
        None => Err(Error::new(&codes::STATE_CONFLICT)
            .detail("this installation sends no mail, so nobody can be invited by mail")
            .hint("its operator gives it [mail] in the file that FREEHOLD_IDENTITY names")),
    }
}

/// Asks for a letter in the caller's transaction: it is sent if that commits, and as often as it takes.
///
/// # Errors
/// `rate_limited` for too many letters of one workspace, or to one address.
pub async fn letter_post(
    conn: &mut PgConnection,
    tenant: TenantId,
    to: &str,
    letter: &Letter,
    now: DateTime<Utc>,
) -> Result<()> {
    // The address last: of all that is locked here it alone is common to tenants, so nobody waits in a circle.
    throttle::take(&mut *conn, &format!("letters:{tenant}"), PER_TENANT, now).await?;
    let address = data_encoding::HEXLOWER.encode(&sha256(to.to_lowercase().as_bytes()));
    throttle::take(&mut *conn, &format!("letters-to:{address}"), PER_ADDRESS, now).await?;
    let payload = serde_json::to_value(letter).map_err(Error::internal)?;
    job_add(conn, JOB, Some(tenant), None, payload, now).await
}

#[derive(Template)]
#[template(path = "mail/invitation.txt", escape = "none")]
struct InvitationText<'a> {
    workspace: &'a str,
    inviter: &'a str,
    role: &'a str,
    link: &'a str,
}

#[derive(Template)]
#[template(path = "mail/invitation.html")]
struct InvitationHtml<'a> {
    workspace: &'a str,
    inviter: &'a str,
    role: &'a str,
    link: &'a str,
}

/// Carries out a job of kind [`JOB`]: writes the letter and gives it to the carrier. After a fault it is done again, so
/// that a letter may come twice (with one Message-ID, by which many mailboxes show it once); it never gets lost.
///
/// # Errors
/// `state_conflict` in a worker that has no mail settings; what the carrier says.
pub async fn letter_send(
    identity: &Identity,
    carrier: Option<&Carrier>,
    tenant: TenantId,
    payload: Value,
) -> Result<()> {
    let letter: Letter = serde_json::from_value(payload).map_err(Error::internal)?;
    let Some(carrier) = carrier else {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail("this worker has no mail settings")
            .hint("give it the same FREEHOLD_IDENTITY as the servers"));
    };
    match write(identity, tenant, &letter).await? {
        Some(mail) => carrier(mail).await,
        None => Ok(()),
    }
}

/// Writes a letter. None when there is no more reason to send it: the invitation was accepted, taken back or has run out.
pub async fn write(identity: &Identity, tenant: TenantId, letter: &Letter) -> Result<Option<Mail>> {
    match letter {
        Letter::Invitation { invitation } => write_invitation(identity, tenant, *invitation).await,
    }
}

async fn write_invitation(identity: &Identity, tenant: TenantId, id: InvitationId) -> Result<Option<Mail>> {
    let found: Option<(String, String, i32, String, String)> = sqlx::query_as(
        "SELECT i.email, i.role, i.version, t.name, a.name
           FROM invitation i JOIN tenant t ON t.id = i.tenant JOIN account a ON a.id = i.invited_by
          WHERE i.id = $1 AND i.tenant = $2 AND t.state = 'active'
            AND i.accepted_at IS NULL AND i.revoked_at IS NULL AND i.expires_at > $3",
    )
    .bind(id)
    .bind(tenant)
    .bind(identity.cp.clock.now())
    .fetch_optional(&identity.cp.db)
    .await?;
    let Some((to, role, version, workspace, inviter)) = found else { return Ok(None) };
    let secret = identity.master.link_secret(LINK, &id.to_string(), version);
    let link = format!("{}/invitations/{id}?secret={secret}", identity.cp.addresses.base_url());
    let (workspace, inviter) = (one_line(&workspace), one_line(&inviter));
    let text = InvitationText { workspace: &workspace, inviter: &inviter, role: &role, link: &link };
    let html = InvitationHtml { workspace: &workspace, inviter: &inviter, role: &role, link: &link };
    Ok(Some(Mail {
        to,
        subject: format!("{inviter} invites you to join {workspace}"),
        text: text.render().map_err(Error::internal)?,
        html: html.render().map_err(Error::internal)?,
    }))
}

/// A name as part of a subject: what people typed begins no header of its own.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect()
}
