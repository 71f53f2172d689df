//! Tenants, shards, placement, slots, plans: what exists and where it lives.

pub mod plans;
