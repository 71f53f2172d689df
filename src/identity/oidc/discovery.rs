//! What a provider publishes of itself (OpenID Connect Discovery 1.0).

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::web::{Web, WebError};

/// A document is looked up again after this.
const OLD: Duration = Duration::from_secs(3600);
/// After a failed look the next one waits this long, so that a provider that is down is not asked for each click.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The part of the document that is used.
#[derive(Clone, Debug, Deserialize)]
pub struct Discovery {
    pub issuer: String,
    pub authorization_endpoint: String,
    pub token_endpoint: String,
    pub jwks_uri: String,
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

/// The document, kept; the lock makes many who wait ask once.
#[derive(Debug, Default)]
pub struct Discoveries(Mutex<Option<(Arc<Discovery>, Instant)>>);

impl Discoveries {
    pub async fn get(&self, web: &Web, issuer: &str) -> Result<Arc<Discovery>, WebError> {
        let mut kept = self.0.lock().await;
        if let Some((found, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok(found.clone());
        }
        match (look(web, issuer).await, &mut *kept) {
            (Ok(found), kept) => {
                let found = Arc::new(found);
                *kept = Some((found.clone(), Instant::now() + OLD));
                Ok(found)
            }
            (Err(error), Some((found, until))) => {
                tracing::warn!(%error, issuer, "a provider could not be looked up; what is known is used");
                *until = Instant::now() + AGAIN_AFTER;
                Ok(found.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// Asks a provider about itself. The document must be about the issuer that was asked for (RFC 8414 §3.3), and name
/// addresses that may be asked.
pub async fn look(web: &Web, issuer: &str) -> Result<Discovery, WebError> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let found: Discovery = web.get_json(&url, None).await?;
    if found.issuer != issuer {
        return Err(WebError::Address(found.issuer));
    }
    for address in [&found.authorization_endpoint, &found.token_endpoint, &found.jwks_uri] {
        web.address(address)?;
    }
    Ok(found)
}
