//! What SQL cannot make: servers, keys, buckets, roles.
//!
//! Who makes it is settled in [`settings`]. How is an adapter's business: it implements [`Provision`], and `app` puts it
//! into a [`Cloud`], which the worker and the CLI may have and no server has. What is made for whom, and when it goes, is in
//! [`resources`]; a server of a tenant's own, in [`dedicated`]; what has changed behind our back, in [`lookout`]; what is
//! nobody's, in [`owners`].

use std::sync::Arc;

use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plans::Tier;
use crate::jobs::run::RunProgress;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

pub mod dedicated;
pub mod lookout;
pub mod owners;
pub mod resources;
pub mod settings;
pub mod targets;

/// What is provisioned together, and has a state of its own.
#[derive(Clone, Debug)]
pub enum Target {
    /// What the environment has once.
    Platform,
    /// A server for tenants' databases.
    Shard(ShardCloud),
    Tenant(TenantCloud),
}

/// Which server.
#[derive(Clone, Debug)]
pub struct ShardCloud {
    /// The shard's name in the registry.
    pub name: String,
    /// Given for a server that is made for one tenant. Any other is described in the settings.
    pub made_for: Option<MadeFor>,
}

/// For whom a server is made.
#[derive(Clone, Debug)]
pub struct MadeFor {
    pub tenant: TenantId,
    /// The same at each attempt.
    pub admin_password: SecretString,
}

/// Whose resources.
#[derive(Clone, Debug)]
pub struct TenantCloud {
    pub tenant: TenantId,
    /// Only a tag: names are made of the id, which never changes.
    pub slug: String,
    pub tier: Tier,
    /// What its secret holds. The same at each attempt.
    pub secret: SecretString,
}

/// A resource, and what is or was done to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Changed {
    /// `module.tenant.aws_iam_role.this`
    pub address: String,
    /// `create`, `update`, `replace`, `delete`; `orphan` for what belongs to nobody.
    pub action: String,
}

/// What an apply would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    pub changes: Vec<Changed>,
    /// What was changed by somebody else, and would be put right.
    pub drift: Vec<Changed>,
}

/// What a state holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub resources: Vec<String>,
    /// Where its database servers are reached.
    #[serde(default)]
    pub servers: Vec<String>,
    /// What the root says of itself: names and addresses, nothing secret.
    pub output: Value,
}

/// A state that holds something, and that no setting names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recorded {
    /// The shard's name.
    Shard(String),
    /// The tenant's id.
    Tenant(String),
}

/// Told how far it is. Called often; must not wait.
pub type Report = Arc<dyn Fn(RunProgress) + Send + Sync>;

/// What a provisioner does. Each may be asked again for what it has done or half done, and then does what is left.
pub trait Provision: Send + Sync + 'static {
    /// What an apply would change.
    fn plan<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Planned>>;
    /// Makes it what it should be, and gives what the root says of itself. Of a server that is made for a tenant also
    /// `address`: the admin's DSN without its password.
    fn apply<'a>(&'a self, target: &'a Target, report: Report) -> BoxFuture<'a, Result<Value>>;
    /// Removes it whole. Gives what stays on purpose: a last snapshot, and the key that it cannot be read without.
    fn destroy<'a>(&'a self, target: &'a Target, report: Report) -> BoxFuture<'a, Result<Vec<String>>>;
    /// What is there, by what was recorded; the cloud is not asked.
    fn show<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Shown>>;
    /// Whether it can make servers for dedicated tenants.
    fn makes_servers(&self) -> bool;
    /// What there is to be beside tenants' own: the platform, the servers that the settings name.
    fn standing(&self) -> Vec<Target>;
    /// What is in the cloud under this environment's name, and in no state. `at_work` are the shards and tenants that
    /// somebody is at work on: what is theirs may be in the cloud before it is in a state.
    fn orphans<'a>(&'a self, at_work: &'a [String]) -> BoxFuture<'a, Result<Vec<String>>>;
    /// The states that no setting names.
    fn states(&self) -> BoxFuture<'_, Result<Vec<Recorded>>>;
}

/// The provisioner of this process. None by default: nothing is provisioned.
#[derive(Clone, Default)]
pub struct Cloud(Option<Arc<dyn Provision>>);

impl Cloud {
    pub fn new(by: impl Provision) -> Self {
        Self(Some(Arc::new(by)))
    }

    /// Whether this process provisions.
    pub const fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// # Errors
    /// `infra_unavailable` when this process provisions nothing.
    pub fn get(&self) -> Result<Arc<dyn Provision>> {
        self.0.clone().ok_or_else(|| {
            Error::new(&codes::INFRA_UNAVAILABLE)
                .detail("this process provisions nothing in a cloud")
                .hint("give it a settings file with provisioner = \"terraform\": --infra, or FREEHOLD_INFRA")
        })
    }
}
