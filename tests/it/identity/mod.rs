//! People: accounts, sessions, seats.

mod fixture;
mod members;
mod sessions;
