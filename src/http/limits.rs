//! How long and how large a request may be, and what a panic looks like from outside.

use std::any::Any;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use super::arrival;
use crate::kernel::{Error, codes};

/// The largest request body, in bytes.
pub const BODY: usize = 1024 * 1024;
/// The longest a request may take until its answer begins.
pub const WHOLE_REQUEST: Duration = Duration::from_secs(30);

/// What runs too long is dropped: its transaction is rolled back.
pub async fn in_time(limit: Duration, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (body, arrival) = arrival::watch(body);
    match tokio::time::timeout(limit, next.run(Request::from_parts(parts, body))).await {
        Ok(response) => response,
        Err(_) if arrival.complete() => {
            Error::new(&codes::TIMEOUT).retry_after(Duration::from_secs(1)).into_response()
        }
        Err(_) => {
            let mut response = Error::new(&codes::REQUEST_TIMEOUT).into_response();
            // The rest of the body may still come: this connection cannot carry another request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

/// For `CatchPanicLayer::custom`: the message goes to the log, not to the client.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("of unknown kind");
    Error::internal(format!("a panic: {message}")).into_response()
}
