//! The audit log: whole, complete, and each tenant's own.

mod chain;
mod complete;
mod damage;
pub mod fixture;
