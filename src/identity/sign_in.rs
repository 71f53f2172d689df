//! A sign-in on its way to a provider and back: one use, ten minutes, one browser.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use data_encoding::BASE64URL_NOPAD;
use secrecy::SecretString;
use serde::Deserialize;

use super::Identity;
use super::accounts::Vouched;
use super::oidc::settings::{ProviderSettings, Registration};
use super::oidc::web::Web;
use super::oidc::{CallbackQuery, FlowSecrets, Provider};
use super::return_to;
use super::sso::tenant_of;
use super::throttle::{self, Rate};
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::seal::Use;
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Result, codes};

/// How long a person may take at the provider.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Sign-ins that one client's network may begin. Wide enough for an office that comes to work behind one address; each
/// leaves a row, and a stranger must not fill the table with them.
const STARTS: Rate = Rate { every: TimeDelta::milliseconds(500), burst: 120 };

/// How the ids of operators' providers begin. No id in a configuration holds a `/`.
pub const OPERATORS: &str = "operator/";

/// The providers of the configuration, in its order.
#[derive(Clone, Default)]
pub struct Providers(Arc<Vec<Arc<Provider>>>);

impl Providers {
    /// # Errors
    /// `bad_request` for one that is not configured well, or twice.
    pub fn new(settings: &[ProviderSettings], web: &Web) -> Result<Self> {
        Self::named(settings, web, "")
    }

    /// Those that operators sign in with: apart from all others, in name as well.
    ///
    /// # Errors
    /// As [`Providers::new`].
    pub fn of_operators(settings: &[ProviderSettings], web: &Web) -> Result<Self> {
        Self::named(settings, web, OPERATORS)
    }

    fn named(settings: &[ProviderSettings], web: &Web, before: &str) -> Result<Self> {
        let mut seen = HashMap::new();
        let mut providers = Vec::new();
        for one in settings {
            if seen.insert(one.id.as_str(), ()).is_some() {
                return Err(Error::new(&codes::BAD_REQUEST)
                    .detail(format!("sign-in provider {:?} is configured twice", one.id)));
            }
            let mut registration = one.register()?;
            registration.id.insert_str(0, before);
            providers.push(Arc::new(Provider::new(registration, web.clone())));
        }
        Ok(Self(Arc::new(providers)))
    }

    pub fn get(&self, id: &str) -> Result<Arc<Provider>> {
        let found = self.0.iter().find(|provider| provider.registration.id == id);
        found.cloned().ok_or_else(|| Error::new(&codes::NOT_FOUND))
    }

    /// For the buttons of the sign-in page.
    pub fn registrations(&self) -> impl Iterator<Item = &Registration> {
        self.0.iter().map(|provider| &provider.registration)
    }
}

/// What a sign-in is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Purpose {
    SignIn,
    /// Adds the provider to an account that is signed in.
    Link,
    /// A fresh proof before something grave.
    Confirm,
    /// One of the provider's staff, not an account.
    Operator,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    pub purpose: Purpose,
    /// Whose account, for [`Purpose::Link`] and [`Purpose::Confirm`].
    pub account: Option<AccountId>,
    /// The tenant whose own provider it is.
    pub tenant: Option<TenantId>,
    pub return_to: Option<&'a str>,
}

/// The way to the provider.
pub struct Begun {
    pub url: String,
    /// For the browser's cookie; the same as before if it had one.
    pub browser: SecretString,
}

/// A browser that came back with its provider's word.
#[derive(Clone, Debug)]
pub struct Returned {
    pub vouched: Vouched,
    pub purpose: Purpose,
    pub account: Option<AccountId>,
    pub tenant: Option<TenantId>,
    pub return_to: String,
    /// SHA-256 of the mark of the browser that it was begun in.
    pub browser_hash: [u8; 32],
}

impl Identity {
    /// Whether one more sign-in may be begun from this address.
    ///
    /// # Errors
    /// `rate_limited`.
    pub async fn may_begin(&self, address: &str) -> Result<()> {
        let mut conn = self.cp.db.acquire().await?;
        throttle::take_of_network(&mut conn, "sign-in", address, STARTS, self.cp.clock.now()).await
    }

    /// Where a provider sends browsers back to: exactly this, as it is registered there. Each has an address of its own,
    /// a workspace's own too.
    pub fn callback_url(&self, provider: &str) -> String {
        let base = self.cp.addresses.base_url();
        if let Some(tenant) = tenant_of(provider) {
            return format!("{base}/sign-in/sso/{tenant}/callback");
        }
        match provider.strip_prefix(OPERATORS) {
            Some(provider) => format!("{base}/operator/sign-in/{provider}/callback"),
            None => format!("{base}/sign-in/{provider}/callback"),
        }
    }

    /// Begins a sign-in. `browser` is the cookie of an earlier one.
    ///
    /// # Errors
    /// `provider_unavailable`.
    pub async fn begin(&self, provider: &Provider, wish: &Wish<'_>, browser: Option<&str>) -> Result<Begun> {
        let random = || BASE64URL_NOPAD.encode(&self.cp.entropy.bytes::<32>());
        let state = random();
        let browser = browser.filter(|known| is_mark(known)).map_or_else(random, str::to_owned);
        let now = self.cp.clock.now();
        let again_since = (wish.purpose == Purpose::Confirm).then(|| now.timestamp());
        let secrets = FlowSecrets { nonce: random(), verifier: random(), again_since };
        let id = &provider.registration.id;
        let url = provider.authorize_url(&self.callback_url(id), &state, &secrets).await?;
        let state_hash = sha256(state.as_bytes());
        let plain = serde_json::to_vec(&secrets).map_err(Error::internal)?;
        let sealed = self.master.seal(Use::SignIn, &state_hash, &self.cp.entropy, &plain);
        sqlx::query(
            "INSERT INTO sign_in (state_hash, browser_hash, provider, tenant, secrets, purpose, account, return_to,
                                  created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&state_hash[..])
        .bind(&sha256(browser.as_bytes())[..])
        .bind(id)
        .bind(wish.tenant)
        .bind(sealed)
        .bind(wish.purpose)
        .bind(wish.account)
        .bind(return_to::path_of(wish.return_to))
        .bind(now)
        .bind(now + PATIENCE)
        .execute(&self.cp.db)
        .await?;
        Ok(Begun { url, browser: browser.into() })
    }

    /// What became of a sign-in: the provider's word, checked. The sign-in is used up, whatever comes of it.
    ///
    /// # Errors
    /// `sign_in_failed` for one that was not begun here, by this browser, with this provider, a moment ago, or that the
    /// person declined, or whose word is not to be believed; `provider_unavailable`.
    pub async fn returned(
        &self,
        provider: &Provider,
        query: &CallbackQuery,
        browser: Option<&str>,
    ) -> Result<Returned> {
        let stale = || {
            Error::new(&codes::SIGN_IN_FAILED)
                .detail("this sign-in was begun in another browser, was used already, or took too long")
        };
        let state = query.state.as_deref().ok_or_else(stale)?;
        let browser = browser.ok_or_else(stale)?;
        let (state_hash, browser_hash) = (sha256(state.as_bytes()), sha256(browser.as_bytes()));
        let id = &provider.registration.id;
        let flow: Flow = sqlx::query_as(
            "UPDATE sign_in SET used_at = $4
              WHERE state_hash = $1 AND browser_hash = $2 AND provider = $3 AND used_at IS NULL AND expires_at > $4
             RETURNING secrets, purpose, account, tenant, return_to",
        )
        .bind(&state_hash[..])
        .bind(&browser_hash[..])
        .bind(id)
        .bind(self.cp.clock.now())
        .fetch_optional(&self.cp.db)
        .await?
        .ok_or_else(stale)?;
        if let Some(error) = &query.error {
            return Err(declined(error));
        }
        let plain = self.master.open(Use::SignIn, &state_hash, &flow.secrets)?;
        let secrets: FlowSecrets = serde_json::from_slice(&plain).map_err(Error::internal)?;
        let vouched = provider.vouch(query, &self.callback_url(id), &secrets, &self.cp.clock).await?;
        Ok(Returned {
            vouched,
            purpose: flow.purpose,
            account: flow.account,
            tenant: flow.tenant,
            return_to: flow.return_to,
            browser_hash,
        })
    }
}

/// Whether a text can be the mark that a browser was given: 32 random bytes.
pub fn is_mark(text: &str) -> bool {
    BASE64URL_NOPAD.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() == 32)
}

#[derive(sqlx::FromRow)]
struct Flow {
    secrets: Vec<u8>,
    purpose: Purpose,
    account: Option<AccountId>,
    tenant: Option<TenantId>,
    return_to: String,
}

/// The provider says no. Its words are not repeated: anyone can put words into an address.
fn declined(error: &str) -> Error {
    let detail = match error {
        "access_denied" => "you declined at the provider",
        "temporarily_unavailable" | "server_error" => "the provider has a problem",
        _ => "the provider refused",
    };
    Error::new(&codes::SIGN_IN_FAILED).detail(detail)
}
