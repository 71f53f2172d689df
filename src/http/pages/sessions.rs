//! A person's own devices, seen from a workspace: which are signed in, and which shall be no longer.

use askama::Template;
use axum::Router;
use axum::extract::{Form, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use super::account::{Device, device};
use super::workspace::{Chrome, Here};
use super::{Frame, page};
use crate::control_plane::audit::audit_add;
use crate::data_plane::context::{OfPerson, Viewer};
use crate::data_plane::tenancy::cookie::SESSION_COOKIE;
use crate::http::browser::{drop_cookie, see_other, with_cookies};
use crate::http::sign_in::page::signed_out;
use crate::http::workspace::caller;
use crate::identity::Identity;
use crate::identity::sessions::{
    session_list_seen, session_revoke_others_seen, session_revoke_seen, session_root,
};
use crate::kernel::Result;
use crate::kernel::ids::SessionId;

pub fn routes(identity: Identity) -> Router {
    Router::new()
        .route("/sessions", get(show))
        .route("/sessions/revoke", post(revoke))
        .route("/sessions/revoke-others", post(revoke_others))
        .with_state(identity)
}

#[derive(Template)]
#[template(path = "pages/sessions.html")]
struct Page {
    frame: Frame,
    chrome: Chrome,
    sessions: Vec<Device>,
}

async fn show(here: Here<OfPerson<Viewer>>, State(identity): State<Identity>) -> Result<Response> {
    let (me, mut conn) = (here.person()?, identity.cp.db.acquire().await?);
    let this = session_root(&mut conn, me.account, me.session).await?;
    let all = session_list_seen(&mut conn, me.account, me.session, identity.cp.clock.now()).await?;
    let sessions = all.into_iter().map(|session| device(session, this)).collect();
    Ok(page(&Page { frame: here.chrome.frame, chrome: here.chrome, sessions }))
}

#[derive(Deserialize)]
struct Which {
    session: SessionId,
}

async fn revoke(
    here: Here<OfPerson<Viewer>>,
    State(identity): State<Identity>,
    Form(which): Form<Which>,
) -> Result<Response> {
    let (me, now) = (here.person()?, identity.cp.clock.now());
    let mut tx = identity.cp.db.begin().await?;
    let this = session_root(&mut tx, me.account, me.session).await?;
    session_revoke_seen(&mut tx, me.account, me.session, which.session, now).await?;
    let subject = which.session.to_string();
    audit_add(&mut tx, &caller(&here), now, "session.revoke", None, &subject, json!({})).await?;
    tx.commit().await?;
    // Their own: a page and not a redirect, because a form may not lead to the sign-in host.
    if which.session == this || which.session == me.session {
        let answer = signed_out(&format!("{}/sign-in", here.chrome.home));
        return Ok(with_cookies(answer, [drop_cookie(SESSION_COOKIE)]));
    }
    Ok(see_other("/sessions"))
}

async fn revoke_others(here: Here<OfPerson<Viewer>>, State(identity): State<Identity>) -> Result<Response> {
    let (me, now) = (here.person()?, identity.cp.clock.now());
    let mut tx = identity.cp.db.begin().await?;
    let ended = session_revoke_others_seen(&mut tx, me.account, me.session, now).await?;
    let (subject, detail) = (me.account.to_string(), json!({ "ended": ended }));
    audit_add(&mut tx, &caller(&here), now, "session.revoke_others", None, &subject, detail).await?;
    tx.commit().await?;
    Ok(see_other("/sessions"))
}
