//! PostgreSQL: errors, identifiers, migrations, control transactions, shard admin sessions.

pub mod error;
pub mod ident;

pub use error::{on_constraint, violated};
