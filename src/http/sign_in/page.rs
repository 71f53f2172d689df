//! The two pages that sign-in itself shows.

use askama::Template;
use axum::response::Response;

use crate::http::pages::{Frame, page};

#[derive(Template)]
#[template(path = "pages/leads_to.html")]
struct LeadsTo<'a> {
    frame: Frame,
    url: &'a str,
    name: &'a str,
}

/// A page that leads on to a provider by itself. In place of a redirect after a form: `form-action 'self'` would forbid
/// that.
pub fn leads_to(url: &str, name: &str) -> Response {
    page(&LeadsTo { frame: Frame::default(), url, name })
}

#[derive(Template)]
#[template(path = "pages/signed_out.html")]
struct SignedOut<'a> {
    frame: Frame,
    sign_in: &'a str,
}

/// After signing out at a tenant's host.
pub fn signed_out(sign_in: &str) -> Response {
    page(&SignedOut { frame: Frame::default(), sign_in })
}
