//! Freehold: a multi-tenant SaaS platform, one schema per tenant, on plain PostgreSQL.

pub mod kernel;
