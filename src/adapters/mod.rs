//! The outside world: one file per service.

pub mod mail;
pub mod redis;
