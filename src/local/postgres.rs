//! A private PostgreSQL server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::time::Instant;

use crate::kernel::{Error, Result, codes};

use super::binaries::{Places, Postgres};
use super::keeper::{Keeper, Launch, POLL};
use super::kept::Kept;
use super::user::ServerUser;
use super::{folder, leftover, ports};

/// The superuser of every local server.
pub const ADMIN: &str = "freehold_admin";

/// A start that takes longer has failed. Replaying the log after a crash may take a while, hence so long.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Fast shutdown (ends sessions, keeps data), then immediate (replays its log at the next start), then by force.
const STOP: &[(Signal, Duration)] = &[
    (Signal::SIGINT, Duration::from_secs(10)),
    (Signal::SIGQUIT, Duration::from_secs(5)),
    (Signal::SIGKILL, Duration::from_secs(5)),
];

/// How to run a [`PostgresServer`].
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Listen here or fail; `None`: where it listened last if that is free, else anywhere free.
    pub port: Option<u16>,
    /// Off: faster, and data may be lost when the machine (not the server) crashes.
    pub fsync: bool,
    pub max_connections: u32,
    /// The folder is removed when the server is dropped or this process ends, however it ends.
    pub throwaway: bool,
    /// Beside what every server has in its environment.
    pub environment: Vec<(String, String)>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { port: None, fsync: true, max_connections: 200, throwaway: false, environment: Vec::new() }
    }
}

/// A running (or stopped) PostgreSQL server of our own, on 127.0.0.1 only. Ends with this process at the latest.
#[derive(Debug)]
pub struct PostgresServer {
    dir: PathBuf,
    options: PostgresOptions,
    port: u16,
    password: String,
    kept: Kept,
}

impl PostgresServer {
    /// Starts a server on the data in `dir`, making both when they are not there, and waits until it takes
    /// connections. A server that an earlier run left behind on this data is stopped first.
    ///
    /// # Errors
    /// `bad_request` with a hint when PostgreSQL is missing, `control_unavailable` with the end of the log when the
    /// server does not start.
    pub async fn start(dir: &Path, options: PostgresOptions) -> Result<Self> {
        let user = ServerUser::choose()?;
        folder::make(dir, user)?;
        let dir = dir.canonicalize().map_err(|error| folder::cannot("open", dir, error))?;
        if options.throwaway {
            // The keeper removes it, and runs as that user.
            user.own(&dir)?;
        }
        leftover::stop(&dir.join("data"), &["postgres"], STOP).await?;
        let password = folder::password(&dir)?;
        let programs = match folder::read(&dir.join("data/PG_VERSION"))? {
            Some(major) => Places::system().postgres_of(major.parse().map_err(Error::internal)?)?,
            None => {
                let programs = Places::system().postgres()?;
                make_data(&dir, &programs, &password, user, &options).await?;
                programs
            }
        };
        let last = folder::read(&dir.join("port"))?.and_then(|port| port.parse().ok());
        let mut port = match options.port {
            Some(port) => port,
            None => ports::keep_or_choose(last)?,
        };
        let deadline = Instant::now() + START_LIMIT;
        let keeper = loop {
            match launch(&dir, &programs, user, &options, port, &password, deadline).await {
                Ok(keeper) => break keeper,
                // Somebody else took the port since we looked.
                Err(Failure::PortTaken(_)) if options.port.is_none() => port = ports::choose()?,
                Err(failure) => return Err(failure.into()),
            }
        };
        folder::write_private(&dir.join("port"), &format!("{port}\n"))?;
        Ok(Self { dir, options, port, password, kept: Kept::new(keeper) })
    }

    /// The port on 127.0.0.1; stays the same over [`PostgresServer::start_again`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The superuser's DSN for a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ADMIN}:{}@127.0.0.1:{}/{database}?sslmode=disable", self.password, self.port)
    }

    /// The same as [`PostgresServer::url`], for sqlx.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options(self.port, &self.password, database)
    }

    /// Where the server writes its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Whether the server process is there.
    pub async fn is_running(&self) -> bool {
        self.kept.is_running().await
    }

    /// Stops the server: sessions end, data stays. Nothing happens when it is not running.
    pub async fn stop(&self) -> Result<()> {
        self.kept.stop(STOP).await
    }

    /// Starts a server that was stopped or has crashed, on the same port with the same data.
    pub async fn start_again(&self) -> Result<()> {
        self.kept
            .start_again(async || {
                let user = ServerUser::choose()?;
                let major = folder::read(&self.dir.join("data/PG_VERSION"))?.unwrap_or_default();
                let programs = Places::system().postgres_of(major.parse().map_err(Error::internal)?)?;
                let deadline = Instant::now() + START_LIMIT;
                Ok(launch(&self.dir, &programs, user, &self.options, self.port, &self.password, deadline)
                    .await?)
            })
            .await
    }

    /// Kills every process of the server at once, as a crash would.
    pub async fn crash(&self) {
        self.kept.crash().await;
    }

    /// Freezes every process of the server: connections stay open and nothing answers, as on a machine that hangs.
    pub async fn pause(&self) {
        self.kept.signal_all(Signal::SIGSTOP).await;
    }

    /// Ends a [`PostgresServer::pause`].
    pub async fn resume(&self) {
        self.kept.signal_all(Signal::SIGCONT).await;
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // A running server is ended, and its folder removed, by its keeper.
        if self.options.throwaway && self.kept.is_gone() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn connect_options(port: u16, password: &str, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(ADMIN)
        .password(password)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
        .disable_statement_logging()
}

/// Runs `initdb`. It works beside the final place and is renamed when done, so that a run that was cut short leaves
/// nothing that looks like data.
async fn make_data(
    dir: &Path,
    programs: &Postgres,
    password: &str,
    user: ServerUser,
    options: &PostgresOptions,
) -> Result<()> {
    let draft = dir.join("data.new");
    folder::remove(&draft)?;
    folder::make(&draft, user)?;
    user.own(&draft)?;
    let password_file = dir.join("pwfile");
    folder::write_private(&password_file, &format!("{password}\n"))?;
    user.own(&password_file)?;

    let mut arguments: Vec<OsString> = vec!["--pgdata".into(), draft.clone().into()];
    arguments.extend(["--pwfile".into(), password_file.clone().into()]);
    arguments.extend(["--username", ADMIN].map(OsString::from));
    arguments.extend(["--auth-host", "scram-sha-256", "--auth-local", "scram-sha-256"].map(OsString::from));
    // Bytewise order is fast and the same everywhere; upper and lower case are still known beyond ASCII.
    let locale = ["--locale", "C", "--lc-ctype", "C.UTF-8", "--encoding", "UTF8", "--no-instructions"];
    arguments.extend(locale.map(OsString::from));
    if !options.fsync {
        arguments.push("--no-sync".into());
    }
    let mut keeper = Keeper::start(Launch {
        program: programs.program("initdb"),
        arguments,
        folder: &draft,
        log: &dir.join("server.log"),
        user,
        environment: &options.environment,
        orphan_signal: Signal::SIGTERM,
        orphan_removes: options.throwaway.then_some(dir),
    })?;
    let status = keeper.wait(START_LIMIT).await;
    folder::remove(&password_file)?;
    if !status.is_some_and(|status| status.success()) {
        return Err(Failure::Ended(status, keeper.log_tail()).into());
    }
    let data = dir.join("data");
    std::fs::rename(&draft, &data).map_err(|error| folder::cannot("rename", &draft, error))
}

/// Why a server did not start.
enum Failure {
    PortTaken(u16),
    Ended(Option<ExitStatus>, String),
    Silent(String),
    Other(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let error = Error::new(&codes::CONTROL_UNAVAILABLE);
        match failure {
            Failure::PortTaken(port) => error
                .detail(format!("PostgreSQL cannot listen on 127.0.0.1:{port}: the port is in use"))
                .hint("stop what uses it, or choose another port"),
            Failure::Ended(status, log) => {
                let status = status.map_or("took too long".to_owned(), |status| format!("ended: {status}"));
                error.detail(format!("PostgreSQL did not start ({status}). Its log ends with:\n{log}"))
            }
            Failure::Silent(last) => {
                let limit = START_LIMIT.as_secs();
                error
                    .detail(format!("PostgreSQL took no connection for {limit} s; the last try said: {last}"))
            }
            Failure::Other(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Starts the server process and waits until it takes connections.
async fn launch(
    dir: &Path,
    programs: &Postgres,
    user: ServerUser,
    options: &PostgresOptions,
    port: u16,
    password: &str,
    deadline: Instant,
) -> Result<Keeper, Failure> {
    let data = dir.join("data");
    loop {
        let mut arguments: Vec<OsString> = vec!["-D".into(), data.clone().into()];
        for setting in settings(options, port) {
            arguments.extend(["-c".into(), setting.into()]);
        }
        let mut keeper = Keeper::start(Launch {
            program: programs.program("postgres"),
            arguments,
            folder: &data,
            log: &dir.join("server.log"),
            user,
            environment: &options.environment,
            orphan_signal: if options.throwaway { Signal::SIGQUIT } else { Signal::SIGINT },
            orphan_removes: options.throwaway.then_some(dir),
        })?;
        let mut last = "nothing".to_owned();
        loop {
            if let Some(status) = keeper.ended() {
                let log = keeper.log_tail();
                // After a crash the old connections' processes take a moment to notice it.
                if log.contains("shared memory block") && Instant::now() < deadline {
                    tokio::time::sleep(POLL).await;
                    break;
                }
                if log.contains("Address already in use") {
                    return Err(Failure::PortTaken(port));
                }
                return Err(Failure::Ended(Some(status), log));
            }
            let options = connect_options(port, password, "postgres");
            // Whoever else listens on this port may never answer; our server's end is heard meanwhile.
            let attempt = tokio::select! {
                attempt = PgConnection::connect_with(&options) => Some(attempt),
                _ = keeper.wait(deadline.saturating_duration_since(Instant::now())) => None,
            };
            match attempt {
                None => {}
                // Another server on this port would not take our password, so this is ours.
                Some(Ok(connection)) => {
                    let _ = connection.close().await;
                    return Ok(keeper);
                }
                Some(Err(error)) => last = error.to_string(),
            }
            if Instant::now() >= deadline {
                return Err(Failure::Silent(last));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Small enough to run several servers beside a build; everything else as PostgreSQL ships it.
fn settings(options: &PostgresOptions, port: u16) -> Vec<String> {
    let mut settings = vec![
        format!("port={port}"),
        format!("max_connections={}", options.max_connections),
        format!("fsync={}", if options.fsync { "on" } else { "off" }),
    ];
    let fixed = [
        "listen_addresses=127.0.0.1",
        // The path of a socket may be at most 107 bytes long, and nobody needs one.
        "unix_socket_directories=",
        "password_encryption=scram-sha-256",
        "shared_buffers=64MB",
        "max_wal_size=512MB",
        // Dropping or moving many tenant schemas locks every table of theirs.
        "max_locks_per_transaction=256",
        // Compiling a plan costs more than our queries take.
        "jit=off",
        "timezone=UTC",
        "log_timezone=UTC",
        "log_checkpoints=off",
        "log_line_prefix=%m [%p] %q%u@%d ",
    ];
    settings.extend(fixed.map(str::to_owned));
    if !options.fsync {
        settings.extend(["full_page_writes=off", "synchronous_commit=off"].map(str::to_owned));
    }
    settings
}
