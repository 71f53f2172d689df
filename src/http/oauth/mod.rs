//! OAuth 2.0 for programs that people use: signing a terminal in, tokens for it, the keys that prove them. At the sign-in
//! host. Standards: RFC 6749 (errors), 7009 (revocation), 8414 (description), 8628 (devices).
//!
//! Anybody may ask here without any key, so how many questions reach the control database at once has an end: a flood must
//! not take the connections that tenants' requests need.

mod answer;
mod approve;
mod device;
mod discovery;
mod token;
mod userinfo;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::browser::{Site, at_base, is_base};
use crate::identity::Identity;
use crate::kernel::{Error, codes};
use answer::Refused;

pub use discovery::{DEVICE, JWKS, REVOKE, TOKEN, USERINFO};
pub use token::Tokens;

/// Questions to the control database at once.
const AT_ONCE: usize = 4;
/// The longest wait for one of these places.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the handlers work with.
#[derive(Clone, FromRef)]
struct Oauth {
    identity: Identity,
    places: Arc<Semaphore>,
}

/// Every route, with its state.
pub fn routes(site: Site) -> Router {
    let pages = Router::new()
        .route("/device", get(approve::ask).post(approve::answer))
        .route_layer(from_fn_with_state(site.clone(), at_base))
        .with_state(site.clone());
    let identity = site.identity.clone();
    let programs = Router::new()
        .route(DEVICE, post(device::start))
        .route(TOKEN, post(token::token))
        .route(REVOKE, post(token::revoke))
        .route(USERINFO, get(userinfo::get))
        .route(JWKS, get(discovery::jwks))
        .route("/.well-known/oauth-authorization-server", get(discovery::metadata))
        .route_layer(from_fn_with_state(site, at_the_sign_in_host))
        .with_state(Oauth { identity, places: Arc::new(Semaphore::new(AT_ONCE)) });
    programs.merge(pages)
}

/// As [`at_base`], for programs: at any other host there is nothing, and it is said as they read it.
async fn at_the_sign_in_host(State(site): State<Site>, request: Request, next: Next) -> Response {
    match is_base(request.headers(), request.uri(), &site.base_domain) {
        true => next.run(request).await,
        false => Error::new(&codes::NOT_FOUND).into_response(),
    }
}

impl Oauth {
    async fn place(&self) -> Result<SemaphorePermit<'_>, Refused> {
        match tokio::time::timeout(PATIENCE, self.places.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Refused::busy()),
        }
    }
}
