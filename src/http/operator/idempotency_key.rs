//! The `Idempotency-Key` header of the operators' requests that make something.

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::kernel::{Error, Result};

/// The header's name; `Idempotency-Replayed: true` marks an answer that was given before.
pub const HEADER: &str = "idempotency-key";
pub const REPLAYED: &str = "idempotency-replayed";

/// The key, if the client sent one: 1 to 255 printable ASCII characters.
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let Some(value) = parts.headers.get(HEADER) else { return Ok(Self(None)) };
        match value.to_str() {
            Ok(key) if (1..=255).contains(&key.len()) => Ok(Self(Some(key.to_owned()))),
            _ => Err(Error::field("Idempotency-Key", "has 1 to 255 printable ASCII characters")),
        }
    }
}
