//! Working on the databases: the CLI carries out the runs that it records.

use std::cell::OnceCell;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Postgres};

use super::{Patience, unfinished};
use crate::cli::Globals;
use crate::cli::progress::Progress;
use crate::config::ControlConfig;
use crate::control_plane::audit::Caller;
use crate::control_plane::{ControlPlane, Hands, runs};
use crate::db::admin::ShardAdmins;
use crate::db::{control, migrations};
use crate::jobs::run::{Run, run_by_id};
use crate::kernel::ids::RunId;
use crate::kernel::{Clock, Entropy, Error, Result, codes};
use crate::product::{Current, Product};

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
        check(&globals.control).await?;
        Ok(direct)
    }

    /// Without looking whether the control database is there and up to date.
    pub fn new(globals: &Globals) -> Result<Self> {
        let config = globals.control.clone();
        let cp = ControlPlane {
            db: control::pool(config.control_url()?, APPLICATION)?,
            clock: Clock::System,
            entropy: Entropy::default(),
            addresses: config.addresses()?,
            tables: Current::migrations(),
        };
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
        let worker = format!("{APPLICATION}:{}:{}", std::process::id(), self.cp.entropy.base32::<5>());
        let hands = Hands {
            cp: self.cp.clone(),
            admins: ShardAdmins::default(),
            master: self.config.master_key()?,
            worker,
        };
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

async fn check(config: &ControlConfig) -> Result<()> {
    let mut conn = connect(&control::options(config.control_url()?, APPLICATION)?).await?;
    let ready = migrations::require_control(&mut conn).await;
    conn.close().await.ok();
    ready
}

/// A connection of its own to the control database, to say precisely what is wrong with it: the pool would only say that
/// it waited.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    match tokio::time::timeout(Duration::from_secs(5), options.connect()).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(unreachable_control(options, error)),
        Err(_) => Err(away(options, "it does not answer")),
    }
}

/// Why the control database cannot be used, without its password.
fn unreachable_control(options: &PgConnectOptions, error: sqlx::Error) -> Error {
    let why = match &error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) => error.to_string(),
        _ => "it does not answer as PostgreSQL does".to_owned(),
    };
    away(options, &why).source(error)
}

fn away(options: &PgConnectOptions, why: &str) -> Error {
    Error::new(&codes::CONTROL_UNAVAILABLE)
        .detail(format!(
            "cannot use the control database at {}:{} as {}: {why}",
            options.get_host(),
            options.get_port(),
            options.get_username()
        ))
        .hint("is it running, and is FREEHOLD_CONTROL_URL right?")
}

/// Who sits in front of the terminal, for the audit log.
fn user() -> String {
    let uid = nix::unistd::getuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}
