//! What commands work on: the databases themselves, or the operators' API of a server. One method per operation.

use std::time::Duration;

use tokio::time::Instant;

use super::Globals;
use crate::jobs::run::{Run, RunState};
use crate::kernel::{Code, Error, Result, codes};

mod approvals;
mod changes;
mod client;
mod direct;
mod keys;
mod shards;
mod support;
mod tenants;
mod work;

pub use client::OperatorClient;
pub use direct::Direct;
pub use tenants::Change;

/// A fleet, reached in one of two ways.
pub enum Fleet {
    /// By the databases' own logins.
    Direct(Box<Direct>),
    /// By the operators' API.
    Remote(OperatorClient),
}

impl Fleet {
    /// The fleet that the settings name.
    ///
    /// # Errors
    /// When the control database does not answer, refuses the login, or is not at this build's version.
    pub async fn open(globals: &Globals) -> Result<Self> {
        match &globals.server {
            Some(server) => OperatorClient::new(globals, server).map(Self::Remote),
            None => Direct::open(globals).await.map(Box::new).map(Self::Direct),
        }
    }

    /// For what only a login on the databases can do.
    ///
    /// # Errors
    /// When a server was named.
    pub fn direct(&self, what: &str) -> Result<&Direct> {
        match self {
            Self::Direct(direct) => Ok(direct),
            Self::Remote(_) => Err(databases_only(what)),
        }
    }
}

/// For a command that no server can be asked to carry out.
pub fn databases_only(what: &str) -> Error {
    Error::new(&codes::BAD_REQUEST)
        .detail(format!("{what} works on the databases, not through a server"))
        .hint("leave out --server and FREEHOLD_SERVER, and give FREEHOLD_CONTROL_URL and FREEHOLD_MASTER_KEY")
}

/// How long a command follows a run.
struct Patience(Instant);

impl Patience {
    fn begin() -> Self {
        Self(Instant::now())
    }

    /// A run that fails and waits for its next attempt is not worth a long wait; one that is at work is.
    fn is_over(&self, run: &Run) -> bool {
        let waits = matches!(run.state, RunState::Pending | RunState::Undoing) && run.error.is_some();
        self.0.elapsed() > if waits { Duration::from_secs(10) } else { Duration::from_secs(600) }
    }
}

/// The error of a run that goes on without us.
fn unfinished(run: &Run) -> Error {
    let (name, detail) = run.error.as_deref().and_then(|error| error.split_once(": ")).unwrap_or_default();
    let code: &'static Code =
        codes::ALL.iter().copied().find(|code| code.name == name).unwrap_or(&codes::TIMEOUT);
    let why = if detail.is_empty() { code.title } else { detail };
    Error::new(code)
        .detail(format!("{} is recorded, but not finished yet: {why}", run.kind))
        .hint(format!("a worker goes on with it; see: freehold run show {}", run.id))
}
