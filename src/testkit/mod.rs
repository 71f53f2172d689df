//! What tests, benches and soaks share. Only helpers: nothing here replaces a part of the product.

mod app;
mod browser;
pub mod chaos;
pub mod chromium;
mod cluster;
pub mod cpu;
mod dns;
mod eventually;
pub mod figures;
pub mod fire;
pub mod floors;
mod github;
mod idp;
pub mod load;
pub mod openapi_walk;
pub mod process;
pub mod program;
mod proxies;
pub mod proxy;
pub mod rogue_idp;
pub mod stripe;
pub mod wire;
mod world;
pub mod zipf;

pub use app::{AppOptions, Replica, TestApp};
pub use browser::{Browser, Form, Page};
pub use cluster::{Cluster, Server, extra_postgres, extra_redis};
pub use dns::{DnsAnswer, DnsServer};
pub use eventually::eventually;
pub use github::{GithubStandIn, Octocat};
pub use idp::{Idp, provider_settings};
pub use proxies::{Proxies, Through};
pub use proxy::{Mode, Proxy};
pub use rogue_idp::RogueIdp;
pub use world::{World, WorldOptions, small_pool, tester};
