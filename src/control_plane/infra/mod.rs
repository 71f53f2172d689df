//! What SQL cannot make: servers, keys, buckets, roles.
//!
//! Who makes it is settled in [`settings`]. How is an adapter's business: `app` puts it into a [`Cloud`], which the worker
//! has and no server. What is made for whom, and when it goes, is in [`resources`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::Value;

use super::plans::Tier;
use crate::jobs::run::RunProgress;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

pub mod resources;
pub mod settings;

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

/// Told how far it is. Called often; must not wait.
pub type Report = Arc<dyn Fn(RunProgress) + Send + Sync>;

/// Something on its way.
pub type Running<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

type Make = Arc<dyn Fn(TenantCloud, Report) -> Running<Value> + Send + Sync>;
type Remove = Arc<dyn Fn(TenantCloud, Report) -> Running<()> + Send + Sync>;

/// What makes a tenant's resources and removes them. None by default: nothing is provisioned.
#[derive(Clone, Default)]
pub struct Cloud(Option<(Make, Remove)>);

impl Cloud {
    /// Both may be asked again for what they have done or half done, and then do what is left.
    pub fn new(
        make: impl Fn(TenantCloud, Report) -> Running<Value> + Send + Sync + 'static,
        remove: impl Fn(TenantCloud, Report) -> Running<()> + Send + Sync + 'static,
    ) -> Self {
        Self(Some((Arc::new(make), Arc::new(remove))))
    }

    /// Whether this process provisions.
    pub const fn is_there(&self) -> bool {
        self.0.is_some()
    }

    async fn make(&self, whose: TenantCloud, report: Report) -> Result<Value> {
        let (make, _) = self.0.as_ref().ok_or_else(absent)?;
        make(whose, report).await
    }

    async fn remove(&self, whose: TenantCloud, report: Report) -> Result<()> {
        let (_, remove) = self.0.as_ref().ok_or_else(absent)?;
        remove(whose, report).await
    }
}

fn absent() -> Error {
    Error::new(&codes::INFRA_UNAVAILABLE)
        .detail("the tenant has resources in a cloud, and this process provisions nothing")
        .hint("start a worker with --infra and provisioner = \"terraform\"; it goes on by itself then")
}
