//! Freehold: a multi-tenant SaaS platform, one schema per tenant, on plain PostgreSQL.
//!
//! What each module holds and which others it may import stands in docs/ARCHITECTURE.md ("Layers"); `tests/it/layers.rs`
//! holds the sources to it. To start reading: [`control_plane::provisioning`] for how a tenant comes to be,
//! [`data_plane::tenancy`] for how a request finds it, [`product::opsflow`] for what a handler looks like. To add an
//! operation to the product: a handler that takes `As<Role>`, registered with [`operations!`]; the isolation and role tests
//! find it by themselves.

pub mod adapters;
pub mod app;
pub mod billing;
pub mod cli;
pub mod config;
pub mod control_plane;
pub mod data_plane;
pub mod db;
pub mod http;
pub mod identity;
pub mod jobs;
pub mod kernel;
pub mod local;
pub mod product;
pub mod telemetry;
#[cfg(feature = "testkit")]
pub mod testkit;

/// The directory's entries live long and are made between large, short-lived buffers of sockets and rows. glibc's
/// allocator keeps the holes: 4,300 bytes of memory a tenant, of which 1,000 are in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
