//! The real `freehold` as processes of its own, over a [`World`]: started, signalled, killed and started again on the
//! same port.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::{Cluster, World, eventually};

/// Long enough for a start or a stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts processes that share a control database, a master key and a Redis.
#[derive(Clone, Debug)]
pub struct Programs {
    binary: PathBuf,
    control_url: String,
    master_hex: String,
    redis_url: String,
    /// Where their logs go.
    folder: PathBuf,
}

/// How a process is to be started, beside what all have in common.
#[derive(Clone, Debug)]
pub struct Launch {
    /// `serve` or `worker`.
    pub command: &'static str,
    /// Where `serve` answers, and a worker its health pages.
    pub port: u16,
    pub env: Vec<(&'static str, String)>,
    /// The most file descriptors it may have.
    pub descriptors: Option<u32>,
    /// Where its log goes: a file of its own, unless this names another place.
    pub log: Option<PathBuf>,
}

/// A running (or ended) process. Killed with the value at the latest.
#[derive(Debug)]
pub struct Process {
    pub launch: Launch,
    pub addr: SocketAddr,
    child: Child,
}

/// A port that was free a moment ago, and that nobody is given by chance: the process listens on it again after a
/// restart.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its port").port()
}

impl Launch {
    pub fn serve() -> Self {
        Self { command: "serve", port: free_port(), env: Vec::new(), descriptors: None, log: None }
    }

    pub fn worker() -> Self {
        Self { command: "worker", ..Self::serve() }
    }

    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl ToString) -> Self {
        self.env.push((name, value.to_string()));
        self
    }
}

impl Programs {
    /// `binary` is `env!("CARGO_BIN_EXE_freehold")` of a test or a bench.
    pub async fn new(binary: &str, world: &World) -> Self {
        Self {
            binary: binary.into(),
            control_url: world.control_url.clone(),
            master_hex: world.master_hex.clone(),
            redis_url: Cluster::shared().await.redis_url(),
            folder: world.folder.path().to_owned(),
        }
    }

    /// Starts a process and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(&self, launch: Launch) -> Process {
        let process = self.spawn(launch);
        process.ready().await;
        process
    }

    /// Starts a process.
    pub fn spawn(&self, launch: Launch) -> Process {
        let log = launch.log.clone().unwrap_or_else(|| self.log(&launch));
        let stderr = std::fs::OpenOptions::new().append(true).create(true).open(&log);
        let stderr = stderr.unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let addr = SocketAddr::from(([127, 0, 0, 1], launch.port));
        let mut command = match launch.descriptors {
            None => Command::new(&self.binary),
            // Only a process can lower its own limit, and running code between fork and exec is unsafe.
            Some(most) => {
                let mut command = Command::new("sh");
                command.args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh", &most.to_string()]);
                command.arg(&self.binary);
                command
            }
        };
        let listens = if launch.command == "serve" { "FREEHOLD_HTTP_ADDR" } else { "FREEHOLD_METRICS_ADDR" };
        command
            .arg(launch.command)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("FREEHOLD_CONTROL_URL", &self.control_url)
            .env("FREEHOLD_MASTER_KEY", &self.master_hex)
            .env("FREEHOLD_REDIS_URL", &self.redis_url)
            .env("FREEHOLD_HOME", &self.folder)
            .env(listens, addr.to_string())
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true);
        let child = command.spawn().expect("the process starts");
        Process { launch, addr, child }
    }

    /// What a process has written so far, over all its lives.
    pub fn said(&self, process: &Process) -> String {
        std::fs::read_to_string(self.log(&process.launch)).unwrap_or_default()
    }

    fn log(&self, launch: &Launch) -> PathBuf {
        self.folder.join(format!("{}-{}.log", launch.command, launch.port))
    }
}

impl Process {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Waits until `/health/ready` says so.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ready(&self) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        eventually(PATIENCE, "the process is ready", async || {
            match client.get(self.url("/health/ready")).send().await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(answer.text().await.unwrap_or_default()),
                Err(error) => Err(format!("{error:?}")),
            }
        })
        .await;
    }

    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(id) = self.id() {
            kill(Pid::from_raw(id.cast_signed()), signal).expect("our own child");
        }
    }

    /// `kill -9`, and nothing is left of it when this returns.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("our own child");
    }

    /// Waits for the end of a process that was told to stop.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("our own child")
    }

    /// Whether it has ended on its own.
    pub fn is_gone(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// Processor time used so far, by all its threads.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        // After the name in brackets, which may hold anything: user and system time are the 12th and 13th, in ticks of
        // 10 ms.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Its local TCP ports: by them a server knows its sessions.
    pub fn connections(&self) -> Vec<(i32, i32)> {
        let Some(id) = self.id() else { return Vec::new() };
        let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{id}/fd"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let table = self.proc("net/tcp");
        let port = |address: &str| i32::from_str_radix(address.rsplit(':').next()?, 16).ok();
        let mut ports = Vec::new();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let (Some(local), Some(remote), Some(inode)) = (fields.get(1), fields.get(2), fields.get(9))
                && sockets.iter().any(|socket| socket == inode)
                && let (Some(local), Some(remote)) = (port(local), port(remote))
            {
                ports.push((local, remote));
            }
        }
        ports
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.id().unwrap_or_default());
        std::fs::read_to_string(Path::new(&path)).unwrap_or_default()
    }
}
