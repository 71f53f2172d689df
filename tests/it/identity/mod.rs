//! People: accounts, sessions, seats.

pub mod fixture;
mod members;
mod sessions;
