//! What `freehold dev` prints.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::demo::Demo;
use crate::config::ControlConfig;

/// A line about what is going on. On stderr, as all progress.
pub fn say(what: &str) {
    anstream::eprintln!("freehold dev: {what} …");
}

/// The screen that says where everything is, on stdout.
pub fn ready(addr: SocketAddr, control: &ControlConfig, demos: &[Demo], took: Duration) {
    let port = addr.port();
    let (bold, dim, plain) =
        if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let program =
        std::env::current_exe().map_or_else(|_| "freehold".to_owned(), |path| path.display().to_string());
    let program = std::env::current_dir()
        .ok()
        .and_then(|here| program.strip_prefix(&format!("{}/", here.display())).map(str::to_owned))
        .unwrap_or(program);
    let mut text = format!(
        "\n{bold}Freehold is ready{plain} {dim}({:.1} s){plain}\n\n  server    http://{addr}\n  API docs  http://localhost:{port}/docs\n  metrics   http://localhost:{port}/metrics\n  state     {}\n",
        took.as_secs_f64(),
        control.home.display(),
    );
    for demo in demos {
        text += &format!(
            "\n{bold}{slug}{plain}      http://{slug}.localhost:{port}\n  curl -s -H 'Authorization: Bearer {key}' http://{slug}.localhost:{port}/api/v1/projects\n",
            slug = demo.slug,
            key = demo.key,
        );
    }
    text += &format!(
        "\nTry, in another terminal in this folder:\n  {program} tenant list\n  {program} tenant create initech --plan team\n  {program} doctor\n\nStop with Ctrl-C. The data stays; start over with --reset.\n"
    );
    let mut out = std::io::stdout().lock();
    // A closed pipe is no reason to stop serving.
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}
