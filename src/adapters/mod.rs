//! The outside world: one file per service.

pub mod redis;
