//! A private Redis server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::kernel::{Error, Result, codes};

use super::binaries::Places;
use super::keeper::{Keeper, Launch, POLL};
use super::kept::Kept;
use super::user::ServerUser;
use super::{folder, leftover, ports};

const START_LIMIT: Duration = Duration::from_secs(20);

/// In order (saves what it is told to save), then by force.
const STOP: &[(Signal, Duration)] =
    &[(Signal::SIGTERM, Duration::from_secs(5)), (Signal::SIGKILL, Duration::from_secs(5))];

/// How to run a [`RedisServer`].
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// Listen here or fail; `None`: where it listened last if that is free, else anywhere free.
    pub port: Option<u16>,
    /// Keep the data over a restart.
    pub save: bool,
    /// Numbered databases.
    pub databases: u32,
    /// The folder is removed when the server is dropped or this process ends, however it ends.
    pub throwaway: bool,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { port: None, save: true, databases: 16, throwaway: false }
    }
}

/// A running (or stopped) Redis server of our own, on 127.0.0.1 only. Ends with this process at the latest.
#[derive(Debug)]
pub struct RedisServer {
    dir: PathBuf,
    options: RedisOptions,
    port: u16,
    password: String,
    kept: Kept,
}

impl RedisServer {
    /// Starts a server on the data in `dir` and waits until it answers. One that an earlier run left behind on this
    /// data is stopped first.
    ///
    /// # Errors
    /// `bad_request` with a hint when Redis is missing, `control_unavailable` with the end of the log when the server
    /// does not start.
    pub async fn start(dir: &Path, options: RedisOptions) -> Result<Self> {
        let user = ServerUser::choose()?;
        folder::make(dir, user)?;
        let dir = dir.canonicalize().map_err(|error| folder::cannot("open", dir, error))?;
        if options.throwaway {
            // The keeper removes it, and runs as that user.
            user.own(&dir)?;
        }
        let data = dir.join("data");
        folder::make(&data, user)?;
        user.own(&data)?;
        leftover::stop(&data, &["redis", "valkey"], STOP).await?;
        let password = folder::password(&dir)?;
        let last = folder::read(&dir.join("port"))?.and_then(|port| port.parse().ok());
        let mut port = match options.port {
            Some(port) => port,
            None => ports::keep_or_choose(last)?,
        };
        let keeper = loop {
            match launch(&dir, user, &options, port, &password).await {
                Ok(keeper) => break keeper,
                // Somebody else took the port since we looked.
                Err(Failure::PortTaken(_)) if options.port.is_none() => port = ports::choose()?,
                Err(failure) => return Err(failure.into()),
            }
        };
        folder::write_private(&dir.join("port"), &format!("{port}\n"))?;
        Ok(Self { dir, options, port, password, kept: Kept::new(keeper) })
    }

    /// The port on 127.0.0.1; stays the same over [`RedisServer::start_again`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The DSN of one numbered database.
    pub fn url(&self, database: u32) -> String {
        url(self.port, &self.password, database)
    }

    /// Where the server writes its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Whether the server process is there.
    pub async fn is_running(&self) -> bool {
        self.kept.is_running().await
    }

    /// Stops the server. Nothing happens when it is not running.
    pub async fn stop(&self) -> Result<()> {
        self.kept.stop(STOP).await
    }

    /// Starts a server that was stopped or has crashed, on the same port.
    pub async fn start_again(&self) -> Result<()> {
        self.kept
            .start_again(async || {
                let user = ServerUser::choose()?;
                Ok(launch(&self.dir, user, &self.options, self.port, &self.password).await?)
            })
            .await
    }

    /// Kills the server, as a crash would.
    pub async fn crash(&self) {
        self.kept.crash().await;
    }

    /// Freezes the server: connections stay open and nothing answers, as on a machine that hangs.
    pub async fn pause(&self) {
        self.kept.signal_all(Signal::SIGSTOP).await;
    }

    /// Ends a [`RedisServer::pause`].
    pub async fn resume(&self) {
        self.kept.signal_all(Signal::SIGCONT).await;
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // A running server is ended, and its folder removed, by its keeper.
        if self.options.throwaway && self.kept.is_gone() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn url(port: u16, password: &str, database: u32) -> String {
    format!("redis://:{password}@127.0.0.1:{port}/{database}")
}

/// Why a server did not start.
enum Failure {
    PortTaken(u16),
    Ended(String),
    Silent(String),
    Other(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let error = Error::new(&codes::CONTROL_UNAVAILABLE);
        match failure {
            Failure::PortTaken(port) => error
                .detail(format!("Redis cannot listen on 127.0.0.1:{port}: the port is in use"))
                .hint("stop what uses it, or choose another port"),
            Failure::Ended(log) => error.detail(format!("Redis did not start. Its log ends with:\n{log}")),
            Failure::Silent(last) => error.detail(format!(
                "Redis did not answer for {} s; the last try said: {last}",
                START_LIMIT.as_secs()
            )),
            Failure::Other(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

async fn launch(
    dir: &Path,
    user: ServerUser,
    options: &RedisOptions,
    port: u16,
    password: &str,
) -> Result<Keeper, Failure> {
    let config = dir.join("redis.conf");
    folder::write_private(&config, &configuration(options, port, password))?;
    user.own(&config)?;
    let mut keeper = Keeper::start(Launch {
        program: Places::system().redis()?,
        arguments: vec![config.into()],
        folder: &dir.join("data"),
        log: &dir.join("server.log"),
        user,
        environment: &[],
        orphan_signal: if options.throwaway { Signal::SIGKILL } else { Signal::SIGTERM },
        orphan_removes: options.throwaway.then_some(dir),
    })?;
    let deadline = Instant::now() + START_LIMIT;
    let mut last = "nothing".to_owned();
    loop {
        if keeper.ended().is_some() {
            let log = keeper.log_tail();
            let taken = log.contains("Address already in use");
            return Err(if taken { Failure::PortTaken(port) } else { Failure::Ended(log) });
        }
        let url = url(port, password, 0);
        // Whoever else listens on this port may never answer; our server's end is heard meanwhile.
        let attempt = tokio::select! {
            attempt = ping(&url) => Some(attempt),
            _ = keeper.wait(deadline.saturating_duration_since(Instant::now())) => None,
        };
        match attempt {
            None => {}
            // Another server on this port would not take our password, so a good answer is ours.
            Some(Ok(())) => return Ok(keeper),
            Some(Err(error)) => last = error.to_string(),
        }
        if Instant::now() >= deadline {
            return Err(Failure::Silent(last));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn ping(url: &str) -> redis::RedisResult<()> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    redis::cmd("PING").query_async(&mut connection).await
}

/// The password is in a file, not among the arguments: those are for everybody to read.
fn configuration(options: &RedisOptions, port: u16, password: &str) -> String {
    // An empty `save` turns snapshots off; they go to the working folder.
    let save = if options.save { "save 60 1" } else { "save \"\"" };
    format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {password}\ndaemonize no\n{save}\nappendonly no\n\
         databases {}\nmaxmemory 128mb\nmaxmemory-policy volatile-lru\n",
        options.databases
    )
}
