//! Answers as RFC 6749 wants them: never kept by anybody, and errors with its own words.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::identity::tokens::{CLIENT, Refusal};
use crate::kernel::{Error, codes};

/// An error answer.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
    retry_after: Option<u64>,
}

impl Refused {
    pub const fn new(error: &'static str, description: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description, retry_after: None }
    }

    pub const fn busy() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(1),
            ..Self::new("temporarily_unavailable", "try again in a moment")
        }
    }

    /// A program that is not ours.
    pub fn client(id: Option<&str>) -> Result<(), Self> {
        match id {
            Some(CLIENT) => Ok(()),
            _ => Err(Self {
                status: StatusCode::UNAUTHORIZED,
                ..Self::new("invalid_client", "client_id must be freehold-cli")
            }),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Grant => Self::new("invalid_grant", "it is wrong, used, revoked or over"),
            Refusal::Target => Self::new("invalid_target", "there is no such tenant among yours"),
            Refusal::OwnProvider => Self::new(
                "interaction_required",
                "this tenant wants you to sign in with its own provider; do that and sign in again",
            ),
            Refusal::Pending => Self::new("authorization_pending", "nobody has answered on the page yet"),
            Refusal::SlowDown => Self::new("slow_down", "ask five seconds later than you do now"),
            Refusal::Expired => Self::new("expired_token", "the code is over; begin again"),
            Refusal::Denied => Self::new("access_denied", "the person said no"),
            Refusal::Failed(error) => error.into(),
        }
    }
}

/// What the standard has no word for. The cause is for the log.
impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        if error.is(&codes::RATE_LIMITED) {
            return Self {
                status: StatusCode::TOO_MANY_REQUESTS,
                retry_after: error.retry_after_secs(),
                ..Self::new("slow_down", "too many at once; try again in a moment")
            };
        }
        if error.code().status == 503 {
            tracing::warn!(?error, "a token could not be given");
            return Self::busy();
        }
        tracing::error!(?error, "a token could not be given");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            ..Self::new("server_error", "something went wrong on our side")
        }
    }
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Error::from(error).into()
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.error, "error_description": self.description });
        let mut response = (self.status, unkept(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// JSON that nobody keeps.
pub fn unkept(body: impl Serialize) -> Response {
    let mut response = axum::Json(body).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// JSON that anybody may keep for a while.
pub fn kept(body: impl Serialize, age: Duration) -> Response {
    let mut response = axum::Json(body).into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("public, max-age={}", age.as_secs())) {
        response.headers_mut().insert(header::CACHE_CONTROL, value);
    }
    response
}

/// A form. What it does not know it passes over, as the standard demands; what comes twice it refuses.
pub struct Form<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Form<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        match axum::Form::<T>::from_request(request, state).await {
            Ok(axum::Form(value)) => Ok(Self(value)),
            Err(_) => Err(Refused::new("invalid_request", "send a form with each parameter once")),
        }
    }
}
