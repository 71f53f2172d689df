//! What tests, benches and soaks share. Only helpers: nothing here replaces a part of the product.

mod app;
mod cluster;
mod eventually;
pub mod figures;
pub mod load;
pub mod program;
pub mod wire;
mod world;

pub use app::{AppOptions, Replica, TestApp};
pub use cluster::{Cluster, Server, extra_postgres, extra_redis};
pub use eventually::eventually;
pub use world::{World, WorldOptions, small_pool, tester};
