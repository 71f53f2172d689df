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
//! | `throttle` | how often something may be tried |
//! | `members` | seats in tenants: roles, removal, the last owner |
//!
//! Two rules run through all of it. An account is the pair (issuer, subject): an e-mail address that somebody claims
//! never leads to an account. And whatever lets its bearer in is stored as a hash, or derived and not stored at all.

pub mod accounts;
pub mod arrive;
pub mod invitations;
pub mod keys;
pub mod letters;
pub mod members;
pub mod oidc;
pub mod return_to;
pub mod sessions;
pub mod settings;
pub mod sign_in;
pub mod sign_up;
pub mod throttle;

use std::sync::Arc;

use crate::control_plane::ControlPlane;
use crate::kernel::MasterKey;
use settings::Settings;
use sign_in::Providers;

/// What identity works with.
#[derive(Clone)]
pub struct Identity {
    pub cp: ControlPlane,
    pub master: MasterKey,
    pub providers: Providers,
    pub settings: Arc<Settings>,
}
