//! HTTP: router, middleware, problem+json, documentation. No SQL.

pub mod problem;
pub mod vocabulary;
