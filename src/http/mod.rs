//! HTTP: router, middleware, problem+json, documentation. No SQL.

pub mod arrival;
pub mod browser;
pub mod client;
pub mod cors;
pub mod desk;
pub mod docs;
pub mod edge;
pub mod headers;
pub mod health;
pub mod limits;
pub mod mark;
pub mod oauth;
pub mod observe;
pub mod openapi;
pub mod operator;
pub mod pages;
pub mod problem;
pub mod request_id;
pub mod router;
pub mod serve;
pub mod sign_in;
pub mod support;
pub mod vocabulary;
pub mod webhooks;
pub mod workspace;

pub use router::{HttpState, admin_router, router};
