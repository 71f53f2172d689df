//! The operators' pages, at the sign-in host below `/operator`. A sign-in of their own, by providers that nobody else sees, with
//! a cookie of its own: it opens nothing of a tenant's, and no other cookie opens anything here.
//!
//! | address | does |
//! |---|---|
//! | `GET /operator` | the tenants, with search |
//! | `GET /operator/tenants/{tenant}` | one tenant: its state, its runs, its support sessions |
//! | `POST /operator/tenants/{tenant}/support` | starts a support session |
//! | `POST /operator/support/end` | ends one |
//! | `GET /operator/money`, `…/report.csv` | what waits, what differs, what is held; this month as a file |
//! | `POST /operator/money/incident`, `…/correction`, `…/release` | what finance does about it |
//! | `GET /operator/sign-in`, `/operator/sign-in/{provider}`, `…/callback` | in |
//! | `POST /operator/sign-out` | out |

mod fleet;
mod money;
mod sign_in;
mod staff;
mod tenant;

use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::{Extension, Router};

use super::browser::{Site, at_base};
use crate::billing::Billing;

/// The session of an operator's browser. It is for the sign-in host alone.
pub const COOKIE: &str = "__Host-freehold-operator";
/// The browser that an operator's sign-in was begun in.
const FLOW_COOKIE: &str = "__Host-freehold-operator-flow";
/// Where the pages begin.
const HOME: &str = "/operator";

/// Every route, with its state. `billing` is for the page about money.
pub fn routes(site: Site, billing: Billing) -> Router {
    Router::new()
        .route(HOME, get(fleet::show))
        .route("/operator/sign-in", get(sign_in::page))
        .route("/operator/sign-in/{provider}", get(sign_in::start))
        .route("/operator/sign-in/{provider}/callback", get(sign_in::callback))
        .route("/operator/sign-out", post(sign_in::sign_out))
        .route("/operator/tenants/{tenant}", get(tenant::show))
        .route("/operator/tenants/{tenant}/support", post(tenant::start))
        .route("/operator/support/end", post(tenant::end))
        .route("/operator/money", get(money::show))
        .route("/operator/money/report.csv", get(money::file))
        .route("/operator/money/incident", post(money::settle))
        .route("/operator/money/correction", post(money::decide))
        .route("/operator/money/release", post(money::release))
        .route_layer(Extension(billing))
        .route_layer(from_fn_with_state(site.clone(), at_base))
        .with_state(site)
}
