//! Webhooks: what Stripe tells us by itself. An event is stored as it came and answered at once; a worker does what it is
//! about afterwards. It is a hint, no order: what counts is what Stripe says of the object when it is asked, so events may
//! come twice, late, and in any order.
//!
//! | file | holds |
//! |---|---|
//! | `signature` | whether Stripe sent these bytes, and lately. Pure |
//! | `read` | what an event says of itself, read leniently. Pure |
//! | `about` | which events are work, and of what kind. Pure |
//! | `door` | stores an event or counts its delivery, in one statement |
//! | `work` | the worker: lanes, attempts, dead letters |
//! | `apply` | what an object's events lead to |
//! | `meters` | thin events that say that usage could not be counted |
//! | `sweep` | Stripe's own lists, gone through for events that never came |
//! | `watch` | how old the inbox is, what is dead: gauges, incidents, the doctor's lines |

mod about;
mod apply;
mod door;
mod meters;
mod read;
pub mod signature;
mod sweep;
pub mod watch;
mod work;

use serde::{Deserialize, Serialize};

pub use door::{Door, Taken};
pub use sweep::sweep;
pub use work::{MAX_ATTEMPTS, replay, work_off};

/// How an event is delivered: with its object, or with a name for it only. Each has an endpoint and secrets of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Shape {
    Snapshot,
    Thin,
}

impl Shape {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Thin => "thin",
        }
    }
}
