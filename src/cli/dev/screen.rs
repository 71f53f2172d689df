//! What `freehold dev` prints.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::demo::Demo;
use super::mailbox;
use super::money::Money;
use super::sign_in::People;
use crate::config::ControlConfig;
use crate::identity::settings::Settings;

/// A line about what is going on. On stderr, as all progress.
pub fn say(what: &str) {
    anstream::eprintln!("freehold dev: {what} …");
}

/// A line about what is not as one may expect.
pub fn note(what: &str) {
    anstream::eprintln!("freehold dev: note: {what}");
}

/// How people get in, and where their mail is.
#[derive(Clone, Copy, Debug)]
pub struct WaysIn {
    /// There is a provider at all.
    pub sign_in: bool,
    /// It is the local one.
    pub local: bool,
    /// Mail is shown on a page.
    pub mailbox: bool,
    /// The dashboard of the stand-in for Stripe.
    pub stripe: Option<SocketAddr>,
}

impl WaysIn {
    pub fn of(people: &People, settings: &Settings, money: &Money) -> Self {
        Self {
            sign_in: !settings.providers.is_empty(),
            local: people.provider.is_some(),
            mailbox: people.mailbox.is_some(),
            stripe: money.dashboard(),
        }
    }
}

/// The screen that says where everything is, on stdout.
pub fn ready(addr: SocketAddr, control: &ControlConfig, demos: &[Demo], ways_in: &WaysIn, took: Duration) {
    let styles =
        if std::io::stdout().is_terminal() { ["\x1b[1m", "\x1b[2m", "\x1b[0m"] } else { ["", "", ""] };
    let text = text(addr, &control.home.display().to_string(), demos, *ways_in, took, &program(), styles);
    let mut out = std::io::stdout().lock();
    // A closed pipe is no reason to stop serving.
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

/// How this program is called from here.
fn program() -> String {
    let program =
        std::env::current_exe().map_or_else(|_| "freehold".to_owned(), |path| path.display().to_string());
    std::env::current_dir()
        .ok()
        .and_then(|here| program.strip_prefix(&format!("{}/", here.display())).map(str::to_owned))
        .unwrap_or(program)
}

fn text(
    addr: SocketAddr,
    home: &str,
    demos: &[Demo],
    ways_in: WaysIn,
    took: Duration,
    program: &str,
    [bold, dim, plain]: [&str; 3],
) -> String {
    let (base, seconds) = (format!("http://localhost:{}", addr.port()), took.as_secs_f64());
    let mut text = format!("\n{bold}Freehold is ready{plain} {dim}({seconds:.1} s){plain}\n\n");
    let mut row = |what: &str, is: &str, note: &str| {
        let note = if note.is_empty() { String::new() } else { format!("  {dim}{note}{plain}") };
        writeln!(text, "  {what:<9} {is}{note}").ok();
    };
    if ways_in.sign_in {
        let note = if ways_in.local { "as anybody: development only" } else { "" };
        row("sign up", &format!("{base}/signup"), note);
    }
    if ways_in.mailbox {
        row("mail", &format!("{base}{}", mailbox::PATH), "nothing is sent");
    }
    if let Some(addr) = ways_in.stripe {
        row(
            "Stripe",
            &format!("http://{addr}"),
            "a stand-in: nobody is charged; its clock moves the platform's",
        );
    }
    row("server", &format!("http://{addr}"), "");
    row("API docs", &format!("{base}/docs"), "");
    row("metrics", &format!("{base}/metrics"), "");
    row("state", home, "");
    for demo in demos {
        let (slug, key, host) =
            (demo.slug, &demo.key, format!("http://{}.localhost:{}", demo.slug, addr.port()));
        writeln!(
            text,
            "\n{bold}{slug}{plain}      {host}\n  curl -s -H 'Authorization: Bearer {key}' {host}/api/v1/projects"
        )
        .ok();
    }
    let login = if ways_in.sign_in {
        format!("  {program} login    # as the person of your browser; then: {program} whoami\n")
    } else {
        String::new()
    };
    writeln!(
        text,
        "\nTry, in another terminal in this folder:\n{login}  {program} tenant list\n  {program} tenant create initech --plan team\n  {program} doctor\n\nStop with Ctrl-C. The data stays; start over with --reset."
    )
    .ok();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(ways_in: WaysIn) -> String {
        let addr = SocketAddr::from(([127, 0, 0, 1], 8080));
        text(addr, ".freehold", &[], ways_in, Duration::from_secs(2), "freehold", ["", "", ""])
    }

    #[test]
    fn it_offers_what_there_is() {
        let whole = screen(WaysIn {
            sign_in: true,
            local: true,
            mailbox: true,
            stripe: Some(SocketAddr::from(([127, 0, 0, 1], 8090))),
        });
        for said in [
            "sign up   http://localhost:8080/signup  as anybody: development only",
            "mail      http://localhost:8080/dev/mail",
            "Stripe    http://127.0.0.1:8090  a stand-in",
            "freehold login",
        ] {
            assert!(whole.contains(said), "{whole}");
        }
        let bare = screen(WaysIn { sign_in: false, local: false, mailbox: false, stripe: None });
        for missing in ["sign up", "mail", "login", "Stripe"] {
            assert!(!bare.contains(missing), "{bare}");
        }
        assert!(bare.contains("server    http://127.0.0.1:8080\n"), "{bare}");
    }
}
