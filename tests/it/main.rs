//! One binary for all integration tests: they share one set of servers, started by the first that asks.

mod attacks;
mod broker;
mod cli;
mod docs;
mod edge;
mod http_habits;
mod idempotency;
mod identity;
mod injection;
mod isolation;
mod kills;
mod layers;
mod limits;
mod local;
mod oidc;
mod openapi_file;
mod openapi_walk;
mod operator;
mod opsflow;
mod outages;
mod process;
mod provisioning;
mod replicas;
mod runs;
mod tenancy;
mod thousand;
