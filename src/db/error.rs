//! Database errors become domain errors here, and only here.

use std::time::Duration;

use crate::kernel::{Code, Error, codes};

/// A text that no column can hold: U+0000 in a text, the same in JSON, or a character that the database's encoding lacks.
/// Only a caller can have sent it.
const UNSTORABLE: [&str; 2] = ["22021", "22P05"];

/// A connection-level failure is worth a retry by the client; anything else the database says is a fault of ours,
/// unless the caller named the constraint first (see [`on_constraint`]).
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(said) if said.code().is_some_and(|code| UNSTORABLE.contains(&&*code)) => {
                Error::new(&codes::BAD_REQUEST)
                    .detail("a text contains a character that cannot be stored, such as U+0000")
                    .source(error)
            }
            sqlx::Error::Database(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Error::internal(error)
            }
            sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_) => {
                Error::new(&codes::CONTROL_UNAVAILABLE).retry_after(Duration::from_secs(1)).source(error)
            }
            _ => Error::internal(error),
        }
    }
}

/// The constraint a statement ran into, if that is why it failed.
pub fn violated(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|e| e.constraint())
}

/// Turns the violation of one named constraint into a domain error; other failures stay what they are.
///
/// `tenant_insert(tx).await.map_err(on_constraint("tenant_slug_live", &codes::SLUG_TAKEN))?`
pub fn on_constraint(constraint: &'static str, code: &'static Code) -> impl Fn(sqlx::Error) -> Error {
    move |error| match violated(&error) {
        Some(name) if name == constraint => Error::new(code).source(error),
        _ => error.into(),
    }
}
