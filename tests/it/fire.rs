//! Isolation under fire at a size that fits `cargo test`; `make soak` runs the same at full size (trust A5, A6, A7, A9,
//! A11).

mod caches;
mod crowd;
mod drops;
mod jobs;
mod noisy;
