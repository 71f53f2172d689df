//! The network between the parts fails in every way it can, and what each part makes of it.

mod control;
mod proxy;
mod redis;
mod shards;
