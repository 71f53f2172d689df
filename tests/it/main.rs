//! One binary for all integration tests: they share one set of servers, started by the first that asks.

mod attacks;
mod broker;
mod local;
mod provisioning;
mod runs;
