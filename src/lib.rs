//! Freehold: a multi-tenant SaaS platform, one schema per tenant, on plain PostgreSQL.

pub mod adapters;
pub mod app;
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
