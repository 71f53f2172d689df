//! Plans: what is sold and what it grants.

use serde::{Deserialize, Serialize};

/// What a plan grants a tenant: the numbers the data plane enforces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Entitlements {
    /// Sustained requests per second.
    pub requests_per_second: u32,
    /// Requests that may come at once on top.
    pub burst: u32,
    /// Connections in use at once, per server process.
    pub connections: u32,
    /// The longest a statement may run, in milliseconds.
    pub statement_timeout_ms: u32,
    /// Live projects.
    pub projects: u32,
    /// Members.
    pub seats: u32,
}
