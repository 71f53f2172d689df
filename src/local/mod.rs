//! Servers of our own: private PostgreSQL and Redis processes for `freehold dev` and for the tests, and an OpenID
//! provider for `freehold dev` alone.
//!
//! They share nothing with what is installed as a service: own folder, own free port on 127.0.0.1, own random
//! password. Nobody has to remember to stop them either: each has a small keeper that stops it as soon as we are gone,
//! even by `kill -9` (see [`keeper`]). Linux only: leftovers are found through `/proc`.
//!
//! | file | what it knows |
//! |---|---|
//! | `binaries` | where the programs are, and what to say when they are not there |
//! | `user` | which system user runs them when we are root |
//! | `folder` | private files, and where server data goes when that user cannot reach our folder |
//! | `lock` | one process per state folder |
//! | `ports` | free ports, kept between starts |
//! | `keeper` | a server's life is tied to ours |
//! | `kept` | what is the same for every server that may be running |
//! | `leftover` | servers that a crashed run left behind |
//! | `postgres`, `redis` | one server each |
//! | `stack` | the databases together, as `freehold dev` uses them |
//! | `idp` | the OpenID provider, a Node.js process |
//! | `moto` | a stand-in for AWS, a Python process |

pub mod binaries;
mod folder;
mod idp;
mod keeper;
mod kept;
mod leftover;
mod lock;
mod moto;
mod ports;
mod postgres;
mod redis;
mod stack;
mod user;

pub use folder::write_private;
pub use idp::LocalIdp;
pub use lock::Lock;
pub use moto::Moto;
pub use postgres::{ADMIN, PostgresOptions, PostgresServer};
pub use redis::{RedisOptions, RedisServer};
pub use stack::{SHARDS, Stack, StackOptions};
