//! Working on the databases: the CLI carries out the runs that it records.

use std::cell::OnceCell;
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;

use super::{Patience, unfinished};
use crate::app;
use crate::cli::Globals;
use crate::cli::progress::Progress;
use crate::config::ControlConfig;
use crate::control_plane::audit::Caller;
use crate::control_plane::{ControlPlane, Hands, runs};
use crate::jobs::run::{Run, run_by_id};
use crate::kernel::ids::RunId;
use crate::kernel::{Error, Result};
use crate::product::Current;

const APPLICATION: &str = "freehold-cli";

/// The control database, and the shards as soon as a command needs them.
pub struct Direct {
    pub cp: ControlPlane,
    pub caller: Caller,
    pub progress: Progress,
    config: ControlConfig,
    hands: OnceCell<Hands>,
}

impl Direct {
    pub async fn open(globals: &Globals) -> Result<Self> {
        let direct = Self::new(globals)?;
        app::require_control(&globals.control).await?;
        Ok(direct)
    }

    /// Without looking whether the control database is there and up to date.
    pub fn new(globals: &Globals) -> Result<Self> {
        let config = globals.control.clone();
        let cp = app::control_plane::<Current>(&config, APPLICATION)?;
        let caller = Caller { actor: format!("cli:{}", user()), request_id: None };
        Ok(Self { cp, caller, progress: globals.progress(), config, hands: OnceCell::new() })
    }

    /// A session on the control database.
    pub async fn control(&self) -> Result<PoolConnection<Postgres>> {
        Ok(self.cp.db.acquire().await?)
    }

    /// What it takes to change the shards.
    ///
    /// # Errors
    /// When no master key is given.
    pub fn hands(&self) -> Result<&Hands> {
        if let Some(hands) = self.hands.get() {
            return Ok(hands);
        }
        let hands = app::hands(&self.config, APPLICATION)?;
        Ok(self.hands.get_or_init(|| hands))
    }

    /// Carries a run out, or follows the worker that was faster, and shows how far it is.
    ///
    /// # Errors
    /// The run's own; or that it is not finished yet.
    pub async fn finish(&self, id: RunId) -> Result<Run> {
        let hands = self.hands()?;
        let bar = self.progress.run();
        let patience = Patience::begin();
        let work = async {
            loop {
                let run = runs::carry_out(hands, id, Duration::from_secs(1), |run| bar.show(run)).await?;
                if !run.state.is_open() {
                    return runs::succeeded(&run).map(|()| run);
                }
                if patience.is_over(&run) {
                    return Err(unfinished(&run));
                }
            }
        };
        let watch = async {
            // Between the steps of one attempt, only the table knows how far it is.
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if self.progress.visible
                    && let Ok(mut control) = self.control().await
                    && let Ok(run) = run_by_id(&mut control, id).await
                {
                    bar.show(&run);
                }
            }
        };
        tokio::select! {
            done = work => done,
            () = watch => Err(Error::internal("the watch ended first")),
        }
    }
}

/// Who sits in front of the terminal, for the audit log.
fn user() -> String {
    let uid = nix::unistd::getuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}
