//! The outside world: one file or folder per service.

pub mod dns;
pub mod mail;
pub mod redis;
pub mod stripe;
pub mod terraform;
