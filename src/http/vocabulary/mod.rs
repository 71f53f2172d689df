//! The words a handler speaks: request bodies, query strings, paths and entity tags, each refused with a problem the
//! client can act on. This is the part of `http` that products may import.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use garde::Validate;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kernel::{Error, FieldError, Result, codes};

pub mod operation;

pub use super::problem::Problem;

/// A JSON body: read, then validated. As an answer, plain JSON.
pub struct Json<T>(pub T);

impl<T, S> FromRequest<S> for Json<T>
where
    T: DeserializeOwned + Validate<Context = ()>,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let axum::Json(value) = axum::Json::<T>::from_request(request, state).await.map_err(json_error)?;
        validate(&value)?;
        Ok(Self(value))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

fn json_error(rejection: JsonRejection) -> Error {
    match rejection {
        // serde's own words name the field and what was expected; they hold nothing but the client's own input.
        JsonRejection::JsonDataError(error) => {
            let text = innermost(&error);
            let (field, message) = match text.split_once(": ") {
                Some((path, rest)) if !path.contains(' ') => (path.to_owned(), rest.to_owned()),
                _ => ("body".to_owned(), text),
            };
            Error::field(field, message)
        }
        JsonRejection::JsonSyntaxError(error) => Error::new(&codes::BAD_JSON).detail(innermost(&error)),
        JsonRejection::MissingJsonContentType(_) => Error::new(&codes::UNSUPPORTED_MEDIA_TYPE),
        JsonRejection::BytesRejection(error) if error.status().as_u16() == 413 => {
            Error::new(&codes::BODY_TOO_LARGE)
        }
        other => Error::new(&codes::BAD_REQUEST).detail(other.body_text()),
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Checks a value by its own rules.
pub fn validate<T: Validate<Context = ()>>(value: &T) -> Result<()> {
    value.validate().map_err(|report| {
        Error::fields(
            report
                .iter()
                .map(|(path, error)| FieldError {
                    field: path.to_string(),
                    message: error.message().to_string(),
                })
                .collect(),
        )
    })
}

/// A query string: unknown parameters and wrong types are refused, not ignored.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
                let text = innermost(&error);
                Err(match text.split_once(": ") {
                    Some((field, message)) if !field.contains(' ') => Error::field(field, message),
                    _ => Error::field("query", text),
                })
            }
            Err(other) => Err(Error::new(&codes::BAD_REQUEST).detail(other.body_text())),
        }
    }
}

/// Path parameters. What does not parse cannot exist: 404, the same as an unknown id.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(_)) => Err(Error::new(&codes::NOT_FOUND)),
            Err(other) => Err(Error::internal(other)),
        }
    }
}

/// The version a client says it has seen, from `If-Match: "3"`. `*` and no header mean "whatever it is now".
pub struct IfMatch(pub Option<i64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        match parts.headers.get(header::IF_MATCH).map(HeaderValue::as_bytes) {
            None | Some(b"*") => Ok(Self(None)),
            Some(tag) => std::str::from_utf8(tag)
                .ok()
                .and_then(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok())
                .map(|version| Self(Some(version)))
                .ok_or_else(|| {
                    Error::new(&codes::PRECONDITION_FAILED)
                        .detail("If-Match takes the ETag of the last answer, as in \"3\"")
                }),
        }
    }
}

/// `ETag: "3"` for a row of that version.
pub fn etag(version: i64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("\"{version}\"")) {
        headers.insert(header::ETAG, value);
    }
    headers
}
