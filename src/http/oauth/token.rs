//! `POST /oauth/token` and `POST /oauth/revoke`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::Oauth;
use super::answer::{Form, Refused, unkept};
use crate::identity::sessions::Asking;
use crate::identity::tokens::Granted;

#[derive(Deserialize)]
pub struct Ask {
    grant_type: Option<String>,
    client_id: Option<String>,
    refresh_token: Option<String>,
    device_code: Option<String>,
    /// The tenant that the access token is to be for, by slug or id. Without it, it is about the person alone.
    tenant: Option<String>,
}

/// What a terminal gets.
#[derive(Serialize, Deserialize)]
pub struct Tokens {
    pub access_token: String,
    pub token_type: String,
    /// In seconds.
    pub expires_in: i64,
    pub refresh_token: String,
}

pub async fn token(
    State(oauth): State<Oauth>,
    asking: Asking,
    Form(ask): Form<Ask>,
) -> Result<Response, Refused> {
    Refused::client(ask.client_id.as_deref())?;
    let missing = || Refused::new("invalid_request", "a parameter is missing");
    let _place = oauth.place().await?;
    let granted = match ask.grant_type.as_deref() {
        Some("refresh_token") => {
            let token = ask.refresh_token.ok_or_else(missing)?;
            let tenant = ask.tenant.as_deref().map(|tenant| match tenant.parse() {
                Ok(tenant) => tenant,
                Err(never) => match never {},
            });
            oauth.identity.token_refresh(&token, tenant.as_ref(), asking.request_id).await?
        }
        Some("urn:ietf:params:oauth:grant-type:device_code") => {
            let code = ask.device_code.ok_or_else(missing)?;
            oauth.identity.device_poll(&code, &asking).await?
        }
        Some(_) => {
            return Err(Refused::new("unsupported_grant_type", "refresh_token or device_code"));
        }
        None => return Err(missing()),
    };
    Ok(unkept(Tokens::from(granted)))
}

impl From<Granted> for Tokens {
    fn from(granted: Granted) -> Self {
        Self {
            access_token: granted.access_token,
            token_type: "Bearer".to_owned(),
            expires_in: granted.expires_in,
            refresh_token: granted.refresh_token.expose_secret().to_owned(),
        }
    }
}

#[derive(Deserialize)]
pub struct Revoke {
    token: Option<String>,
    client_id: Option<String>,
}

/// Ends the session that a refresh token is of. The answer is the same for any token that is not ours.
pub async fn revoke(
    State(oauth): State<Oauth>,
    asking: Asking,
    Form(ask): Form<Revoke>,
) -> Result<Response, Refused> {
    Refused::client(ask.client_id.as_deref())?;
    let token = ask.token.ok_or_else(|| Refused::new("invalid_request", "token is missing"))?;
    if token.starts_with("eyJ") {
        return Err(Refused::new("unsupported_token_type", "revoke the refresh token; its session ends"));
    }
    let _place = oauth.place().await?;
    oauth.identity.token_revoke(&token, asking.request_id).await?;
    Ok(StatusCode::OK.into_response())
}
