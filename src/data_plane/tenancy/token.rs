//! Access tokens at tenants' hosts: a signature is checked once, and what came of it is remembered until the token expires.

use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::sync::Cache;

use crate::identity::access_token::{self, Audience, Said};
use crate::identity::keyring::Keyring;
use crate::kernel::Result;
use crate::kernel::credentials::KeyHash;
use crate::kernel::ids::{AccountId, SessionId, TenantId};
use crate::kernel::secret::sha256;

/// Tokens that are remembered, by the SHA-256 of their text: about 20 MB.
const MOST: u64 = 50_000;

/// What a good token for a tenant says.
#[derive(Clone, Debug)]
pub struct Believed {
    pub account: AccountId,
    pub session: SessionId,
    pub tenant: TenantId,
    expires_at: DateTime<Utc>,
    kid: std::sync::Arc<str>,
}

/// Which access tokens are believed. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    keyring: Keyring,
    /// Only good ones: a stranger who invents tokens fills nothing.
    seen: Cache<KeyHash, Believed>,
}

impl Tokens {
    pub fn new(keyring: Keyring) -> Self {
        let life = Duration::from_secs(access_token::LIFE.num_seconds().unsigned_abs());
        Self { keyring, seen: Cache::builder().max_capacity(MOST).time_to_live(life).build() }
    }

    /// What this text says, if it is a token of ours for a tenant, good now and signed by a key that is not retired.
    ///
    /// # Errors
    /// `control_unavailable` when its key is not known and cannot be looked up.
    pub async fn believed(&self, text: &str, now: DateTime<Utc>) -> Result<Option<Believed>> {
        // What every JWT begins with: `{"` in base64.
        if !text.starts_with("eyJ") {
            return Ok(None);
        }
        let hash = sha256(text.as_bytes());
        if let Some(known) = self.seen.get(&hash) {
            return Ok(Some(known).filter(|known| now < known.expires_at && self.keyring.knows(&known.kid)));
        }
        let Some(Said { account, session, tenant: Some(tenant), expires_at, kid }) =
            self.keyring.verify(text, Audience::Tenant).await?
        else {
            return Ok(None);
        };
        let believed = Believed { account, session, tenant, expires_at, kid: kid.into() };
        self.seen.insert(hash, believed.clone());
        Ok(Some(believed))
    }
}
