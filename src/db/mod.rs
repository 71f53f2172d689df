//! PostgreSQL: errors, identifiers, migrations, control transactions, shard admin sessions.

pub mod admin;
pub mod admin_dsn;
pub mod control;
pub mod error;
pub mod hardening;
pub mod ident;
pub mod mark;
pub mod migrations;
pub mod prepare;
pub mod schema;
pub mod stand_in;
pub mod states;
pub mod tenant_tls;

pub use error::{on_constraint, violated};
