//! Drives the real Terraform.
//!
//! | file | what |
//! |---|---|
//! | `allow` | what a plan may remove |
//! | `cloud` | what the control plane asks for: tenants' resources |
//! | `environment` | what Terraform is told by its environment, and nothing else of ours |
//! | `events` | what it says while it works |
//! | `folder` | a run's own copy of the code |
//! | `in_flight` | what a killed run had in hand; orphans |
//! | `init` | the provider and the modules, once for all states of a root |
//! | `inventory` | what the cloud says is there |
//! | `journal` | what was made, outside the state |
//! | `process` | starting it so that it survives us, and following it |
//! | `progress` | how far it is |
//! | `recover` | what a killed run has left |
//! | `run` | plan, look, apply; drift; destroy |
//! | `state` | what a state holds |
//! | `version` | which Terraform this is |
//!
//! Secrets reach Terraform by its environment, as ephemeral variables: they are in no argument, state, plan or file.

use std::sync::Arc;

use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::sync::{OnceCell, Semaphore};

use crate::control_plane::infra::settings::InfraSettings;
use crate::db::states::States;
use crate::kernel::{Error, Result, codes};

pub mod allow;
pub mod cloud;
mod environment;
pub mod events;
mod folder;
pub mod in_flight;
mod init;
mod inventory;
pub mod journal;
mod process;
pub mod progress;
mod recover;
mod run;
pub mod state;
mod version;

pub use inventory::Listed;
pub use run::Planned;

/// A folder of code with a state for each of its workspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    Platform,
    Shard,
    Tenant,
    /// Makes nothing, and keeps no state.
    Inventory,
}

impl Root {
    /// Those that keep states.
    pub const ALL: [Self; 3] = [Self::Platform, Self::Shard, Self::Tenant];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Shard => "shard",
            Self::Tenant => "tenant",
            Self::Inventory => "inventory",
        }
    }
}

/// One state, and what it is to be made of.
#[derive(Clone, Debug)]
pub struct Task {
    pub root: Root,
    /// The environment, the shard's name or the tenant's id.
    pub workspace: String,
    /// The root's variables. No secrets.
    pub inputs: Map<String, Value>,
    /// The root's ephemeral variables.
    pub secrets: Vec<(String, SecretString)>,
    /// Named after a tenant, whose id is never given again: once it was removed, no state of this name may ever be. A worker
    /// that slept through a purge must not make anew what that has removed.
    pub once: bool,
}

impl Task {
    /// What the database server of this state is called, if it has one.
    fn server_name(&self, environment: &str) -> String {
        match self.root {
            Root::Shard => format!("{environment}-shard-{}", self.workspace),
            Root::Platform | Root::Tenant | Root::Inventory => format!("{environment}-shard-control"),
        }
    }

    /// A workspace is a folder's name and an argument.
    fn check(&self) -> Result<()> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let first = self.workspace.starts_with(|c: char| c.is_ascii_lowercase());
        if first
            && self.workspace.len() <= 64
            && self.workspace.chars().all(good)
            && self.workspace != "default"
        {
            return Ok(());
        }
        Err(Error::new(&codes::BAD_REQUEST).detail(format!("{:?} is no name of a state", self.workspace)))
    }
}

/// Terraform, as it is set up here. Cheap to clone; all clones share the places.
#[derive(Clone)]
pub struct Terraform(Arc<Inner>);

struct Inner {
    settings: InfraSettings,
    states: States,
    state_url: SecretString,
    /// Each run takes about 0.7 GB.
    places: Semaphore,
    /// Found out once: the version.
    ready: OnceCell<String>,
}

impl Terraform {
    /// Nothing is started yet.
    ///
    /// # Errors
    /// `bad_request` when the settings lack the state database.
    pub fn new(settings: InfraSettings) -> Result<Self> {
        let reference = settings.state_url.as_ref().ok_or_else(|| {
            Error::new(&codes::BAD_REQUEST)
                .detail("Terraform needs a database for its states")
                .hint("set state_url in the infrastructure settings")
        })?;
        let state_url = reference.read()?;
        let states = States::at(&state_url)?;
        let places = Semaphore::new(settings.at_once.into());
        Ok(Self(Arc::new(Inner { settings, states, state_url, places, ready: OnceCell::new() })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_a_plain_name() {
        let task = |workspace: &str| Task {
            root: Root::Tenant,
            workspace: workspace.to_owned(),
            inputs: Map::new(),
            secrets: Vec::new(),
            once: true,
        };
        for good in ["prod", "eu-1", "ten_0123456789abcdefghijklmnop"] {
            task(good).check().expect(good);
        }
        for bad in ["", "default", "../x", "-x", "A", "a b", "a/b", &"a".repeat(65)] {
            task(bad).check().expect_err(bad);
        }
    }
}
