//! Pages for people: server-rendered, with one style sheet and one small script of our own, readable without either.
//!
//! To add a page: a template in `templates/pages` that extends `base.html`, a struct beside it with a `frame` and what it
//! shows, and [`page`] in the handler.

mod account;
mod api_keys;
pub mod assets;
mod audit;
mod confirm;
mod home;
mod invitation;
mod invoices;
mod leaving;
mod members;
mod new;
pub mod plan;
pub mod plot;
mod qr;
mod second_factor;
mod sessions;
mod sign_on;
mod usage;
pub mod workspace;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{FromRef, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode, header};

pub use super::browser::see_other;
use super::browser::{Site, at_base};
use super::support::reads_only;
use crate::billing::Billing;
use crate::identity::Identity;
use crate::jobs::feed::RunFeed;
use crate::kernel::{Error, codes};
pub use account::{day as account_day, moment as account_moment};
pub use home::sign_in_page;

/// The platform's own pages at a tenant's host, to be put [behind the door](workspace::behind_the_door).
pub fn workspace_routes(identity: Identity) -> Router {
    // What an operator who looks in has no business with is all here; see `http::support`.
    members::routes(identity.clone())
        .merge(sessions::routes(identity.clone()))
        .merge(audit::routes(identity.clone()))
        .merge(api_keys::routes(identity.clone()))
        .merge(usage::routes(identity.clone()))
        .merge(sign_on::routes(identity))
        .route_layer(from_fn(reads_only))
}

/// What the pages work with.
#[derive(Clone)]
pub struct Pages {
    pub site: Site,
    pub feed: RunFeed,
    pub billing: Billing,
}

impl FromRef<Pages> for Site {
    fn from_ref(pages: &Pages) -> Self {
        pages.site.clone()
    }
}

/// The pages of the sign-in host.
pub fn routes(pages: Pages) -> Router {
    Router::new()
        .route("/sign-in", get(home::sign_in))
        .route("/signup", get(home::sign_up))
        .route("/join", post(home::join))
        .route("/new", get(new::form).post(new::make))
        .route("/new/slug", get(new::slug))
        .route("/new/{tenant}", get(new::progress))
        .route("/new/{tenant}/events", get(new::events))
        .route("/invitations/{id}", get(invitation::show).post(invitation::accept))
        .route("/account", get(account::show))
        .route("/account/confirm", get(confirm::show))
        .route("/account/second-factor", get(second_factor::show))
        .route("/account/second-factor/begin", post(second_factor::begin))
        .route("/account/second-factor/confirm", post(second_factor::confirm))
        .route("/account/second-factor/codes", post(second_factor::renew))
        .route("/account/second-factor/off", post(second_factor::off))
        .route("/account/export", post(leaving::export))
        .route("/account/delete", get(leaving::ask).post(leaving::leave))
        .route("/account/name", post(account::rename))
        .route("/account/sessions/revoke", post(account::revoke))
        .route("/account/sessions/revoke-others", post(account::revoke_others))
        .route_layer(from_fn_with_state(pages.site.clone(), at_base))
        .route("/", get(home::root))
        .with_state(pages)
}

/// Own files only, no inline script or style, forms to ourselves only, framed by nobody.
const CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What pages call the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    pub name: &'static str,
    /// What it is, in a few words.
    pub tagline: &'static str,
    /// Its pages in the navigation of a workspace: the path of each, and what it is called. The first is where a workspace
    /// begins.
    pub pages: &'static [(&'static str, &'static str)],
}

tokio::task_local! {
    /// Of the product whose page is being made. The frame is needed wherever something may be refused, and there is one
    /// product: so it comes with the request, and not by every function's arguments.
    static WORDS: Words;
}

/// Work that goes on by itself and may make a page: it takes the product's words along.
pub fn in_this_frame<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let words = WORDS.try_with(|words| *words).ok();
    async move {
        match words {
            Some(words) => WORDS.scope(words, work).await,
            None => work.await,
        }
    }
}

/// Names the product on these pages.
pub fn framed(pages: Router, words: Words) -> Router {
    if !pages.has_routes() {
        return pages;
    }
    pages.route_layer(from_fn(move |request: Request, next: Next| WORDS.scope(words, next.run(request))))
}

/// For an address where there is nothing: a page for whoever asks for one.
pub fn nothing_here(words: Words, headers: &HeaderMap) -> Option<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let page = || failure(Error::new(&codes::NOT_FOUND));
    accept.contains("text/html").then(|| WORDS.sync_scope(words, page))
}

/// Pages from elsewhere, at the sign-in host.
pub fn at_base_only(pages: Router, site: Site) -> Router {
    if pages.has_routes() { pages.route_layer(from_fn_with_state(site, at_base)) } else { pages }
}

/// What the frame around every page shows.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub product: &'static str,
    pub tagline: &'static str,
    pub pages: &'static [(&'static str, &'static str)],
    pub css: &'static str,
    pub js: &'static str,
    pub icon: &'static str,
}

impl Frame {
    /// Where a workspace begins.
    pub fn begins(&self) -> &'static str {
        self.pages.first().map_or("/members", |(path, _)| *path)
    }
}

impl Default for Frame {
    fn default() -> Self {
        let nameless = Words { name: "Freehold", tagline: "Freehold", pages: &[] };
        let words = WORDS.try_with(|words| *words).unwrap_or(nameless);
        Self {
            product: words.name,
            tagline: words.tagline,
            pages: words.pages,
            css: assets::css(),
            js: assets::js(),
            icon: assets::ICON,
        }
    }
}

/// A page. What is on it depends on who asks, so nobody keeps it.
pub fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => dress(Html(html).into_response()),
        Err(error) => Error::internal(error).into_response(),
    }
}

fn dress(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    // Not `no-referrer`, which all other answers have: a browser would then send `Origin: null` with our own forms.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.append(header::VARY, HeaderValue::from_static("cookie"));
    response
}

#[derive(Template)]
#[template(path = "pages/failure.html")]
struct Failure<'a> {
    frame: Frame,
    title: &'a str,
    code: &'a str,
    detail: Option<&'a str>,
    hint: Option<&'a str>,
    fields: Vec<(&'a str, &'a str)>,
}

/// An error as a page: the words of its problem, and no more.
pub fn failure(error: impl Into<Arc<Error>>) -> Response {
    let error = error.into();
    let code = error.code();
    let ours = code.status >= 500;
    let template = Failure {
        frame: Frame::default(),
        title: code.title,
        code: code.name,
        detail: error.public_detail().filter(|_| !ours),
        hint: error.public_hint().filter(|_| !ours),
        fields: error.field_errors().iter().map(|e| (e.field.as_str(), e.message.as_str())).collect(),
    };
    let mut response = page(&template);
    *response.status_mut() = StatusCode::from_u16(code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(seconds) = error.retry_after_secs() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    // The outermost layer logs it once, with the request id.
    response.extensions_mut().insert(error);
    response
}

/// What is wrong, in the words of its problem, for a page that shows it beside its form.
pub fn words(error: &Error) -> String {
    let fields = error.field_errors().iter().map(|one| format!("{} {}", one.field, one.message));
    let fields: Vec<String> = fields.collect();
    let mut words = match error.public_detail() {
        _ if !fields.is_empty() => format!("{}.", fields.join("; ")),
        Some(detail) => format!("{detail}."),
        None => error.code().title.to_owned(),
    };
    if let Some(hint) = error.public_hint() {
        words.push_str(&format!(" {hint}."));
    }
    let first = words.chars().next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    first + words.chars().skip(1).collect::<String>().as_str()
}

/// A page handler's error: shown as a page.
pub struct Shown(pub Error);

impl<E: Into<Error>> From<E> for Shown {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Shown {
    fn into_response(self) -> Response {
        failure(self.0)
    }
}
