//! Sign-in providers: where the browser is sent, and what is made of what it comes back with.
//!
//! | file | holds |
//! |---|---|
//! | `settings` | which providers there are |
//! | `web`, `public` | bounded HTTP; which addresses are on the open internet |
//! | `discovery`, `keys` | what a provider publishes of itself |
//! | `id_token` | whether its word is to be believed. Pure |
//! | `github` | the one that speaks no OpenID Connect |

pub mod discovery;
mod github;
pub mod id_token;
mod keys;
pub mod public;
pub mod settings;
pub mod web;

use oauth2::basic::{BasicErrorResponseType, BasicTokenType};
use oauth2::{
    AuthUrl, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields,
    EndpointNotSet, EndpointSet, ExtraTokenFields, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, RevocationErrorResponseType, Scope, StandardErrorResponse, StandardRevocableToken,
    StandardTokenIntrospectionResponse, StandardTokenResponse, TokenResponse, TokenUrl,
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::accounts::Vouched;
use crate::kernel::{Clock, Error, Result, codes};
use discovery::{Discoveries, Discovery};
use id_token::{Expected, Refused};
use settings::{ProviderKind, Registration};
use web::{Web, WebError};

/// What the token endpoint answers besides the access token.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct WithIdToken {
    id_token: Option<String>,
}
impl ExtraTokenFields for WithIdToken {}

type Tokens = StandardTokenResponse<WithIdToken, BasicTokenType>;
type OAuth = Client<
    StandardErrorResponse<BasicErrorResponseType>,
    Tokens,
    StandardTokenIntrospectionResponse<EmptyExtraTokenFields, BasicTokenType>,
    StandardRevocableToken,
    StandardErrorResponse<RevocationErrorResponseType>,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// A provider that people sign in with. One value lives as long as the process: it keeps what was discovered.
pub struct Provider {
    pub registration: Registration,
    web: Web,
    discoveries: Discoveries,
    keys: keys::Keys,
}

/// The secrets of one sign-in. They leave the process sealed, and the verifier's challenge in the browser.
#[derive(Clone, Serialize, Deserialize)]
pub struct FlowSecrets {
    pub nonce: String,
    pub verifier: String,
    /// The person has to prove who they are again, no earlier than this, in seconds since 1970.
    pub again_since: Option<i64>,
}

/// What the browser brought back.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CallbackQuery {
    pub state: Option<String>,
    pub code: Option<String>,
    pub iss: Option<String>,
    pub error: Option<String>,
}

impl Provider {
    pub fn new(registration: Registration, web: Web) -> Self {
        Self { registration, web, discoveries: Discoveries::default(), keys: keys::Keys::default() }
    }

    /// Where the browser is sent.
    ///
    /// # Errors
    /// `provider_unavailable` when the provider does not say where that is.
    pub async fn authorize_url(&self, redirect: &str, state: &str, flow: &FlowSecrets) -> Result<String> {
        let found = self.discover().await?;
        let verifier = PkceCodeVerifier::new(flow.verifier.clone());
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
        let client = self.client(&found, redirect)?;
        let mut request =
            client.authorize_url(|| CsrfToken::new(state.to_owned())).set_pkce_challenge(challenge);
        if flow.again_since.is_some() {
            request = request.add_extra_param("prompt", "login").add_extra_param("max_age", "0");
        }
        request = match self.registration.kind {
            ProviderKind::Oidc => request
                .add_scopes(["openid", "email", "profile"].map(|scope| Scope::new(scope.to_owned())))
                .add_extra_param("nonce", &flow.nonce),
            ProviderKind::Github => {
                request.add_scopes(["read:user", "user:email"].map(|scope| Scope::new(scope.to_owned())))
            }
        };
        Ok(request.url().0.to_string())
    }

    /// What the provider says of the person who comes back with this code.
    ///
    /// # Errors
    /// `sign_in_failed` when its word is not to be believed; `provider_unavailable` when it gives none.
    pub async fn vouch(
        &self,
        query: &CallbackQuery,
        redirect: &str,
        flow: &FlowSecrets,
        clock: &Clock,
    ) -> Result<Vouched> {
        let found = self.discover().await?;
        self.check_issuer(query, &found)?;
        let code = query.code.as_deref().filter(|code| code.len() <= 4096).ok_or_else(failed)?;
        let client = self.client(&found, redirect)?;
        let exchange = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(flow.verifier.clone()));
        let tokens = exchange.request_async(&self.web).await.map_err(|error| match error {
            RequestTokenError::Request(error) => away(error),
            // An HTML page, or nothing at all.
            // Its text is not logged: it may quote what it could not read.
            // GitHub says no with 200.
            RequestTokenError::Parse(_, body) => match serde_json::from_slice::<SaysNo>(&body) {
                Ok(_) => failed().source("the token endpoint refused"),
                Err(_) => away_because("the token endpoint's answer is not what it should be"),
            },
            RequestTokenError::ServerResponse(said) => failed().source(refusal(said.error())),
            RequestTokenError::Other(_) => away_because("the token endpoint answered nothing"),
        })?;
        match self.registration.kind {
            ProviderKind::Oidc => self.believe(&tokens, &found, flow, clock).await,
            ProviderKind::Github => {
                github::vouch(&self.web, &self.registration, tokens.access_token().secret()).await
            }
        }
    }

    /// RFC 9207: an answer that names its issuer must name this one; a provider that says it always does must have.
    fn check_issuer(&self, query: &CallbackQuery, found: &Discovery) -> Result<()> {
        let right = match &query.iss {
            Some(iss) => *iss == found.issuer,
            None => !found.authorization_response_iss_parameter_supported,
        };
        if right { Ok(()) } else { Err(failed().source("the answer is another issuer's")) }
    }

    async fn believe(
        &self,
        tokens: &Tokens,
        found: &Discovery,
        flow: &FlowSecrets,
        clock: &Clock,
    ) -> Result<Vouched> {
        let token =
            tokens.extra_fields().id_token.as_deref().ok_or_else(|| failed().source("no ID token"))?;
        let expected = Expected {
            issuer: &self.registration.issuer,
            client_id: &self.registration.client_id,
            nonce: &flow.nonce,
            again_since: flow.again_since,
            now: clock.now(),
        };
        let keys = self.keys.get(&self.web, &found.jwks_uri).await.map_err(away)?;
        let mut checked = id_token::check(token, &keys, &expected);
        if checked.as_ref().is_err_and(|refused| *refused == Refused::UnknownKey) {
            let keys = self.keys.look_again(&self.web, &found.jwks_uri).await.map_err(away)?;
            checked = id_token::check(token, &keys, &expected);
        }
        let claims = checked.map_err(|refused| {
            tracing::warn!(provider = self.registration.id, %refused, "an ID token was refused");
            failed().source(refused)
        })?;
        let email = claims.email.filter(|email| plausible(email));
        Ok(Vouched {
            issuer: self.registration.issuer.clone(),
            subject: claims.sub,
            provider: self.registration.id.clone(),
            name: claims.name,
            email_verified: claims.email_verified && email.is_some(),
            email,
        })
    }

    async fn discover(&self) -> Result<std::sync::Arc<Discovery>> {
        match self.registration.kind {
            ProviderKind::Oidc => {
                self.discoveries.get(&self.web, &self.registration.issuer).await.map_err(away)
            }
            ProviderKind::Github => Ok(github::endpoints(&self.registration)),
        }
    }

    fn client(&self, found: &Discovery, redirect: &str) -> Result<OAuth> {
        let broken = |error: oauth2::url::ParseError| away_because(error);
        Ok(Client::new(ClientId::new(self.registration.client_id.clone()))
            .set_client_secret(ClientSecret::new(self.registration.client_secret.expose_secret().to_owned()))
            .set_auth_uri(AuthUrl::new(found.authorization_endpoint.clone()).map_err(broken)?)
            .set_token_uri(TokenUrl::new(found.token_endpoint.clone()).map_err(broken)?)
            .set_redirect_uri(RedirectUrl::new(redirect.to_owned()).map_err(broken)?))
    }
}

/// Long enough to be an address and short enough to be kept; whether mail arrives is another matter.
pub fn plausible(email: &str) -> bool {
    let parts = email.split_once('@');
    (3..=254).contains(&email.len())
        && !email.chars().any(|c| c.is_control() || c.is_whitespace())
        && parts
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'))
}

#[derive(Deserialize)]
struct SaysNo {
    #[serde(rename = "error")]
    _error: serde::de::IgnoredAny,
}

/// What the token endpoint says, for the log. Words of its own are not repeated.
fn refusal(said: &BasicErrorResponseType) -> &'static str {
    match said {
        BasicErrorResponseType::InvalidClient | BasicErrorResponseType::UnauthorizedClient => {
            "the token endpoint does not know this client: are client_id and client_secret right?"
        }
        BasicErrorResponseType::InvalidGrant => "the token endpoint does not take the code",
        _ => "the token endpoint refused",
    }
}

fn failed() -> Error {
    Error::new(&codes::SIGN_IN_FAILED)
}

fn away(error: WebError) -> Error {
    away_because(error)
}

fn away_because(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(&codes::PROVIDER_UNAVAILABLE).retry_after(std::time::Duration::from_secs(5)).source(error)
}
