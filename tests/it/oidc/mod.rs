//! Signing in through providers: a real one, one that lies on command, and GitHub's API.

mod bad_input;
mod cookies;
pub mod fixture;
mod floods;
mod forged;
mod github;
mod keys;
mod links;
mod meant;
mod real;
mod redirects;
mod state;
mod takeover;
