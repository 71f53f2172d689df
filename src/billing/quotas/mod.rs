//! The numeric limits of a plan that last longer than a second. Where each is enforced, and what makes it atomic:
//!
//! | limit | counted | enforced |
//! |---|---|---|
//! | requests per month | in Redis, by one script (`data_plane::limits::monthly`) | at the door, 429 |
//! | stored bytes | sampled on the shard by a worker | in the tenant's writes, 402; reads and deletions go on |
//! | projects | a counter in the tenant's schema, in the transaction that makes one | by the product, 402 |
//! | seats | rows, with the tenant's row locked | `identity`, 402 |
//!
//! | file | holds |
//! |---|---|
//! | `level` | how a limit stands, and what a refusal says. Pure |
//! | `month` | the period of a monthly limit. Pure |
//! | `levels` | what the control database knows of counts kept elsewhere |
//! | `stored` | bytes, sampled |
//! | `notices`, `letter` | who is told of 80 and 100 percent, once a period |
//!
//! 80 percent is the soft limit: people are told. 100 percent is the hard one.

pub mod letter;
pub mod level;
pub mod levels;
pub mod month;
pub mod notices;
pub mod stored;

pub use level::{Level, Quota, Stage};
pub use levels::levels_of;
pub use month::Month;
