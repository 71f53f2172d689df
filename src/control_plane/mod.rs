//! Tenants, shards, placement, slots, plans: what exists and where it lives.
//!
//! Two kinds of caller. The server that answers requests has a [`ControlPlane`]: it changes the control database and
//! records runs. The worker and the CLI have [`Hands`] as well: they carry the runs out on the shards.

use std::sync::Arc;

use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::db::admin::ShardAdmins;
use crate::db::migrations;
use crate::kernel::{Clock, Entropy, MasterKey};
use errands::Errands;
use infra::Cloud;
use tenant_jobs::TenantJobs;

pub mod access;
pub mod approvals;
pub mod audit;
pub mod changes;
pub mod doctor;
pub mod errands;
pub mod fleet;
pub mod idempotency;
pub mod infra;
pub mod placement;
pub mod plan_change;
pub mod plans;
pub mod probe;
pub mod provisioning;
pub mod reconcile;
pub mod registry;
pub mod runs;
mod settled;
pub mod shards;
pub mod signup;
pub mod slots;
pub mod tenant_jobs;
pub mod tenants;
pub mod trim;
pub mod work;
pub mod worker;

/// How a tenant's address is written.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// `https`, or `http` for development.
    pub scheme: String,
    /// Tenants live under it: `acme.<base_domain>`.
    pub base_domain: String,
    /// Only when it is not the scheme's own.
    pub port: Option<u16>,
}

impl Addresses {
    pub fn tenant_url(&self, slug: &str) -> String {
        format!("{}://{slug}.{}{}", self.scheme, self.base_domain, self.port())
    }

    /// A tenant's own domain.
    pub fn domain_url(&self, domain: &str) -> String {
        format!("{}://{domain}{}", self.scheme, self.port())
    }

    /// Where people sign in: the base domain itself.
    pub fn base_url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.base_domain, self.port())
    }

    fn port(&self) -> String {
        self.port.map(|port| format!(":{port}")).unwrap_or_default()
    }
}

/// What it takes to change the control database.
#[derive(Clone)]
pub struct ControlPlane {
    pub db: PgPool,
    pub clock: Clock,
    pub entropy: Entropy,
    pub addresses: Addresses,
    /// What every tenant schema holds: the platform's tables and the product's.
    pub tables: &'static Migrator,
    /// Whose turn it is to make a tenant.
    pub turns: Turns,
}

/// Few tenants are made at a time by one process. They would wait for each other at the shard's row anyway, and the crowd
/// of a launch would hold every connection to the control database meanwhile.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    const AT_A_TIME: usize = 4;

    /// Take it before the transaction; it ends with the value.
    pub async fn take(&self) -> SemaphorePermit<'_> {
        self.0.acquire().await.expect("it is never closed")
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(Self::AT_A_TIME)))
    }
}

impl ControlPlane {
    /// The version that new tenant schemas have.
    pub fn schema_version(&self) -> i64 {
        migrations::target(self.tables)
    }
}

/// What it takes to change the shards.
#[derive(Clone)]
pub struct Hands {
    pub cp: ControlPlane,
    pub admins: ShardAdmins,
    pub master: MasterKey,
    /// This process, in the records of runs it holds.
    pub worker: String,
    /// Jobs of modules above this one.
    pub errands: Errands,
    /// What the product does in tenants' schemas. Only a worker needs it.
    pub tenant_jobs: TenantJobs,
    /// What makes tenants' resources in a cloud. Only a worker has it.
    pub cloud: Cloud,
}

impl Hands {
    /// Ends every session that this process has, before the servers go.
    pub async fn close(&self) {
        self.admins.close().await;
        self.cp.db.close().await;
    }
}
