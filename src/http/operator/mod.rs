//! The operators' API under `/operator/v1`: what the CLI does to tenants, shards, plans and runs, through the same service
//! functions.
//!
//! The server has no admin login on the shards. A change that needs one is recorded as a run, the worker carries it out,
//! and the handler waits for it a while: the result when it is done, 202 with the run when it still goes on.
//!
//! To add an operation: a handler of three lines in the file of its noun, `routes!` in that file's `routes()`.

use axum::middleware::map_response;
use utoipa_axum::router::OpenApiRouter;

use crate::billing::Billing;
use crate::control_plane::ControlPlane;
use crate::data_plane::tenancy;
use crate::jobs::feed::RunFeed;

mod api_keys;
mod approvals;
mod audit;
pub mod billing;
mod caller;
mod feed;
pub mod idempotency_key;
mod infra;
mod jobs;
mod operator_keys;
mod outcome;
mod plans;
mod pools;
mod runs;
mod shards;
mod slots;
mod support;
mod tenants;

pub use audit::KeptHeads;
pub use operator_keys::NewOperatorKey;
pub use plans::ApplyPlans;
pub use shards::Fill;
pub use slots::SlotFilter;
pub use tenants::{Purge, Reason};

/// What the handlers' extractors work with.
#[derive(Clone)]
struct Inside {
    cp: ControlPlane,
    feed: RunFeed,
    billing: Option<Billing>,
}

/// Every route, with its state: the control database, and nothing of the shards.
pub fn routes(cp: ControlPlane) -> OpenApiRouter {
    routes_with(cp, None)
}

/// The same, for a server that is given Stripe.
pub fn routes_with(cp: ControlPlane, billing: Option<Billing>) -> OpenApiRouter {
    let feed = RunFeed::new(cp.db.clone());
    OpenApiRouter::new()
        .merge(tenants::routes())
        .merge(approvals::routes())
        .merge(api_keys::routes())
        .merge(pools::routes())
        .merge(shards::routes())
        .merge(slots::routes())
        .merge(plans::routes())
        .merge(runs::routes())
        .merge(jobs::routes())
        .merge(infra::routes())
        .merge(audit::routes())
        .merge(operator_keys::routes())
        .merge(support::routes())
        .merge(billing::routes())
        .route_layer(map_response(async |answer| tenancy::private(answer)))
        .with_state(Inside { cp, feed, billing })
}
