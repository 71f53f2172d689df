//! What tests, benches and soaks share. Only helpers: nothing here replaces a part of the product.

mod app;
mod browser;
mod cluster;
mod eventually;
pub mod figures;
mod github;
mod idp;
pub mod load;
pub mod program;
pub mod rogue_idp;
pub mod wire;
mod world;

pub use app::{AppOptions, Replica, TestApp};
pub use browser::{Browser, Form, Page};
pub use cluster::{Cluster, Server, extra_postgres, extra_redis};
pub use eventually::eventually;
pub use github::{GithubStandIn, Octocat};
pub use idp::{Idp, provider_settings};
pub use rogue_idp::RogueIdp;
pub use world::{World, WorldOptions, small_pool, tester};
