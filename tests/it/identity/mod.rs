//! People: accounts, sessions, seats.

pub mod fixture;
mod invitations;
mod members;
mod sessions;
