//! What SQL cannot make: servers, keys, buckets, roles. Who makes it is settled in [`settings`]; how, in
//! `adapters::terraform`.

pub mod settings;
