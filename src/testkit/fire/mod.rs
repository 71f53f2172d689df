//! Isolation under fire: each module is one attack on the walls between tenants, at a size that its caller chooses. The
//! soak runs them at full size and `cargo test` small.
//!
//! | module | holds |
//! |---|---|
//! | `resident` | a tenant with rows that bear its stamp, and the context its requests would have |
//! | `crowd` | many tenants, many requests of each at once, few connections (A5) |
//! | `drops` | requests dropped anywhere in their life (A6) |
//! | `caches` | the same address asked by several tenants, through every cache; what lies in Redis (A7) |
//! | `noisy` | a neighbour at its connection limit with endless statements (A11) |
//! | `jobs` | jobs of many tenants on workers that are killed (A9) |

pub mod caches;
pub mod crowd;
pub mod drops;
pub mod jobs;
pub mod noisy;
pub mod resident;
