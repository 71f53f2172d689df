//! A person's own account: name, ways to sign in, devices.

use askama::Template;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::{Frame, Pages, page};
use crate::control_plane::audit::audit_add;
use crate::http::browser::{Answer, Meant, Visitor, see_other};
use crate::identity::accounts::{Account, Link, account_by_id, account_rename, link_list};
use crate::identity::oidc::settings::Registration;
use crate::identity::password::password_email;
use crate::identity::second_factor::{SecondFactor, second_factor_get};
use crate::identity::sessions::{
    Session, SessionKind, session_is_fresh, session_list, session_revoke, session_revoke_others,
};
use crate::kernel::Error;
use crate::kernel::ids::SessionId;

#[derive(Template)]
#[template(path = "pages/account.html")]
struct Page<'a> {
    frame: Frame,
    who: String,
    csrf: String,
    account: Account,
    links: Vec<Link>,
    /// Those that could be added.
    providers: Vec<&'a Registration>,
    /// Those that may confirm who this is, which a change of the ways to sign in takes; none when that was a moment ago.
    confirm: Vec<&'a Registration>,
    fresh: bool,
    sessions: Vec<Device>,
    /// Whether an address and a password are a way in here, and the address of this account's.
    passwords: bool,
    password: Option<String>,
    second_factor: SecondFactor,
}

/// A session as a row of `devices.html`.
pub(super) struct Device {
    pub id: SessionId,
    pub device: String,
    pub address: String,
    /// How its person got in.
    pub method: String,
    pub created: String,
    pub seen: String,
    /// Whether it is the one that asks.
    pub here: bool,
}

/// `GET /account`
pub async fn show(visitor: Visitor, State(pages): State<Pages>) -> Answer {
    let identity = &pages.site.identity;
    let (mut conn, now) = (identity.cp.db.acquire().await?, identity.cp.clock.now());
    let account = account_by_id(&mut conn, visitor.person.id).await?;
    let links = link_list(&mut conn, account.id).await?;
    let sessions = session_list(&mut conn, account.id, now).await?;
    let linked = |one: &&Registration| links.iter().any(|link| link.issuer == one.issuer);
    let known = || identity.providers.registrations();
    let fresh = session_is_fresh(&mut conn, account.id, visitor.session, now).await.is_ok();
    let confirm = known().filter(|one| !fresh && linked(one)).collect();
    let providers = known().filter(|one| !linked(one)).collect();
    let password = password_email(&mut conn, account.id).await?;
    let second_factor = second_factor_get(&mut conn, account.id).await?;
    Ok(page(&Page {
        frame: Frame::default(),
        who: account.name.clone(),
        fresh,
        csrf: visitor.csrf(),
        providers,
        confirm,
        sessions: sessions.into_iter().map(|session| device(session, visitor.session)).collect(),
        links,
        account,
        passwords: identity.passwords_are_on().is_ok(),
        password,
        second_factor,
    }))
}

pub(super) fn device(session: Session, here: SessionId) -> Device {
    Device {
        here: session.id == here,
        id: session.id,
        device: match session.kind {
            SessionKind::Cli => "Terminal".to_owned(),
            SessionKind::Base | SessionKind::Tenant => device_name(&session.user_agent),
        },
        address: session.address,
        method: way_in(&session.method),
        created: day(session.created_at),
        seen: moment(session.last_seen_at),
    }
}

/// A way to sign in, for people: `oidc:google` is "google".
fn way_in(method: &str) -> String {
    if method.starts_with("sso:") {
        return "a workspace's own sign-in".to_owned();
    }
    method.rsplit(':').next().unwrap_or(method).to_owned()
}

/// `21 Nov 2026`
pub fn day(at: DateTime<Utc>) -> String {
    at.format("%-d %b %Y").to_string()
}

/// `21 Nov 2026, 15:04 UTC`
pub fn moment(at: DateTime<Utc>) -> String {
    at.format("%-d %b %Y, %H:%M UTC").to_string()
}

/// Enough of a User-Agent to recognise one's own device by: "Firefox on Linux".
fn device_name(user_agent: &str) -> String {
    let first = |known: &[(&str, &'static str)]| {
        known.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, name)| *name)
    };
    let browser = first(&[
        ("Edg/", "Edge"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("freehold", "Freehold CLI"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => "Unknown device".to_owned(),
    }
}

#[derive(Deserialize)]
pub struct NewName {
    name: String,
}

/// `POST /account/name`
pub async fn rename(State(pages): State<Pages>, Meant(visitor, form): Meant<NewName>) -> Answer {
    let name = form.name.trim();
    if !(1..=120).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(Error::field("name", "1 to 120 characters").into());
    }
    let cp = &pages.site.identity.cp;
    let mut tx = cp.db.begin().await?;
    account_rename(&mut tx, visitor.person.id, name, cp.clock.now()).await?;
    tx.commit().await?;
    Ok(see_other("/account"))
}

#[derive(Deserialize)]
pub struct Which {
    session: SessionId,
}

/// `POST /account/sessions/revoke`
pub async fn revoke(State(pages): State<Pages>, Meant(visitor, form): Meant<Which>) -> Answer {
    let cp = &pages.site.identity.cp;
    let (mut tx, now, subject) = (cp.db.begin().await?, cp.clock.now(), form.session.to_string());
    session_revoke(&mut tx, visitor.person.id, form.session, now).await?;
    audit_add(&mut tx, &visitor.caller(), now, "session.revoke", None, &subject, json!({})).await?;
    tx.commit().await?;
    Ok(see_other("/account"))
}

#[derive(Deserialize)]
pub struct Nothing {}

/// `POST /account/sessions/revoke-others`
pub async fn revoke_others(State(pages): State<Pages>, Meant(visitor, _): Meant<Nothing>) -> Answer {
    let cp = &pages.site.identity.cp;
    let (mut tx, now, account) = (cp.db.begin().await?, cp.clock.now(), visitor.person.id);
    let ended = session_revoke_others(&mut tx, account, Some(visitor.session), now).await?;
    let (subject, detail) = (account.to_string(), json!({ "ended": ended }));
    audit_add(&mut tx, &visitor.caller(), now, "session.revoke_others", None, &subject, detail).await?;
    tx.commit().await?;
    Ok(see_other("/account"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_so_that_its_owner_knows_it() {
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
        assert_eq!(device_name(firefox), "Firefox on Linux");
        assert_eq!(device_name("freehold/0.1"), "Freehold CLI");
        assert_eq!(device_name(""), "Unknown device");
        assert_eq!((way_in("oidc:google").as_str(), way_in("password").as_str()), ("google", "password"));
    }
}
