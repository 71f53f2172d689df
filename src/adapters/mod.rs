//! The outside world: one file per service.

pub mod dns;
pub mod mail;
pub mod redis;
pub mod stripe;
