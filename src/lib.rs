//! Freehold: a multi-tenant SaaS platform, one schema per tenant, on plain PostgreSQL.
//!
//! | layer | what it is | may import |
//! |---|---|---|
//! | [`kernel`] | ids, time, randomness, errors, pages, secrets; no I/O | nothing |
//! | [`db`] | PostgreSQL: migrations, admin sessions, tenant schemas | kernel |
//! | [`jobs`] | runs, the job queue, notifications | db |
//! | [`control_plane`], [`identity`] | tenants, shards, slots, plans; keys | jobs |
//! | [`billing`] | quotas, metering, Stripe | identity |
//! | [`data_plane`] | directory, tenancy, limits, broker: a request's way to its tenant's rows | control_plane |
//! | [`product`] | what is built on the platform: OpsFlow, or yours | kernel, data_plane, `http::vocabulary` |
//! | [`http`], [`cli`] | the two ways in; no SQL | all above |
//! | [`app`] | puts the parts together | all |
//!
//! `tests/it/layers.rs` holds the sources to this table. To start reading: [`control_plane::provisioning`] for how a
//! tenant comes to be, [`data_plane::tenancy`] for how a request finds it, [`product::opsflow`] for what a handler looks
//! like. To add an operation to the product: a handler that takes `As<Role>`, registered with [`operations!`]; the
//! isolation and role tests find it by themselves.

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
