//! Signing in and out.
//!
//! | address | host | does |
//! |---|---|---|
//! | `GET /sign-in/{provider}` | sign-in host | to the provider |
//! | `GET /sign-in/{provider}/callback` | sign-in host | back from it |
//! | `POST /sign-out` | both | ends this browser's session, everywhere |
//! | `GET /go/{slug}` | sign-in host | on to a tenant's host, with a code for this browser |
//! | `GET /enter` | a tenant's host | begins that, and redeems the code |
//! | `GET /enter/support` | a tenant's host | an operator's link: a support session |
//! | `POST /account/confirm` | sign-in host | a fresh sign-in before something grave |
//! | `POST /account/links`, `/account/links/remove` | sign-in host | links and unlinks a provider |

mod flow;
mod hand_off;
mod links;
pub(in crate::http) mod page;
mod sign_out;
mod support;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::browser::{Site, at_base};

/// The browser that a sign-in was begun in.
const FLOW_COOKIE: &str = "__Host-freehold-flow";
/// The browser that asked to be let into a tenant's host.
const ENTER_COOKIE: &str = "__Host-freehold-enter";

/// Every route, with its state.
pub fn routes(site: Site) -> Router {
    let base = Router::new()
        .route("/sign-in/{provider}", get(flow::start))
        .route("/sign-in/{provider}/callback", get(flow::callback))
        .route("/go/{slug}", get(hand_off::go))
        .route("/account/confirm", post(links::confirm))
        .route("/account/links", post(links::add))
        .route("/account/links/remove", post(links::remove))
        .route_layer(from_fn_with_state(site.clone(), at_base));
    Router::new()
        .merge(base)
        .route("/enter", get(hand_off::enter))
        .route("/enter/support", get(support::enter))
        .route("/sign-out", post(sign_out::sign_out))
        .with_state(site)
}
