//! People: accounts, sessions, seats, tokens.

mod api_keys;
mod away;
mod device;
mod domain_api;
mod domains;
mod erasure;
mod export;
pub mod fixture;
mod forged;
mod in_flight;
mod invitations;
mod members;
mod own;
mod password_fixture;
mod password_guessing;
mod password_takeover;
mod passwords;
mod purge;
pub mod refresh;
mod repeats;
mod revocation;
mod seat_invitations;
mod seat_keys;
mod second_factor;
mod sessions;
mod signing;
mod terminal;
