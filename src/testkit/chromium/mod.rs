//! A real Chromium without a screen, driven by its DevTools protocol over a pipe: no port is opened and nothing is
//! downloaded.
//!
//! | file | holds |
//! |---|---|
//! | `pipe` | commands and events as they travel |
//! | `tab` | what a person does with one tab, and what they see |
//! | `look.js` | what is wrong with a page that a test cannot see in its text: names, contrast, width |

mod pipe;
mod tab;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use pipe::Pipe;
pub use tab::Tab;

const NEEDED: &str = "the tests need Chromium: run scripts/install-deps.sh --test";
/// In this order; the first that is on the `PATH`.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];

/// A browser with as many people as are wanted. Ends with the value, and with this process however it ends: its pipe
/// closes.
pub struct Chromium {
    pipe: Pipe,
    process: Child,
    profile: TempDir,
}

impl Chromium {
    /// Starts one. It knows this machine and nothing else; `localhost` and the names below it are `server` where one is
    /// given, whatever the port says.
    ///
    /// # Panics
    /// Without Chromium, saying how to get it; when it does not start.
    pub async fn start(server: Option<SocketAddr>) -> Self {
        let program = program();
        let profile = TempDir::new().expect("a temporary folder");
        let to = server.map_or_else(|| "127.0.0.1".to_owned(), |server| server.to_string());
        let mut options = vec![
            "--headless=new".to_owned(),
            "--remote-debugging-pipe".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
            format!(
                "--host-resolver-rules=MAP localhost {to}, MAP *.localhost {to}, EXCLUDE 127.0.0.1, MAP * ~NOTFOUND"
            ),
            "--no-proxy-server".to_owned(),
            "--no-first-run".to_owned(),
            "--no-default-browser-check".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-default-apps".to_owned(),
            "--disable-sync".to_owned(),
            "--disable-gpu".to_owned(),
            // A container's /dev/shm is small.
            "--disable-dev-shm-usage".to_owned(),
            "--disable-features=Translate,OptimizationHints,MediaRouter,HttpsUpgrades".to_owned(),
            "--password-store=basic".to_owned(),
            "--mute-audio".to_owned(),
            "--hide-scrollbars".to_owned(),
        ];
        if nix::unistd::geteuid().is_root() {
            // Chromium refuses to run as root with it. The pages are our own.
            options.push("--no-sandbox".to_owned());
        }
        options.push("about:blank".to_owned());
        let log = std::fs::File::create(profile.path().join("chromium.log")).expect("a log file");
        // The protocol is spoken on the descriptors 3 and 4, which only a shell can name without unsafe code.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
            .arg(&program)
            .args(&options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let stdin = process.stdin.take().expect("its stdin");
        let stdout = process.stdout.take().expect("its stdout");
        let pipe = Pipe::over(stdin, stdout);
        let chromium = Self { pipe, process, profile };
        let version = chromium.pipe.call(None, "Browser.getVersion", json!({})).await;
        if let Err(error) = version {
            let log = std::fs::read_to_string(chromium.profile.path().join("chromium.log"));
            panic!("{} does not start: {error}\n{}", program.display(), log.unwrap_or_default());
        }
        chromium
    }

    /// A person with a browser of their own: no cookie is shared with anybody else's.
    ///
    /// # Panics
    /// When the browser is gone.
    pub async fn person(&self) -> Tab {
        let said = |method: &'static str, params| async move {
            self.pipe.call(None, method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
        };
        let context = said("Target.createBrowserContext", json!({})).await;
        let context = &context["browserContextId"];
        let params =
            json!({ "url": "about:blank", "browserContextId": context, "width": 1280, "height": 860 });
        let target = said("Target.createTarget", params).await;
        let params = json!({ "targetId": target["targetId"], "flatten": true });
        let session = said("Target.attachToTarget", params).await;
        let session = session["sessionId"].as_str().expect("a session").to_owned();
        Tab::new(self.pipe.clone(), session).await
    }

    /// Closes it and waits until it is gone.
    pub async fn close(mut self) {
        self.pipe.call(None, "Browser.close", json!({})).await.ok();
        tokio::time::timeout(Duration::from_secs(10), self.process.wait()).await.ok();
    }
}

/// The first of [`PROGRAMS`] that there is.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = PROGRAMS
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{NEEDED}"))
}

/// Where pictures go: `target/screenshots`, beside what was built, and never into the repository.
pub fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    std::fs::create_dir_all(&folder).expect("a folder for pictures");
    folder
}
