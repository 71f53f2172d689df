//! Moved to the test kit, for the soak walks the routes too.

pub use freehold::testkit::openapi_walk::*;
