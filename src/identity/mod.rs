//! Who people and programs are, how they get in, and where they belong.
//!
//! | file | holds |
//! |---|---|
//! | `keys` | API keys of tenants, keys of operators |
//! | `accounts` | people, and the providers that vouch for them |
//! | `sessions` | signed-in devices, and the hand-off from the sign-in host to a tenant's host |
//! | `members` | seats in tenants: roles, removal, the last owner |
//!
//! Two rules run through all of it. An account is the pair (issuer, subject): an e-mail address that somebody claims
//! never leads to an account. And whatever lets its bearer in is stored as a hash, or derived and not stored at all.

pub mod accounts;
pub mod keys;
pub mod members;
pub mod sessions;

use crate::control_plane::ControlPlane;
use crate::kernel::MasterKey;

/// What identity works with.
#[derive(Clone)]
pub struct Identity {
    pub cp: ControlPlane,
    pub master: MasterKey,
}
