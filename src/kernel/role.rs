//! What a caller may do inside one tenant.

use serde::{Deserialize, Serialize};

/// A person's or key's role in one tenant. The order is the rank: each role may do all that the ones below may.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
    clap::ValueEnum,
    sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Works: creates and changes tasks and comments.
    Member,
    /// Leads the work: creates and removes projects, manages others' work.
    Manager,
    /// Runs the workspace: members, keys, sign-in.
    Admin,
    /// Holds the contract.
    Owner,
}

impl Role {
    pub const ALL: [Role; 5] = [Role::Viewer, Role::Member, Role::Manager, Role::Admin, Role::Owner];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Manager => "manager",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
