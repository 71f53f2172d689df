//! Which providers there are: from the configuration, or a tenant's own.

use secrecy::SecretString;
use serde::Deserialize;

use crate::kernel::{Error, Result, SecretRef, codes};

/// How a provider speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// OpenID Connect, found by discovery: Google, Microsoft, Okta, Keycloak, …
    #[default]
    Oidc,
    /// GitHub: OAuth 2.0, and an API of its own in place of an ID token.
    Github,
}

/// A provider, as the configuration names it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSettings {
    /// In addresses: `/sign-in/<id>`.
    pub id: String,
    /// On the button: "Continue with <name>".
    pub name: String,
    #[serde(default)]
    pub kind: ProviderKind,
    /// Exactly as the provider writes it in its tokens. GitHub's is known.
    pub issuer: Option<String>,
    pub client_id: String,
    pub client_secret: SecretRef,
    /// GitHub only: where its API is, for a server of one's own.
    pub api_url: Option<String>,
}

/// A provider ready to be asked.
#[derive(Clone)]
pub struct Registration {
    pub id: String,
    pub name: String,
    pub kind: ProviderKind,
    pub issuer: String,
    pub client_id: String,
    pub client_secret: SecretString,
    pub api_url: Option<String>,
}

/// Names that addresses use otherwise.
const TAKEN: [&str; 6] = ["sso", "operator", "password", "second-step", "callback", "new"];
const GITHUB: &str = "https://github.com";

impl ProviderSettings {
    /// Reads the secret and fills in what is known.
    ///
    /// # Errors
    /// `bad_request` that says what is wrong with which provider.
    pub fn register(&self) -> Result<Registration> {
        let wrong = |why: &str| {
            Error::new(&codes::BAD_REQUEST).detail(format!("sign-in provider {:?}: {why}", self.id))
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.id.is_empty() || self.id.len() > 30 || !self.id.chars().all(plain) {
            return Err(wrong("an id is 1 to 30 of a-z, 0-9 and -"));
        }
        if TAKEN.contains(&self.id.as_str()) {
            return Err(wrong("that id is reserved"));
        }
        let issuer = match (self.kind, &self.issuer) {
            (_, Some(issuer)) => issuer.clone(),
            (ProviderKind::Github, None) => GITHUB.to_owned(),
            (ProviderKind::Oidc, None) => return Err(wrong("say its issuer")),
        };
        Ok(Registration {
            id: self.id.clone(),
            name: self.name.clone(),
            kind: self.kind,
            issuer,
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.read()?,
            api_url: self.api_url.clone(),
        })
    }
}
