//! `POST /oauth/device`: a terminal begins.

use axum::extract::State;
use axum::response::Response;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;

use super::Oauth;
use super::answer::{Form, Refused, unkept};
use crate::identity::device::INTERVAL;

#[derive(Deserialize)]
pub struct Start {
    client_id: Option<String>,
    /// What the person is shown: "freehold on ada's laptop".
    client_name: Option<String>,
}

pub async fn start(State(oauth): State<Oauth>, Form(form): Form<Start>) -> Result<Response, Refused> {
    Refused::client(form.client_id.as_deref())?;
    let _place = oauth.place().await?;
    let name = form.client_name.as_deref().unwrap_or_default();
    let started = oauth.identity.device_start(name).await?;
    let page = format!("{}/device", oauth.identity.cp.addresses.base_url());
    Ok(unkept(json!({
        "device_code": started.device_code.expose_secret(),
        "user_code": started.user_code,
        "verification_uri": page,
        "verification_uri_complete": format!("{page}?user_code={}", started.user_code),
        "expires_in": started.expires_in,
        "interval": INTERVAL,
    })))
}
