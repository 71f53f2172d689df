//! A real OpenID provider in a process of its own: `oidc-provider` from npm, certified by the OpenID Foundation, behind
//! the small script `tests/idp/server.mjs`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use super::{Browser, Page};
use crate::identity::oidc::settings::{ProviderKind, ProviderSettings};
use crate::kernel::SecretRef;

const CLIENT: &str = "freehold";
const SECRET: &str = "a-client-secret-of-the-tests";

/// The provider. Ends with the value, and with this process however it ends: its stdin closes.
pub struct Idp {
    pub issuer: String,
    settings: ProviderSettings,
    _folder: TempDir,
    _process: Child,
    talk: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

/// The settings of a provider whose client secret is kept in `folder`.
///
/// # Panics
/// When the file cannot be written.
pub fn provider_settings(folder: &Path, id: &str, kind: ProviderKind, issuer: &str) -> ProviderSettings {
    let file = folder.join("client_secret");
    std::fs::write(&file, SECRET).expect("a file for the secret");
    ProviderSettings {
        id: id.to_owned(),
        name: format!("Provider {id}"),
        kind,
        issuer: Some(issuer.to_owned()),
        client_id: CLIENT.to_owned(),
        client_secret: SecretRef::File(file.to_string_lossy().into_owned()),
        api_url: None,
    }
}

impl Idp {
    /// Starts one that knows this site under the provider id `id`.
    ///
    /// # Panics
    /// Without Node.js and npm, saying how to get them; when the packages cannot be had; when it does not start.
    pub async fn start(id: &str) -> Self {
        install();
        let callback = format!("http://localhost/sign-in/{id}/callback");
        let options = json!({ "clients": [
            { "client_id": CLIENT, "client_secret": SECRET, "redirect_uris": [callback] },
        ] });
        let mut process = Command::new("node")
            .arg("server.mjs")
            .current_dir(folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{NEEDED}: {error}"));
        let mut stdin = process.stdin.take().expect("its stdin");
        stdin.write_all(format!("{options}\n").as_bytes()).await.expect("its stdin");
        let stdout = BufReader::new(process.stdout.take().expect("its stdout"));
        let talk = Mutex::new((stdin, stdout.lines()));
        let issuer = hear(&mut talk.lock().await.1).await["issuer"].as_str().expect("an issuer").to_owned();
        let folder = TempDir::new().expect("a temporary folder");
        let settings = provider_settings(folder.path(), id, ProviderKind::Oidc, &issuer);
        Self { issuer, settings, _folder: folder, _process: process, talk }
    }

    pub fn settings(&self) -> ProviderSettings {
        self.settings.clone()
    }

    /// Forgets its keys and signs with a new one from now on.
    pub async fn rotate(&self) {
        let mut talk = self.talk.lock().await;
        talk.0.write_all(b"{\"rotate\":true}\n").await.expect("its stdin");
        assert!(hear(&mut talk.1).await["kid"].is_string());
    }

    /// Takes a browser that is on one of the provider's pages through all of them, as `login`, and gives the address
    /// that the provider sends it back to, not yet opened.
    ///
    /// # Panics
    /// When the provider shows what is not known here.
    pub async fn through(&self, browser: &Browser, page: Page, login: &str) -> Page {
        let inside = |url: &reqwest::Url| url.as_str().starts_with(&self.issuer);
        let mut page = browser.follow(page, inside).await;
        for _ in 0..4 {
            if page.leads_to().is_some_and(|to| !inside(&to)) {
                return page;
            }
            let forms = page.forms();
            let form = forms.first().unwrap_or_else(|| panic!("no form: {} {}", page.status, page.body));
            let filled = browser.submit_once(&page, form, &[("login", login), ("password", "x")]).await;
            page = browser.follow(filled, inside).await;
        }
        panic!("the provider goes on asking: {}", page.url)
    }

    /// Signs in at `sign_in` as `login` and comes back.
    pub async fn sign_in(&self, browser: &Browser, sign_in: &str, login: &str) -> Page {
        let begun =
            browser.ask(reqwest::Method::GET, &sign_in.parse().expect("an address"), None, None).await;
        let back = self.through(browser, begun, login).await;
        browser.follow(back, |_| true).await
    }
}

async fn hear(lines: &mut Lines<BufReader<ChildStdout>>) -> Value {
    let line = lines.next_line().await.expect("its stdout").expect("a line: did the provider start?");
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"))
}

const NEEDED: &str =
    "the tests need Node.js 18 or newer and npm for a real OpenID provider: run scripts/install-deps.sh";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/idp")
}

fn install() {
    npm_ci(&folder());
}

/// `npm ci` in a folder of the repository, unless what its lock file names is there already. One process at a time.
///
/// # Panics
/// Without npm, and when the packages cannot be had.
pub(super) fn npm_ci(folder: &Path) {
    let name = folder.display();
    let lock = File::create(folder.join(".lock")).unwrap_or_else(|error| panic!("a file in {name}: {error}"));
    lock.lock().unwrap_or_else(|error| panic!("the lock of {name}: {error}"));
    let wanted = std::fs::read(folder.join("package-lock.json"))
        .unwrap_or_else(|error| panic!("{name}/package-lock.json: {error}"));
    let done = folder.join("node_modules/.installed");
    if std::fs::read(&done).is_ok_and(|found| found == wanted) {
        return;
    }
    let npm = std::process::Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("{NEEDED}: {error}"));
    assert!(npm.status.success(), "npm ci in {name}: {}", String::from_utf8_lossy(&npm.stderr));
    std::fs::write(&done, wanted).unwrap_or_else(|error| panic!("a file in {name}/node_modules: {error}"));
}
