//! People: accounts, sessions, seats, tokens.

mod away;
mod device;
pub mod fixture;
mod forged;
mod invitations;
mod members;
mod refresh;
mod revocation;
mod sessions;
mod signing;
mod terminal;
