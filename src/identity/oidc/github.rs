//! GitHub: no ID token; its API is asked who the token's owner is.

use std::sync::Arc;

use serde::Deserialize;

use super::discovery::Discovery;
use super::settings::Registration;
use super::web::{Web, WebError};
use super::{away, plausible};
use crate::identity::accounts::Vouched;
use crate::kernel::Result;

const API: &str = "https://api.github.com";

#[derive(Deserialize)]
struct User {
    id: u64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Email {
    email: String,
    primary: bool,
    verified: bool,
}

/// Where GitHub is asked; it publishes no such document.
pub fn endpoints(registration: &Registration) -> Arc<Discovery> {
    let base = registration.issuer.trim_end_matches('/');
    Arc::new(Discovery {
        issuer: registration.issuer.clone(),
        authorization_endpoint: format!("{base}/login/oauth/authorize"),
        token_endpoint: format!("{base}/login/oauth/access_token"),
        jwks_uri: String::new(),
        authorization_response_iss_parameter_supported: false,
    })
}

/// The token's owner. The number is the subject: a login name can be given up and taken by another person.
pub async fn vouch(web: &Web, registration: &Registration, token: &str) -> Result<Vouched> {
    let api = registration.api_url.as_deref().unwrap_or(API).trim_end_matches('/');
    let ask = async {
        let user: User = web.get_json(&format!("{api}/user"), Some(token)).await?;
        let emails: Vec<Email> = web.get_json(&format!("{api}/user/emails"), Some(token)).await?;
        Ok::<_, WebError>((user, emails))
    };
    let (user, emails) = ask.await.map_err(away)?;
    let email = emails.into_iter().find(|email| email.primary && email.verified && plausible(&email.email));
    Ok(Vouched {
        issuer: registration.issuer.clone(),
        subject: user.id.to_string(),
        provider: registration.id.clone(),
        name: user.name.or(Some(user.login)),
        email_verified: email.is_some(),
        email: email.map(|email| email.email),
    })
}
