//! The platform's own operations at a tenant's host, beside the product's: who is here, and who may be. They pass the
//! same door (`data_plane::tenancy`), so that a key, a token and a browser's session open them alike, and the same
//! generated tests.
//!
//! `Idempotency-Key` is honoured for every POST of them ([`repeats`]).
//!
//! To add an operation: a handler that takes `As<Role>` and `State<Identity>`, in the file of its noun, registered with
//! [`crate::operations!`].

use axum::middleware::{from_fn, from_fn_with_state};
use utoipa_axum::router::OpenApiRouter;

use crate::control_plane::audit::Caller;
use crate::data_plane::TenantContext;
use crate::http::support::reads_only;
use crate::identity::Identity;
use crate::identity::members::By;

mod api_keys;
mod audit;
mod domains;
mod invitations;
mod me;
mod members;
mod ownership;
pub mod repeats;
mod sessions;
pub mod sso;
mod support;

/// Every route, with its state.
pub fn routes(identity: Identity) -> OpenApiRouter {
    OpenApiRouter::new()
        .merge(me::routes())
        .merge(members::routes())
        .merge(invitations::routes())
        .merge(ownership::routes())
        .merge(api_keys::routes())
        .merge(sessions::routes())
        .merge(audit::routes())
        .merge(support::routes())
        .merge(domains::routes())
        .merge(sso::routes())
        .route_layer(from_fn_with_state(identity.clone(), repeats::once))
        .route_layer(from_fn(reads_only))
        .with_state(identity)
}

/// Who asks for a change among members.
pub(super) fn by(context: &TenantContext) -> By {
    By { account: context.actor.person.map(|person| person.account), role: context.actor.role }
}

/// Who acts, for the audit log.
pub(super) fn caller(context: &TenantContext) -> Caller {
    Caller { actor: context.actor.id.clone(), request_id: Some(context.request_id.clone()) }
}
