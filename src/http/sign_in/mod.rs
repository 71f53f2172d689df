//! Signing in and out.
//!
//! | address | host | does |
//! |---|---|---|
//! | `GET /sign-in/{provider}` | sign-in host | to the provider |
//! | `GET /sign-in/{provider}/callback` | sign-in host | back from it |
//! | `POST /sign-out` | both | ends this browser's session, everywhere |
//! | `GET /sign-in/sso` | sign-in host | finds a workspace's own provider, by its address or a mail address |
//! | `GET /sign-in/sso/{tenant}`, `…/callback` | sign-in host | to that provider, and back |
//! | `GET`, `POST /sign-in/sso/{tenant}/connect` | sign-in host | links it to the account that has the seat |
//! | `GET /go/{slug}` | sign-in host | on to a tenant's host, with a code for this browser |
//! | `GET /go?host=` | sign-in host | the same, to a tenant's own domain |
//! | `GET /enter` | a tenant's host | begins that, and redeems the code |
//! | `GET /enter/support` | a tenant's host | an operator's link: a support session |
//! | `…/sign-in/password`, `/new`, `/forgotten`, `/links/{id}` below it | sign-in host | an address and a password |
//! | `…/sign-in/second-step` | sign-in host | the second factor, before there is a session |
//! | `POST /account/confirm`, `/account/confirm/password` | sign-in host | a fresh sign-in before something grave |
//! | `POST /account/password`, `/account/password/add` | sign-in host | another password, or a first one |
//! | `POST /account/links`, `/account/links/remove` | sign-in host | links and unlinks a provider |

mod flow;
mod hand_off;
mod links;
mod own;
pub(in crate::http) mod page;
mod password;
mod second_step;
mod sign_out;
mod support;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};

use super::browser::{Answer, Site, at_base, see_other, session_cookie, with_cookies, with_query};
use super::mark::{FLOW_COOKIE, Mark};
use crate::identity::enter::LetIn;
use crate::kernel::{Error, codes};

/// The browser that asked to be let into a tenant's host.
const ENTER_COOKIE: &str = "__Host-freehold-enter";

/// Every route, with its state.
pub fn routes(site: Site) -> Router {
    let base = Router::new()
        .route("/sign-in/{provider}", get(flow::start))
        .route("/sign-in/{provider}/callback", get(flow::callback))
        .route("/sign-in/sso", get(own::find))
        .route("/sign-in/sso/{tenant}", get(own::start))
        .route("/sign-in/sso/{tenant}/callback", get(own::callback))
        .route("/sign-in/sso/{tenant}/connect", get(own::ask).post(own::connect))
        .route("/go", get(hand_off::go_to_domain))
        .route("/go/{slug}", get(hand_off::go))
        .route("/sign-in/password", post(password::enter))
        .route("/sign-in/password/new", get(password::new).post(password::ask_new))
        .route("/sign-in/password/forgotten", get(password::forgotten).post(password::ask_forgotten))
        .route("/sign-in/password/links/{id}", get(password::link).post(password::choose))
        .route("/sign-in/second-step", get(second_step::form).post(second_step::check))
        .route("/account/password", post(password::change))
        .route("/account/password/add", post(password::add))
        .route("/account/confirm/password", post(password::confirm))
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

/// What a browser gets whose person has shown the first factor: its session's cookie, or the page for the second.
fn let_in(site: &Site, let_in: &LetIn, mark: &Mark, return_to: &str) -> Response {
    let now = site.identity.cp.clock.now();
    match let_in {
        LetIn::Session(started) => with_cookies(see_other(return_to), [session_cookie(started, now)]),
        LetIn::SecondStep => with_cookies(see_other("/sign-in/second-step"), [mark.cookie(now)]),
    }
}

/// What is grave and lacks a fresh sign-in leads to the page for one, and back.
pub fn or_confirm(error: Error, back: &str) -> Answer {
    match error.is(&codes::CONFIRM_REQUIRED) {
        true => Ok(see_other(&with_query("/account/confirm", &[("return_to", back)]))),
        false => Err(error.into()),
    }
}
