//! Pages for people: server-rendered, with one style sheet and one small script of our own, readable without either.
//!
//! To add a page: a template in `templates/pages` that extends `base.html`, a struct beside it with a `frame` and what it
//! shows, and [`page`] in the handler.

pub mod assets;

use askama::Template;
use axum::response::{Html, IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::kernel::Error;

/// Own files only, no inline script or style, forms to ourselves only, framed by nobody.
const CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What the frame around every page shows.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub product: &'static str,
    pub css: &'static str,
    pub js: &'static str,
    pub icon: &'static str,
}

impl Default for Frame {
    fn default() -> Self {
        Self { product: "OpsFlow", css: assets::css(), js: assets::js(), icon: assets::ICON }
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
pub fn failure(error: Error) -> Response {
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
    response.extensions_mut().insert(std::sync::Arc::new(error));
    response
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
