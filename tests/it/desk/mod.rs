//! Operators: their own sign-in, and what they may look into.

pub mod fixture;
mod keys;
mod money;
mod sign_in;
mod support;
mod support_page;
