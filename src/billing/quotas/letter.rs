//! The mail that tells an owner of a limit that is near, or reached. Its numbers are those of the moment it is sent.

use askama::Template;
use serde_json::Value;

use super::level::{Level, Stage};
use super::levels::levels_of;
use super::month::Month;
use super::notices::Notice;
use crate::control_plane::ControlPlane;
use crate::identity::letters::{Carrier, Mail};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

#[derive(Template)]
#[template(path = "mail/quota.txt", escape = "none")]
struct Text<'a> {
    name: &'a str,
    workspace: &'a str,
    said: &'a str,
    consequence: &'a str,
    resets: Option<String>,
    link: &'a str,
}

#[derive(Template)]
#[template(path = "mail/quota.html")]
struct Html<'a> {
    name: &'a str,
    workspace: &'a str,
    said: &'a str,
    consequence: &'a str,
    resets: Option<String>,
    link: &'a str,
}

/// Carries out a job of kind [`super::notices::JOB`].
///
/// # Errors
/// `state_conflict` in a worker that has no mail settings; what the carrier says.
pub async fn notice_send(
    cp: &ControlPlane,
    carrier: Option<&Carrier>,
    tenant: TenantId,
    payload: Value,
) -> Result<()> {
    let notice: Notice = serde_json::from_value(payload).map_err(Error::internal)?;
    let Some(carrier) = carrier else {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail("this worker has no mail settings")
            .hint("give it the same FREEHOLD_IDENTITY as the servers"));
    };
    match write(cp, tenant, &notice).await? {
        Some(mail) => carrier(mail).await,
        None => Ok(()),
    }
}

/// Writes it. None when there is no more reason to send it: the month is over, the plan has become larger, or they are no
/// owner any more.
pub async fn write(cp: &ControlPlane, tenant: TenantId, notice: &Notice) -> Result<Option<Mail>> {
    let now = cp.clock.now();
    if notice.quota.is_monthly() && notice.period != Month::of(now).first_day() {
        return Ok(None);
    }
    let mut conn = cp.db.acquire().await?;
    let to: Option<(String, String, String, String)> = sqlx::query_as(
        "SELECT a.email, a.name, t.name, t.slug
           FROM membership m JOIN account a ON a.id = m.account JOIN tenant t ON t.id = m.tenant
          WHERE m.tenant = $1 AND m.account = $2 AND m.role = 'owner' AND t.state = 'active'
            AND a.deleted_at IS NULL AND a.email IS NOT NULL",
    )
    .bind(tenant)
    .bind(notice.account)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((to, name, workspace, slug)) = to else { return Ok(None) };
    let levels = levels_of(&mut conn, tenant, now).await?;
    drop(conn);
    let Some(level) = levels.into_iter().find(|level| level.quota == notice.quota) else { return Ok(None) };
    if level.stage() == Stage::Fine {
        return Ok(None);
    }
    compose(
        to,
        &one_line(&name),
        &one_line(&workspace),
        &level,
        &format!("{}/usage", cp.addresses.tenant_url(&slug)),
    )
    .map(Some)
}

fn compose(to: String, name: &str, workspace: &str, level: &Level, link: &str) -> Result<Mail> {
    let (said, consequence) = (level.text(), level.consequence());
    let said = said.as_str();
    let resets = level.resets_at.map(|end| end.format("%-d %B %Y, %H:%M UTC").to_string());
    let text = Text { name, workspace, said, consequence, resets: resets.clone(), link };
    let html = Html { name, workspace, said, consequence, resets, link };
    let subject = match level.stage() {
        Stage::Hard => format!("{workspace} has reached a limit of its plan"),
        Stage::Soft | Stage::Fine => format!("{workspace} is near a limit of its plan"),
    };
    Ok(Mail {
        to,
        subject,
        text: text.render().map_err(Error::internal)?,
        html: html.render().map_err(Error::internal)?,
    })
}

/// A name as part of a subject: what people typed begins no header of its own.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Quota;
    use super::*;

    #[test]
    fn the_letter_says_which_limit_how_much_until_when_and_what_to_do() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let level = Level::at(Quota::RequestsPerMonth, 100_000, Some(100_000), now);
        let link = "https://acme.example.com/usage";
        let mail = compose("ada@example.com".to_owned(), "Ada", "Acme <&>", &level, link).unwrap();
        assert_eq!(mail.subject, "Acme <&> has reached a limit of its plan");
        for text in [&mail.text, &mail.html] {
            for word in [
                "100,000 of 100,000 requests of November 2026",
                "1 December 2026, 00:00 UTC",
                "refused",
                link,
            ] {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
        assert!(!mail.html.contains("Acme <&>"), "what people typed is no markup");
        let near = Level { used: 80_000, ..level };
        let mail = compose("ada@example.com".to_owned(), "Ada", "Acme", &near, link).unwrap();
        assert_eq!(mail.subject, "Acme is near a limit of its plan");
    }
}
