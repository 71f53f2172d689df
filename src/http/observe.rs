//! The outermost layer of every request: its id, its line in the log, its numbers, its error logged once, and the
//! problem body finished with the id.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderValue, Method, header};
use tracing::Instrument;

use super::problem::Problem;
use super::request_id;
use crate::data_plane::RequestId;
use crate::data_plane::tenancy::Served;
use crate::kernel::{Entropy, Error};

/// `axum::middleware::from_fn_with_state(entropy, observe)`.
pub async fn observe(State(entropy): State<Entropy>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id::choose(request.headers(), &entropy);
    request.extensions_mut().insert(id.clone());
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", |path| path.as_str());
    let span = tracing::info_span!("request", request_id = &*id.0, tenant = tracing::field::Empty);

    let mut response = next.run(request).instrument(span.clone()).await;

    let elapsed = begun.elapsed();
    let status = response.status();
    let _entered = span.enter();
    if let Some(error) = response.extensions().get::<Arc<Error>>().cloned() {
        if status.is_server_error() {
            tracing::error!(code = error.code().name, error = ?error, "request failed");
        } else {
            tracing::debug!(code = error.code().name, error = ?error, "request refused");
        }
        finish_problem(&mut response, &error, &id);
    }
    let tenant = response.extensions().get::<Served>();
    // No query string, header or body: they may hold what must not be kept.
    tracing::info!(
        target: "access",
        method,
        route,
        status = status.as_u16(),
        ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3,
        slug = tenant.map(|served| served.slug.as_str()),
        "request",
    );
    let route = route.to_owned();
    metrics::counter!("http_requests_total", "route" => route.clone(), "method" => method, "status" => status_label(status.as_u16()))
        .increment(1);
    metrics::histogram!("http_request_seconds", "route" => route, "method" => method)
        .record(elapsed.as_secs_f64());
    request_id::answer(response.headers_mut(), &id);
    response
}

/// Writes the problem again, with the request's id in it.
fn finish_problem(response: &mut Response, error: &Error, id: &RequestId) {
    let mut problem = Problem::from(error);
    problem.request_id = Some(id.0.to_string());
    if let Ok(body) = serde_json::to_vec(&problem) {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
    }
}

/// Anyone may invent methods; the time series must not grow with them.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn status_label(status: u16) -> String {
    status.to_string()
}
