//! Signing in through providers: a real one, one that lies on command, and GitHub's API.

mod admin_pages;
mod bad_input;
mod cookies;
mod custom_domain;
pub mod fixture;
mod floods;
mod forged;
mod github;
mod keys;
mod links;
mod meant;
mod own;
mod own_required;
mod real;
mod redirects;
mod ssrf;
mod state;
mod takeover;
