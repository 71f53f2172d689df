//! What anybody may know: where the endpoints are (RFC 8414), and the keys that prove our tokens (RFC 7517).

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::Oauth;
use super::answer::{Refused, kept};
use crate::identity::signing::PUBLISHED_SET_AGE;

pub const DEVICE: &str = "/oauth/device";
pub const TOKEN: &str = "/oauth/token";
pub const REVOKE: &str = "/oauth/revoke";
pub const USERINFO: &str = "/oauth/userinfo";
pub const JWKS: &str = "/.well-known/jwks.json";

fn age() -> Duration {
    PUBLISHED_SET_AGE.to_std().unwrap_or_default()
}

pub async fn jwks(State(oauth): State<Oauth>) -> Result<Response, Refused> {
    let keys = oauth.identity.keyring.published().await?;
    Ok(kept(json!({ "keys": keys }), age()))
}

pub async fn metadata(State(oauth): State<Oauth>) -> Response {
    let base = oauth.identity.cp.addresses.base_url();
    let at = |path: &str| format!("{base}{path}");
    let body = json!({
        "issuer": base,
        "token_endpoint": at(TOKEN),
        "device_authorization_endpoint": at(DEVICE),
        "revocation_endpoint": at(REVOKE),
        "userinfo_endpoint": at(USERINFO),
        "jwks_uri": at(JWKS),
        "response_types_supported": [],
        "grant_types_supported": ["refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
    });
    kept(body, age())
}
