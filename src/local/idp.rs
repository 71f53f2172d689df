//! A local OpenID provider for `freehold dev`: `oidc-provider` from npm, certified by the OpenID Foundation, in a Node.js
//! process of its own. People without passwords, everything in memory: for a developer's machine, never for production.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::{folder, ports};
use crate::kernel::{Error, Result, codes};

/// What it consists of, beside what npm fetches. The tests run the same.
const FILES: [(&str, &str); 4] = [
    ("server.mjs", include_str!("../../tests/idp/server.mjs")),
    ("page.mjs", include_str!("../../tests/idp/page.mjs")),
    ("package.json", include_str!("../../tests/idp/package.json")),
    ("package-lock.json", LOCK),
];
const LOCK: &str = include_str!("../../tests/idp/package-lock.json");

/// The oldest Node.js that runs it.
const NODE: u32 = 18;
/// The longest the packages may take to come, and the provider to start.
const INSTALL: Duration = Duration::from_secs(120);
const START: Duration = Duration::from_secs(20);

/// A running provider. It ends with the value, and with this process however it ends: its stdin closes.
#[derive(Debug)]
pub struct LocalIdp {
    pub issuer: String,
    _process: Child,
    stdin: ChildStdin,
}

#[derive(Deserialize)]
struct Listening {
    issuer: String,
}

impl LocalIdp {
    /// How this site is known there.
    pub const CLIENT: &'static str = "freehold-dev";

    /// Whether a Node.js that is new enough, and npm, are on the `PATH`.
    pub async fn is_possible() -> bool {
        let node = version_of("node").await;
        node.is_some_and(|version| version >= NODE) && version_of("npm").await.is_some()
    }

    /// Whether the packages that the lock file names are in `dir`.
    pub fn is_installed(dir: &Path) -> bool {
        std::fs::read_to_string(marker(dir)).is_ok_and(|lock| lock == LOCK)
    }

    /// Puts it into `dir`, with the packages that the lock file names, in these versions and with these checksums. Nothing
    /// of theirs is run meanwhile.
    ///
    /// # Errors
    /// `bad_request` with npm's last words.
    pub async fn install(dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|error| folder::cannot("make the folder", dir, error))?;
        for (name, text) in FILES {
            let file = dir.join(name);
            std::fs::write(&file, text).map_err(|error| folder::cannot("write", &file, error))?;
        }
        if Self::is_installed(dir) {
            return Ok(());
        }
        let failed = |why: &str| {
            Error::new(&codes::BAD_REQUEST).detail(format!("npm could not fetch the sign-in provider: {why}"))
        };
        let npm = Command::new("npm")
            .args(["ci", "--omit=dev", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"])
            .current_dir(dir)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(INSTALL, npm).await.map_err(|_| failed("it took too long"))?;
        let output = output.map_err(|error| failed(&error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            // The very last line only says where a log is.
            let why = said.lines().find(|line| line.contains("error")).or_else(|| said.lines().last());
            return Err(failed(why.unwrap_or("it did not say why").trim()));
        }
        let done = marker(dir);
        std::fs::write(&done, LOCK).map_err(|error| folder::cannot("write", &done, error))
    }

    /// Starts it, on the port of last time if that is free: an account is known by the issuer's address. `redirects`
    /// are where it sends people back to, and nowhere else.
    ///
    /// # Errors
    /// `bad_request` when it does not start.
    pub async fn start(dir: &Path, redirects: &[String]) -> Result<Self> {
        let kept = dir.join("port");
        let wanted = folder::read(&kept)?.and_then(|text| text.parse().ok());
        let port = ports::keep_or_choose(wanted)?;
        std::fs::write(&kept, port.to_string()).map_err(|error| folder::cannot("write", &kept, error))?;
        let options = json!({
            "port": port,
            "forget": true,
            "clients": [{
                "client_id": Self::CLIENT,
                "client_secret": folder::password(dir)?,
                "redirect_uris": redirects,
            }],
        });
        let mut process = Command::new("node")
            .arg("server.mjs")
            .current_dir(dir)
            // It has no business with our settings.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::internal)?;
        let silent = || Error::new(&codes::BAD_REQUEST).detail("the local sign-in provider does not start");
        let mut stdin = process.stdin.take().ok_or_else(silent)?;
        let mut lines = BufReader::new(process.stdout.take().ok_or_else(silent)?).lines();
        // By stdin: everybody on the machine can read arguments.
        let said = stdin.write_all(format!("{options}\n").as_bytes()).await;
        said.map_err(|error| silent().source(error))?;
        let line = timeout(START, lines.next_line()).await.map_err(|_| silent())?;
        let line = line.map_err(|error| silent().source(error))?.ok_or_else(silent)?;
        let Listening { issuer } = serde_json::from_str(&line).map_err(|error| silent().source(error))?;
        Ok(Self { issuer, _process: process, stdin })
    }

    /// Moves its clock: what it signs is judged by ours, which may have been moved.
    ///
    /// # Errors
    /// When the provider has ended.
    pub async fn set_ahead(&mut self, milliseconds: i64) -> std::io::Result<()> {
        self.stdin.write_all(format!("{}\n", json!({ "ahead_ms": milliseconds })).as_bytes()).await
    }

    /// Where the client's secret is kept. It is worth nothing beyond this machine.
    ///
    /// # Errors
    /// `bad_request` when there is no current folder.
    pub fn secret_file(dir: &Path) -> Result<PathBuf> {
        let file = dir.join("password");
        std::path::absolute(&file).map_err(|error| folder::cannot("find", &file, error))
    }
}

fn marker(dir: &Path) -> PathBuf {
    dir.join("node_modules/.installed")
}

/// The major version of a program, if it is there: `v20.20.2` is 20.
async fn version_of(program: &str) -> Option<u32> {
    let run = Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = run.await.ok().filter(|output| output.status.success())?;
    let said = String::from_utf8(output.stdout).ok()?;
    said.trim().trim_start_matches('v').split('.').next()?.parse().ok()
}
