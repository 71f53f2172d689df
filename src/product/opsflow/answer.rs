//! The shapes of answers: a row with its entity tag, and the refusals that several nouns share.

use http::HeaderMap;

use crate::http::vocabulary::{Json, etag};
use crate::kernel::{Error, Result, codes};

/// A versioned row.
pub type Versioned<T> = (HeaderMap, Json<T>);

/// A row with the `ETag` that a later `If-Match` takes.
pub fn versioned<T>(version: i64, row: T) -> Versioned<T> {
    (etag(version), Json(row))
}

/// The constant answer for what is missing, deleted, or another tenant's.
pub fn missing() -> Error {
    Error::new(&codes::NOT_FOUND)
}

/// Refuses a change made on sight of an older version, whether the client said so in a header or in the body.
///
/// # Errors
/// `version_conflict`.
pub fn expect_version(present: i64, seen: [Option<i64>; 2]) -> Result<()> {
    match seen.into_iter().flatten().find(|version| *version != present) {
        None => Ok(()),
        Some(version) => Err(Error::new(&codes::VERSION_CONFLICT)
            .detail(format!("you changed version {version}; it is at version {present} now"))),
    }
}

/// Refuses a patch that says nothing.
pub fn nothing_to_change() -> Error {
    Error::field("body", "give at least one field to change")
}
