//! Ties a server's life to ours.
//!
//! A server is not started directly but by a tiny shell script, its keeper (`keeper.sh`), which blocks on a pipe that
//! only we hold. When we end, for whatever reason, the kernel closes the pipe and the keeper stops the server: no
//! destructor or signal handler has to run, so `kill -9` is covered. Keeper and server are a process group of their
//! own, so a terminal's Ctrl-C reaches only us and we stop things in order.
//!
//! Built on `std::process`, not tokio's: the test kit keeps servers in a static that outlives many runtimes.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::kernel::{Error, Result};

use super::folder::cannot;
use super::user::ServerUser;

const SCRIPT: &str = include_str!("keeper.sh");

/// Start a new log when the last one grew past this.
const LOG_MAX: u64 = 16 << 20;

/// How often a process is looked at while we wait for it.
pub const POLL: Duration = Duration::from_millis(10);

/// What to start, and how.
pub struct Launch<'a> {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// The process's working folder.
    pub folder: &'a Path,
    /// Takes standard output and standard error.
    pub log: &'a Path,
    pub user: ServerUser,
    /// Beside the few variables that every program is given.
    pub environment: &'a [(String, String)],
    /// How the keeper ends it once we are gone.
    pub orphan_signal: Signal,
    /// What the keeper removes after that.
    pub orphan_removes: Option<&'a Path>,
}

/// A running server and its keeper. Dropping it stops the server (without waiting), as our end would.
#[derive(Debug)]
pub struct Keeper {
    keeper: Child,
    server: Pid,
    log: PathBuf,
    /// Where this run's part of the log begins.
    log_start: u64,
    /// The pipe: closing it tells the keeper that we are gone.
    _hold: ChildStdin,
}

impl Keeper {
    /// Starts the keeper and, by it, the program.
    pub fn start(launch: Launch<'_>) -> Result<Self> {
        let log = open_log(launch.log)?;
        let log_start = log.metadata().map_or(0, |data| data.len());
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "keeper"]);
        command.arg(launch.orphan_signal.as_str().trim_start_matches("SIG"));
        command.arg(launch.orphan_removes.unwrap_or(Path::new("")));
        command.arg(&launch.program).args(&launch.arguments);
        command.current_dir(launch.folder).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // Our environment may hold secrets, and variables such as PGDATA would change what the programs do.
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC");
        for name in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(launch.environment.iter().map(|(name, value)| (name, value)));
        launch.user.apply(&mut command);
        let mut keeper = command.spawn().map_err(|error| cannot("start", &launch.program, error))?;
        let (Some(hold), Some(output)) = (keeper.stdin.take(), keeper.stdout.take()) else {
            return Err(Error::internal("a child's piped streams are missing"));
        };
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(|error| cannot("start", &launch.program, error))?;
        match line.trim().parse() {
            Ok(pid) => Ok(Self {
                keeper,
                server: Pid::from_raw(pid),
                log: launch.log.to_owned(),
                log_start,
                _hold: hold,
            }),
            Err(error) => Err(Error::internal(error)
                .detail(format!("the keeper of {} gave no process id", launch.program.display()))),
        }
    }

    /// How the server ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // The keeper is our own child and is waited for nowhere else, so asking cannot fail.
        self.keeper.try_wait().ok().flatten()
    }

    /// Waits until the server has ended; `None` when it has not within this time.
    pub async fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends the server: each signal in turn, with the time it is given to take effect.
    pub async fn stop(&mut self, steps: &[(Signal, Duration)]) -> Result<()> {
        self.signal_all(Signal::SIGCONT);
        for (signal, time) in steps {
            self.signal(*signal);
            if self.wait(*time).await.is_some() {
                return Ok(());
            }
        }
        Err(Error::internal(format!("process {} does not end", self.server)))
    }

    /// Sends a signal to the server's main process.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            // It may end on its own at this very moment; then there is nobody left to tell.
            let _ = kill(self.server, signal);
        }
    }

    /// Sends a signal to the server's main process and to those it started (PostgreSQL: one for each connection, each
    /// in a session of its own, so a signal to the group would miss them).
    pub fn signal_all(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        let pid = self.server;
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        self.signal(signal);
        for child in list.split_whitespace().filter_map(|child| child.parse().ok()) {
            let _ = kill(Pid::from_raw(child), signal);
        }
    }

    /// The end of what the server has logged in this run: what a person wants to see when it does not start.
    pub fn log_tail(&self) -> String {
        let read = || {
            let mut file = File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.log_start.max(end.saturating_sub(2000))))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            std::io::Result::Ok(String::from_utf8_lossy(&text).trim().to_owned())
        };
        read().unwrap_or_default()
    }
}

fn open_log(path: &Path) -> Result<File> {
    if fs::metadata(path).is_ok_and(|data| data.len() > LOG_MAX) {
        let _ = fs::rename(path, path.with_extension("log.old"));
    }
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    opened.map_err(|error| cannot("open the log", path, error))
}
