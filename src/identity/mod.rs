//! Who people and programs are, how they get in, and where they belong.
//!
//! | file | holds |
//! |---|---|
//! | `keys` | API keys of tenants, keys of operators |
//! | `accounts` | people, and the providers that vouch for them |
//! | `oidc` | the providers: where a browser is sent, and what is believed of what it brings back |
//! | `sessions` | signed-in devices, and the hand-off from the sign-in host to a tenant's host |
//! | `settings` | which ways in there are |
//! | `sign_in`, `return_to` | a sign-in on its way to a provider and back; where the person goes then |
//! | `invitations`, `letters` | a seat for somebody who is not here yet; the mail that says so |
//! | `sign_up` | a workspace of one's own |
//! | `arrive` | what becomes of a browser that came back: a session, a link, or a refusal |
//! | `signing`, `keyring` | the keys that access tokens are signed with: in the control database, and as a server knows them |
//! | `access_token` | what such a token says, and whether it is believed |
//! | `signed` | reading a signed token, ours or a provider's: the signature alone |
//! | `tokens`, `device` | a terminal's refresh tokens, and how it is signed in |
//! | `userinfo` | what a person asks about themselves |
//! | `domains`, `sso`, `own` | mail domains that a tenant has proven; its own OpenID provider, as a rule and as it is asked |
//! | `throttle`, `tries` | how often something may be tried, and how waits grow after what failed |
//! | `enter` | the last step of every way in: a session, or the wait for a second factor |
//! | `password`, `password_links` | an address and a password as a way in; the mailed links that lead to one |
//! | `passwords`, `password_rules` | hashing them; which ones are taken |
//! | `second_factor` | codes of an app, and recovery codes |
//! | `account_letters` | mail to a person about their own account |
//! | `export`, `erasure` | all that is kept about a person, for them to have, and gone |
//! | `chores` | what a worker does for all this now and then |
//! | `operators` | the provider's staff: their own sign-in |
//! | `support` | an operator's look into a tenant: for a reason, for a time |
//! | `members` | seats in tenants: roles, removal, the last owner |
//!
//! Two rules run through all of it. An account is the pair (issuer, subject): an e-mail address that somebody claims
//! never leads to an account. And whatever lets its bearer in is stored as a hash, or derived and not stored at all.

pub mod access_token;
pub mod account_letters;
pub mod accounts;
pub mod arrive;
pub mod chores;
pub mod device;
pub mod domains;
pub mod enter;
pub mod erasure;
pub mod export;
pub mod invitations;
pub mod keyring;
pub mod keys;
pub mod letters;
pub mod members;
pub mod oidc;
pub mod operators;
pub mod own;
pub mod password;
pub mod password_links;
pub mod password_rules;
pub mod passwords;
pub mod return_to;
pub mod second_factor;
pub mod sessions;
pub mod settings;
pub mod sign_in;
pub mod sign_up;
mod signed;
pub mod signing;
pub mod sso;
pub mod support;
pub mod throttle;
pub mod tokens;
pub mod tries;
pub mod userinfo;

use std::sync::Arc;

use crate::control_plane::ControlPlane;
use crate::kernel::{Error, MasterKey};
use domains::TxtLookup;
use keyring::Keyring;
use own::OwnProviders;
use passwords::Passwords;
use settings::Settings;
use sign_in::Providers;

/// What identity works with.
#[derive(Clone)]
pub struct Identity {
    pub cp: ControlPlane,
    pub master: MasterKey,
    pub providers: Providers,
    /// The providers that operators sign in with, and nobody else.
    pub operators: Providers,
    pub settings: Arc<Settings>,
    pub keyring: Keyring,
    pub passwords: Passwords,
    /// The providers that workspaces brought along.
    pub own: OwnProviders,
    /// How mail domains are proven.
    pub txt: TxtLookup,
}

impl Identity {
    pub fn new(cp: &ControlPlane, master: &MasterKey, providers: Providers, settings: Settings) -> Self {
        Self {
            cp: cp.clone(),
            master: master.clone(),
            providers,
            operators: Providers::default(),
            passwords: Passwords::new(&settings.password),
            settings: Arc::new(settings),
            keyring: Keyring::new(cp, master),
            own: OwnProviders::new(cp.addresses.scheme == "http"),
            txt: Arc::new(|_| Box::pin(async { Err(Error::internal("nothing to look names up with")) })),
        }
    }

    /// The same, with a way in for operators.
    #[must_use]
    pub fn with_operators(self, operators: Providers) -> Self {
        Self { operators, ..self }
    }

    /// The same, with this to look TXT records up.
    #[must_use]
    pub fn with_txt(self, txt: TxtLookup) -> Self {
        Self { txt, ..self }
    }
}
