//! Serves tenants' requests: who is asking for which tenant, may they, and on which connection.

pub mod broker;
pub mod context;

pub use context::{Actor, As, TenantContext};
