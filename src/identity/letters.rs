//! Mail to people: what is written, and the job that sends it. The job names what the letter is about; the text, and the
//! secret in its link, are made when it is sent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use askama::Template;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::Identity;
use super::invitations::LINK;
use crate::jobs::queue::job_add;
use crate::kernel::ids::{InvitationId, TenantId};
use crate::kernel::{Error, Result};

/// The kind of the job that sends a letter.
pub const JOB: &str = "letter";

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

/// Asks for a letter in the caller's transaction: it is sent if that commits, and as often as it takes.
pub async fn letter_post(
    conn: &mut PgConnection,
    tenant: TenantId,
    letter: &Letter,
    now: DateTime<Utc>,
) -> Result<()> {
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
        subject: format!("{inviter} invites you to {workspace}"),
        text: text.render().map_err(Error::internal)?,
        html: html.render().map_err(Error::internal)?,
    }))
}

/// A name as part of a subject: what people typed begins no header of its own.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect()
}
