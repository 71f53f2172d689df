//! `freehold dev` as somebody meets it who has just cloned the repository: its screen, a browser, a second terminal.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use freehold::testkit::chromium::{Chromium, Tab};
use freehold::testkit::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr};
use tokio::task::JoinHandle;

use super::fixture::say_who;
use crate::process::freehold;

/// The first start fetches the provider's packages.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running `freehold dev`.
struct Dev {
    child: Child,
    screen: String,
    /// Read all the while: whoever stops reading a pipe stops the writer.
    stderr: JoinHandle<String>,
}

impl Dev {
    async fn start(home: &Path, path: Option<&Path>) -> Self {
        let mut command = freehold(&["dev", "--http-addr", "127.0.0.1:0"], home);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let stderr = tokio::spawn(async move {
            let mut said = String::new();
            stderr.read_to_string(&mut said).await.unwrap();
            said
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut screen = String::new();
        let reading = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                screen += &line;
                screen.push('\n');
                if line.contains("Stop with Ctrl-C") {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("it is ready in time");
        assert!(screen.contains("Stop with Ctrl-C"), "{screen}");
        Self { child, screen, stderr }
    }

    /// The address on the line that begins so.
    fn address(&self, what: &str) -> String {
        let line = self.screen.lines().find_map(|line| line.trim().strip_prefix(what));
        let address = line.and_then(|rest| rest.split_whitespace().next());
        address.unwrap_or_else(|| panic!("no {what} in {}", self.screen)).to_owned()
    }

    async fn stop(mut self) -> String {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it stops").unwrap();
        let said = self.stderr.await.unwrap();
        assert!(ended.success(), "{said}");
        said
    }
}

/// The arguments of every process, as anybody on the machine can read them.
fn arguments() -> String {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ") + "\n").collect()
}

/// Opens the mailbox until it has a mail to this address.
async fn mail_to(tab: &Tab, mailbox: &str, address: &str) {
    eventually(PATIENCE, &format!("a mail to {address}"), async || {
        tab.open(mailbox).await;
        tab.see("Nothing is sent.").await;
        match tab.text().await {
            text if text.contains(&format!("To {address}")) => Ok(()),
            text => Err(text),
        }
    })
    .await;
}

async fn code_in(lines: &mut Lines<BufReader<ChildStderr>>) -> String {
    let mut said = String::new();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            said += &line;
            if let Some((_, url)) = line.split_once("Open ") {
                return url.split_whitespace().next().map(str::to_owned);
            }
        }
        None
    };
    let url = tokio::time::timeout(PATIENCE, reading).await.expect("it says where to go");
    url.unwrap_or_else(|| panic!("no address: {said}"))
}

/// Sign up with the local provider → workspace ready → invite → a second person joins by the mail → both see the same
/// task. From a terminal: `freehold login`, `whoami`, a call of the API with the token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_is_clicked_through() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("state");
    let dev = Dev::start(&home, None).await;
    let (sign_up, mailbox) = (dev.address("sign up "), dev.address("mail "));
    let secret = std::fs::read_to_string(home.join("idp/password")).unwrap();
    let arguments = arguments();
    assert!(arguments.contains("server.mjs"), "the provider runs: {arguments}");
    // Shown to fail: the options as an argument of node.
    assert!(!arguments.contains(secret.trim()), "the client's secret among the arguments");

    let chromium = Chromium::start(None).await;
    let ada = chromium.person().await;
    ada.open(&sign_up).await;
    ada.click("Continue with the local provider (development only)").await;
    ada.see("Development only.").await;
    say_who(&ada, "ada.l@analytical.example").await;
    ada.fill("Name", "Analytical").await;
    ada.see("This address is free.").await;
    ada.click("Create workspace").await;
    ada.see("No projects yet").await;
    let host = format!("analytical.localhost:{}", sign_up.rsplit(':').next().unwrap().replace("/signup", ""));
    assert!(ada.url().await.starts_with(&format!("http://{host}/projects")), "{}", ada.url().await);
    ada.fill("New project", "Notes").await;
    ada.click("Add project").await;
    ada.click("Notes").await;
    ada.fill("New task", "Note G").await;
    ada.click("Add task").await;
    ada.see("Note G").await;
    ada.click("Members").await;
    ada.fill("E-mail address", "grace@example.com").await;
    ada.click("Invite").await;
    ada.see("Invited").await;

    let grace = chromium.person().await;
    mail_to(&grace, &mailbox, "grace@example.com").await;
    grace.picture("dev-mail").await;
    grace.click("Open the link").await;
    grace.click("Sign in to accept").await;
    grace.click("Continue with the local provider (development only)").await;
    say_who(&grace, "grace").await;
    grace.click("Accept as Grace Hopper").await;
    grace.arrive(&format!("http://{host}/projects")).await;
    grace.click("Notes").await;
    grace.see("Note G").await;

    // In another terminal.
    let mut login = freehold(&["login"], &home).spawn().unwrap();
    let mut lines = BufReader::new(login.stderr.take().unwrap()).lines();
    ada.open(&code_in(&mut lines).await).await;
    ada.click("Yes, sign it in").await;
    ada.see("The device is signed in").await;
    let rest = async { while let Ok(Some(_)) = lines.next_line().await {} };
    let (ended, ()) = tokio::join!(login.wait(), rest);
    assert!(ended.unwrap().success());
    let said = async |args: &[&str]| {
        let output = freehold(args, &home).output().await.unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let who = said(&["whoami"]).await;
    assert!(who.contains("ada.l@analytical.example") && who.contains("analytical"), "{who}");
    let token = said(&["token", "--tenant", "analytical"]).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let server = dev.address("server ");
    let ask = client.get(format!("{server}/api/v1/tasks")).header("host", &host).bearer_auth(token);
    let tasks: Value = ask.send().await.unwrap().json().await.unwrap();
    assert_eq!(tasks["items"][0]["title"], "Note G", "{tasks}");

    for tab in [&ada, &grace] {
        tab.assert_quiet();
    }
    chromium.close().await;
    dev.stop().await;

    // The next start has the same people: the provider is at the same address.
    let again = Dev::start(&home, None).await;
    let chromium = Chromium::start(None).await;
    let ada = chromium.person().await;
    ada.open(&again.address("sign up ")).await;
    ada.click("Continue with the local provider (development only)").await;
    say_who(&ada, "ada.l@analytical.example").await;
    ada.see("Name your workspace").await;
    ada.click("Workspaces").await;
    ada.see("Analytical").await;
    chromium.close().await;
    again.stop().await;
}

/// Without Node.js everything but signing in works, and the screen does not offer it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_goes_on_without_node() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for from in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        for file in std::fs::read_dir(from).into_iter().flatten().flatten() {
            let name = file.file_name();
            if !["node", "nodejs", "npm", "npx"].iter().any(|not| name == *not) {
                // Of two of a name, the first is what the PATH means.
                symlink(file.path(), bin.join(name)).ok();
            }
        }
    }
    let dev = Dev::start(&folder.path().join("state"), Some(&bin)).await;
    for missing in ["sign up", "login"] {
        assert!(!dev.screen.contains(missing), "{}", dev.screen);
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let server = dev.address("server ");
    let page = client.get(format!("{server}/sign-in")).header("host", "localhost").send().await.unwrap();
    assert!(page.text().await.unwrap().contains("No way to sign in has been set up here"));
    let said = dev.stop().await;
    assert!(said.contains("no sign-in for people: it takes Node.js 18"), "{said}");
}
