//! The product that runs on the platform: OpsFlow here, yours in its place. Everything the platform needs of a product
//! is the trait below; everything a product may use is `kernel`, `data_plane`,
//! `http::vocabulary` and `http::pages`.

use std::future::Future;

use axum::Router;
use serde_json::Value;
use sqlx::migrate::Migrator;
use utoipa_axum::router::OpenApiRouter;

use crate::data_plane::{Meter, RegularJob, TenantContext};
use crate::kernel::{Error, Result};

pub mod opsflow;

/// What the platform asks of a product.
pub trait Product {
    /// Its name, for people: it is on every page.
    const NAME: &'static str;

    /// What it is, in a few words, for a stranger at the first page.
    const TAGLINE: &'static str = Self::NAME;

    /// Those of its [pages](Product::pages) that are in the navigation of a workspace: path, and what it is called. A
    /// workspace begins at the first; without any, at the platform's `/members`.
    const PAGES: &'static [(&'static str, &'static str)] = &[];

    /// The jobs that each active tenant is given regularly. None unless a product says so.
    const REGULAR_JOBS: &'static [RegularJob] = &[];

    /// What it counts of its tenants' use, beside what the platform counts of any product (seats, stored bytes, API calls).
    /// It says so with [`TenantContext::usage`].
    const METERS: &'static [Meter] = &[];

    /// What a tenant schema holds, platform part included, as plain statements with unqualified names: each file is
    /// run in one batch whose `search_path` is the schema.
    fn migrations() -> &'static Migrator;

    /// Its operations, with their whole paths, to be mounted at the root behind the tenancy middleware. Register them
    /// with [`crate::operations!`], so that each states the role its handler demands.
    fn routes() -> OpenApiRouter;

    /// Its pages at a tenant's host, behind the same door. The platform has `/members`, `/sessions` and others there. None
    /// when it has no pages.
    fn pages() -> Router {
        Router::new()
    }

    /// Gives a new tenant something to look at. Running it again changes nothing.
    fn demo(tenant: &TenantContext) -> impl Future<Output = Result<()>> + Send;

    /// Takes a person who erased their account out of what the tenant's tables say: their name wherever a copy of it is
    /// kept, and the answers kept for their repeats. Their id (`acc_…`) may stay, since nothing leads from it to a person any
    /// more; what others wrote is the tenant's own and stays. Called as [`Product::job`] is, for every tenant in which the
    /// person ever had a seat, and again until it succeeds. No default on purpose: a product that keeps nothing says so.
    fn forget_person(tenant: &TenantContext, person: &str) -> impl Future<Output = Result<()>> + Send;

    /// Does one job in the one tenant that it names: on a worker, as the tenant's own login. A job whose worker ended
    /// before it was recorded is done again, so doing it again must change nothing. It has fifty seconds; one that fails
    /// or takes longer is tried again, eight times in all.
    fn job(_: &TenantContext, kind: &str, _payload: &Value) -> impl Future<Output = Result<()>> + Send {
        let unknown = Error::internal(format!("{} knows no job of kind {kind}", Self::NAME));
        std::future::ready(Err(unknown))
    }
}

/// The product this binary serves.
pub type Current = opsflow::OpsFlow;
