//! A workspace's API keys: made, shown once, revoked.

use askama::Template;
use axum::Router;
use axum::extract::{Form, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use serde::Deserialize;

use super::account::day;
use super::workspace::{Chrome, Here};
use super::{Frame, page, words};
use crate::data_plane::TenantContext;
use crate::data_plane::context::Admin;
use crate::http::browser::see_other;
use crate::http::vocabulary::validate;
use crate::http::workspace::{by, caller, repeats};
use crate::identity::Identity;
use crate::identity::keys::{
    ApiKey, KeyFilter, NewOwnKey, WithSecret, own_key_create, own_key_list, own_key_revoke,
};
use crate::kernel::ids::ApiKeyId;
use crate::kernel::{Error, Result, Role};

/// Rows on the page.
const MOST: u32 = 100;

pub fn routes(identity: Identity) -> Router {
    Router::new()
        // A form that is sent twice makes one key, and shows it twice.
        .route("/api-keys", get(show).post(create))
        .route("/api-keys/revoke", post(revoke))
        .route_layer(from_fn_with_state(identity.clone(), repeats::once))
        .with_state(identity)
}

#[derive(Template)]
#[template(path = "pages/api_keys.html")]
struct Page {
    frame: Frame,
    chrome: Chrome,
    keys: Vec<Row>,
    /// Roles that the visitor may give.
    roles: Vec<Role>,
    scopes: Vec<String>,
    made: Option<WithSecret<ApiKey>>,
    wrong: Option<String>,
}

/// A key, as the page shows it.
struct Row {
    id: ApiKeyId,
    name: String,
    tail: String,
    role: Role,
    scopes: Option<String>,
    created: String,
    used: Option<String>,
    expires: Option<String>,
    state: KeyState,
    /// Whether it is the visitor's to revoke.
    theirs: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyState {
    Live,
    Expired,
    Revoked,
}

async fn show(here: Here<Admin>, State(identity): State<Identity>) -> Result<Response> {
    shown(&here, &here.chrome, &identity, None, None).await
}

async fn shown(
    ctx: &TenantContext,
    chrome: &Chrome,
    identity: &Identity,
    made: Option<WithSecret<ApiKey>>,
    wrong: Option<String>,
) -> Result<Response> {
    let filter = KeyFilter { limit: Some(MOST), cursor: None };
    let mut conn = identity.cp.db.acquire().await?;
    let keys = own_key_list(&mut conn, ctx.tenant_id, &filter).await?.items;
    let now = identity.cp.clock.now();
    Ok(page(&Page {
        frame: chrome.frame,
        keys: keys.into_iter().map(|key| row(key, ctx.actor.role, now)).collect(),
        roles: Role::ALL.into_iter().filter(|role| *role <= ctx.actor.role).collect(),
        scopes: ctx.scopes_there_are(),
        chrome: chrome.clone(),
        made,
        wrong,
    }))
}

fn row(key: ApiKey, by: Role, now: DateTime<Utc>) -> Row {
    let state = match (key.revoked_at, key.expires_at) {
        (Some(_), _) => KeyState::Revoked,
        (None, Some(at)) if at <= now => KeyState::Expired,
        (None, _) => KeyState::Live,
    };
    Row {
        theirs: state != KeyState::Revoked && key.role <= by,
        id: key.id,
        name: key.name,
        tail: key.tail,
        role: key.role,
        scopes: key.scopes.map(|scopes| scopes.join(", ")),
        created: day(key.created_at),
        used: key.last_used_at.map(day),
        expires: key.expires_at.map(day),
        state,
    }
}

/// Fields may come several times, so they are read as pairs.
async fn create(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(fields): Form<Vec<(String, String)>>,
) -> Result<Response> {
    let made = match new_key(&fields, identity.cp.clock.now()) {
        Ok(new) => make(&here, &identity, &new).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(made) => shown(&here, &here.chrome, &identity, Some(made), None).await,
        Err(error) if error.code().status < 500 => {
            let mut response = shown(&here, &here.chrome, &identity, None, Some(words(&error))).await?;
            *response.status_mut() = StatusCode::from_u16(error.code().status).map_err(Error::internal)?;
            Ok(response)
        }
        Err(error) => Err(error),
    }
}

async fn make(ctx: &TenantContext, identity: &Identity, new: &NewOwnKey) -> Result<WithSecret<ApiKey>> {
    validate(new)?;
    ctx.may_grant(new.scopes.as_deref())?;
    own_key_create(&identity.cp, &caller(ctx), by(ctx), ctx.tenant_id, new).await
}

fn new_key(fields: &[(String, String)], now: DateTime<Utc>) -> Result<NewOwnKey> {
    let all = |name: &'static str| {
        fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.trim())
    };
    let one = |name: &'static str| all(name).next().unwrap_or_default();
    let role = Role::ALL.into_iter().find(|role| role.as_str() == one("role"));
    let days = match one("days") {
        "never" => None,
        "30" => Some(30),
        "90" => Some(90),
        "365" => Some(365),
        _ => return Err(Error::field("days", "is 30, 90, 365 or never")),
    };
    let scopes: Vec<String> = all("scope").map(str::to_owned).collect();
    Ok(NewOwnKey {
        name: one("name").to_owned(),
        role: role.ok_or_else(|| Error::field("role", "is one of the roles"))?,
        scopes: Some(scopes).filter(|scopes| !scopes.is_empty()),
        expires_at: days.map(|days| now + TimeDelta::days(days)),
    })
}

#[derive(Deserialize)]
struct Which {
    key: ApiKeyId,
}

async fn revoke(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(which): Form<Which>,
) -> Result<Response> {
    own_key_revoke(&identity.cp, &caller(&here), by(&here), here.tenant_id, which.key).await?;
    Ok(see_other("/api-keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_says_what_the_key_is_to_be() {
        let now = DateTime::UNIX_EPOCH;
        let read = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            new_key(&pairs, now)
        };
        let key = read(&[("name", " ci "), ("role", "member"), ("days", "30")]).unwrap();
        assert_eq!((key.name.as_str(), key.role, key.scopes), ("ci", Role::Member, None));
        assert_eq!(key.expires_at, Some(now + TimeDelta::days(30)));
        let two = [("role", "viewer"), ("days", "never"), ("scope", "a:read"), ("scope", "b:read")];
        let key = read(&two).unwrap();
        assert_eq!(key.scopes, Some(vec!["a:read".to_owned(), "b:read".to_owned()]));
        assert_eq!(key.expires_at, None);
        // Nothing that was not chosen is taken for "never" or for a role.
        assert!(read(&[("role", "member"), ("days", "")]).is_err());
        assert!(read(&[("role", "god"), ("days", "never")]).is_err());
    }
}
