//! Who people and programs are: API keys of tenants, keys of operators.

pub mod keys;
