//! Access follows money: what a tenant may do while money is owed.
//!
//! ```text
//! trialing | active → grace → past_due → restricted → suspended        canceled
//!                     banner   nothing     reads       402, data        reads for 30 days,
//!                     mail     new         only        kept             then suspended
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `decide` | the rule, as a pure function of facts and time |
//! | `settle` | facts gathered, the rule applied, its effects, each once |
//! | `letters` | the mails |
//!
//! `billing_account.access` is what the directory carries to every server: a change is one notification, sent with the
//! commit that makes it true, so every server acts by it within a second.

pub mod decide;
pub mod letters;
mod settle;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

pub use decide::{Decision, Facts, Sky, decide};
pub use settle::{Override, override_clear, override_set, round, settle, settle_fresh};

pub use crate::control_plane::access::UNPAID;
use crate::kernel::Result;

/// How access stands with money.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Access {
    Trialing,
    #[default]
    Active,
    /// Money is owed, and nothing is taken away yet.
    Grace,
    /// Nothing new is made, and nothing used that costs more.
    PastDue,
    /// Read-only.
    Restricted,
    /// Nothing is answered but how to pay. The data are kept.
    Suspended,
    /// The subscription has ended: read-only for a while, to take the data along.
    Canceled,
}

impl Access {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::Grace => "grace",
            Self::PastDue => "past_due",
            Self::Restricted => "restricted",
            Self::Suspended => "suspended",
            Self::Canceled => "canceled",
        }
    }

    /// How near to suspension: what is higher takes away more.
    pub const fn rank(self) -> u8 {
        match self {
            Self::Trialing | Self::Active => 0,
            Self::Grace => 1,
            Self::PastDue => 2,
            Self::Restricted => 3,
            Self::Canceled => 4,
            Self::Suspended => 5,
        }
    }

    /// Whether things may only be read.
    pub const fn reads_only(self) -> bool {
        matches!(self, Self::Restricted | Self::Canceled | Self::Suspended)
    }

    /// Whether nothing new may be made.
    pub const fn makes_nothing(self) -> bool {
        matches!(self, Self::PastDue) || self.reads_only()
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Claims a side effect: true for the one who is to do it, and for nobody after that.
///
/// # Errors
/// When the control database does not answer.
pub async fn effect(
    conn: &mut PgConnection,
    object: &str,
    transition: &str,
    now: DateTime<Utc>,
) -> Result<bool> {
    let claimed = sqlx::query(
        "INSERT INTO billing_effect (object, transition, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(object)
    .bind(transition)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(claimed.rows_affected() == 1)
}
