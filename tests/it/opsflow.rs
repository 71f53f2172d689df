//! OpsFlow through its router, as a tenant, on real PostgreSQL.

mod fixture;

mod bad_input;
mod changes;
mod demo;
mod indexes;
mod limits;
mod lists;
mod roles;
