//! Serves tenants' requests: who is asking for which tenant, may they, and on which connection.

pub mod broker;
pub mod context;
pub mod directory;
pub mod idempotency;
pub mod limits;
pub mod tenancy;
pub mod usage;

pub use crate::jobs::regular::RegularJob;
pub use context::{Actor, As, RequestId, TenantContext};
pub use usage::{Aggregation, Meter};
