//! What happens to requests while something is broken: the logic of `make chaos`, which `cargo test` runs small.
//!
//! | file | holds |
//! |---|---|
//! | `traffic` | steady load from outside, each answer kept |
//! | `window` | what was answered between two moments |
//! | `town` | tenants on every shard with rows of their own, and the books of what they were promised |
//! | `shards` | one shard behind a bad network |
//! | `control` | the control database away |
//! | `redis` | Redis away, slow, emptied, set back |
//! | `processes` | whole processes: stopped, killed, with a wrong clock, without room |
//! | `cloud` | tenants in a cloud, by the real Terraform |

pub mod cloud;
pub mod control;
pub mod processes;
pub mod redis;
pub mod shards;
pub mod town;
pub mod traffic;
pub mod window;

pub use town::Town;
pub use traffic::{Ask, Group, Traffic};
pub use window::{Event, Window};
