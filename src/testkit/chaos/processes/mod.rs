//! Faults of whole processes, with the real binary: stopped, killed, with a wrong clock, without room for logs, rows or
//! descriptors. `make chaos` runs them at full size and `cargo test` at a small one.
//!
//! | file | holds |
//! |---|---|
//! | `stage`, `books` | tenants to load, and what became of each write; compared with the shards afterwards |
//! | `client`, `front`, `load` | an HTTP client that hides nothing, a balancer over it, load through that |
//! | `rolling` | D4: servers replaced one by one under load |
//! | `dead_replica` | D5: one of two servers killed under load |
//! | `restarts` | `serve` and `worker` killed again and again while tenants come and go |
//! | `clock` | processes whose clock is an hour off, or steps while they run |
//! | `no_room` | a shard whose disk is full; a log that cannot be written |
//! | `descriptors` | a server that runs out of file descriptors |
//! | `shard_crash` | a shard's PostgreSQL killed under writes |
//! | `preload` | what makes clocks step and disks full, for programs that know nothing of it |

pub mod books;
pub mod client;
pub mod clock;
pub mod dead_replica;
pub mod descriptors;
pub mod front;
pub mod load;
pub mod no_room;
pub mod preload;
pub mod restarts;
pub mod rolling;
pub mod shard_crash;
pub mod stage;
