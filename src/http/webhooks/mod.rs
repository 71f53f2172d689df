//! The two endpoints that Stripe calls. What comes is checked over its raw bytes, stored, and answered; `billing::inbox`
//! does the rest. They are answered at the base host (by name or by address) and at no tenant's.
//!
//! | address | for |
//! |---|---|
//! | `POST /webhooks/stripe/snapshot` | events that carry their object |
//! | `POST /webhooks/stripe/thin` | events that name it |

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, StatusCode, Uri};

use crate::billing::Billing;
use crate::billing::inbox::{Door, Shape, signature};
use crate::data_plane::tenancy::host::{self, Host};
use crate::kernel::{Error, Result, codes};

/// What the endpoints work with.
struct Endpoints {
    door: Door,
    /// In lower case, without a port.
    base_domain: Arc<str>,
}

/// Both routes, with their state. Without secrets every call is refused.
pub fn routes(billing: Billing, base_domain: Arc<str>) -> Router {
    let endpoints = Arc::new(Endpoints { door: Door::new(billing), base_domain });
    Router::new()
        .route("/webhooks/stripe/snapshot", post(snapshot))
        .route("/webhooks/stripe/thin", post(thin))
        .with_state(endpoints)
}

async fn snapshot(
    State(endpoints): State<Arc<Endpoints>>,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    answer(endpoints.take(Shape::Snapshot, &uri, &headers, body).await)
}

async fn thin(
    State(endpoints): State<Arc<Endpoints>>,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    answer(endpoints.take(Shape::Thin, &uri, &headers, body).await)
}

/// Stripe looks at the status only.
fn answer(taken: Result<()>) -> Response {
    match taken {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => error.into_response(),
    }
}

impl Endpoints {
    async fn take(
        &self,
        shape: Shape,
        uri: &Uri,
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<()> {
        if !matches!(host::of_request(headers, uri, &self.base_domain), Ok(Host::Base)) {
            return Err(Error::new(&codes::NOT_FOUND));
        }
        // More than 1 MiB, or less than was announced.
        let body = body.map_err(|refused| match refused.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Error::new(&codes::BODY_TOO_LARGE).source(refused),
            _ => Error::new(&codes::BAD_REQUEST).source(refused),
        })?;
        // Of two, one was put there by somebody else.
        let mut said = headers.get_all(signature::HEADER).iter();
        let header = match (said.next(), said.next()) {
            (Some(one), None) => one.to_str().ok(),
            _ => None,
        };
        self.door.take(shape, header, &body).await.map(drop)
    }
}
