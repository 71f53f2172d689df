//! The connection broker on real PostgreSQL.
//!
//! The tests that matter for isolation say which guard they watch; each was seen to fail with that guard removed.

mod fixture;

mod ends;
mod faults;
mod sharing;
