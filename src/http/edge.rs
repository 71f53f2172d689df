//! What every request passes, as one layer. Each layer of its own would be boxed and cloned for every request, and
//! clone all layers within it when it is.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::cors::{self, Cors};
use super::observe::{self, Observer};
use super::{headers, limits};

/// What the layer works with.
pub struct Edge {
    pub observer: Observer,
    pub cors: Cors,
    /// The longest a request may take until its answer begins.
    pub limit: Duration,
}

/// `axum::middleware::from_fn_with_state(edge, pass)`. From outside in: observation, security headers, CORS, the time
/// limit.
pub async fn pass(State(edge): State<Arc<Edge>>, request: Request, next: Next) -> Response {
    let answer = async |request| {
        let mut response =
            cors::answer(&edge.cors, request, |request| limits::in_time(edge.limit, request, next)).await;
        headers::secure(response.headers_mut());
        response
    };
    observe::observe(&edge.observer, request, answer).await
}
