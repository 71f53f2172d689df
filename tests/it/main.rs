//! One binary for all integration tests: they share one set of servers, started by the first that asks.

mod local;
mod provisioning;
mod runs;
