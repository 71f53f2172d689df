//! Pages for people: the API browser, which works offline, and the catalogue of errors.

use std::fmt::Write as _;
use std::sync::LazyLock;

use askama::Template;
use axum::Router;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::headers;
use crate::kernel::{Code, codes};

/// `/openapi.json`, `/docs` and `/docs/errors`.
pub fn routes(api: &OpenApi) -> Router {
    let document: Bytes = api.to_json().unwrap_or_else(|_| "{}".to_owned()).into();
    let browser = SwaggerUi::new("/docs").config(Config::from("/openapi.json").try_it_out_enabled(true));
    Router::new()
        .merge(Router::from(browser))
        .route("/docs/errors", get(errors_page))
        .layer(axum::middleware::from_fn(headers::secure_page))
        .route(
            "/openapi.json",
            get(move || {
                let document = document.clone();
                async move { json(document) }
            }),
        )
}

fn json(document: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

async fn errors_page() -> Html<&'static str> {
    static PAGE: LazyLock<String> = LazyLock::new(errors_html);
    Html(&PAGE)
}

/// Whether it makes sense to send the same request again: by status, but for codes that say what to do first.
fn again(code: &Code) -> &'static str {
    match code.name {
        "confirm_required" | "sign_in_required" => "yes, after signing in",
        "sign_in_failed" => "yes, from the start",
        "second_person_required" => "yes, after another operator has agreed",
        "payment_required" => "yes, after the plan was changed or paid for",
        "precondition_failed" => "after reading it again",
        "tenant_not_ready" => "yes, after Retry-After",
        "tier_change_unavailable" | "infra_refused" => "no",
        _ => again_by_status(code.status),
    }
}

fn again_by_status(status: u16) -> &'static str {
    match status {
        408 | 500 | 502 => "yes, with the same Idempotency-Key",
        409 => "after reading it again",
        429 | 503 => "yes, after Retry-After",
        _ => "no: change the request",
    }
}

/// The catalogue of errors.
#[derive(Template)]
#[template(path = "errors.html")]
struct ErrorsPage;

impl ErrorsPage {
    fn codes(&self) -> &'static [&'static Code] {
        codes::ALL
    }

    fn again(&self, code: &Code) -> &'static str {
        again(code)
    }
}

fn errors_html() -> String {
    // Writing to a String cannot fail.
    ErrorsPage.render().unwrap_or_default()
}

/// The catalogue as `docs/ERRORS.md`.
pub fn errors_markdown() -> String {
    let mut text = String::from(
        "# Errors\n\n\
         Every error is an RFC 9457 problem (`application/problem+json`). `code` is stable: match on it, not on the\n\
         texts. `detail`, `hint` and `errors` (refused fields) are about the case at hand; a 5xx never carries any.\n\
         Quote `request_id` when asking for help. A running server shows this page at `/docs/errors`.\n\n\
         What is not HTTP as the server reads it (a head that is malformed or too large, an address that is too long) is\n\
         answered with 400, 431 or 414 and no body: hyper does so before there is a request that our code could see, and\n\
         lets nobody else write that answer.\n\n\
         | code | status | meaning | send it again? |\n|---|---|---|---|\n",
    );
    for code in codes::ALL {
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", code.name, code.status, code.title, again(code));
    }
    text.push_str("\nGenerated from `src/kernel/codes.rs`; `UPDATE_DOCS=1 cargo test --locked --features testkit --lib catalogue` writes it again.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_in_docs_is_true() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ERRORS.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, errors_markdown()).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(kept, errors_markdown(), "docs/ERRORS.md is out of date: UPDATE_DOCS=1 cargo test");
    }

    #[test]
    fn codes_are_unique_and_every_link_has_its_row() {
        let page = errors_html();
        for (i, code) in codes::ALL.iter().enumerate() {
            assert!(codes::ALL[..i].iter().all(|other| other.name != code.name), "{}", code.name);
            assert!(page.contains(&format!("id=\"{}\"", code.name)));
            assert!((400..600).contains(&code.status));
        }
    }
}
