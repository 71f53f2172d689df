//! Errors as RFC 9457 problem+json.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::kernel::{Error, FieldError, QuotaState};

/// The body of every error answer.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A link to the code's page in the catalogue.
    #[serde(rename = "type")]
    pub kind: String,
    /// One constant sentence for the code.
    pub title: String,
    pub status: u16,
    /// Stable: clients may match on it.
    pub code: String,
    /// About this case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The fields that were refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The limit of the plan that refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaState>,
    /// Quote it when asking for help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let code = error.code();
        // A 5xx says the same to everyone: what went wrong is for the log.
        let ours = code.status >= 500;
        Self {
            kind: format!("/docs/errors#{}", code.name),
            title: code.title.to_owned(),
            status: code.status,
            code: code.name.to_owned(),
            detail: error.public_detail().filter(|_| !ours).map(str::to_owned),
            hint: error.public_hint().filter(|_| !ours).map(str::to_owned),
            errors: error.field_errors().to_vec(),
            quota: error.quota_state().cloned(),
            request_id: None,
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let problem = Problem::from(&self);
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_secs() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // The outermost layer logs it once, with the request id, and puts that id into the body.
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}
