//! People: accounts, sessions, seats, tokens.

mod api_keys;
mod away;
mod device;
mod domains;
pub mod fixture;
mod forged;
mod invitations;
mod members;
mod own;
mod refresh;
mod revocation;
mod sessions;
mod signing;
mod terminal;
