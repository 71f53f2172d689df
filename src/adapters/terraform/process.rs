//! Starts Terraform so that it survives us, and follows what it says.
//!
//! Its output goes to files, never to a pipe: a Terraform whose reader dies ends by SIGPIPE and saves nothing. It has a
//! process group of its own, so that a signal to ours is not its. It is never killed: when what waits for it is dropped, it
//! goes on, and the next run waits for it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::events::{self, Event};
use super::folder::RunFolder;
use super::version;
use crate::kernel::{Error, Result, codes};

/// How often its output is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// After being asked to stop, it finishes what is in flight. A database server in the making is in flight for long.
const AFTER_STOP: Duration = Duration::from_secs(20 * 60);

/// What to run, without what all runs have in common.
#[derive(Debug)]
pub struct Call<'a> {
    pub args: Vec<String>,
    /// stdout goes to `<name>.jsonl` and stderr to `<name>.err` in the run's folder.
    pub name: &'a str,
    pub env: Vec<(String, String)>,
}

/// A Terraform at work.
#[derive(Debug)]
pub struct Running {
    child: Child,
    begun: Instant,
    asked: bool,
}

/// Starts it in the run's copy of the root, with this environment and nothing of ours.
///
/// # Errors
/// `infra_unavailable` when there is no such program.
pub fn start(program: &Path, folder: &RunFolder, call: &Call<'_>) -> Result<Running> {
    let open =
        |end: &str| File::create(folder.file(&format!("{}.{end}", call.name))).map_err(Error::internal);
    let child = Command::new(program)
        .args(&call.args)
        .current_dir(folder.root())
        .env_clear()
        .envs(call.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(open("jsonl")?)
        .stderr(open("err")?)
        .process_group(0)
        .spawn()
        .map_err(|error| version::absent(program, error))?;
    if let Some(pid) = child.id() {
        folder.claim(pid).map_err(Error::internal)?;
    }
    Ok(Running { child, begun: Instant::now(), asked: false })
}

impl Running {
    /// Asks it to stop, once: a second signal would make it drop what it is at, and its state with it.
    pub fn stop(&mut self) {
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        if !std::mem::replace(&mut self.asked, true) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
    }

    /// Whether it has ended, and how. After `limit` it is asked to stop; long after that, it is left to itself.
    ///
    /// # Errors
    /// `timeout` when it does not end.
    fn look(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        if let Some(status) = self.child.try_wait().map_err(Error::internal)? {
            return Ok(Some(status));
        }
        if self.begun.elapsed() > limit {
            self.stop();
        }
        if self.begun.elapsed() > limit + AFTER_STOP {
            return Err(Error::new(&codes::TIMEOUT).detail("Terraform was asked to stop and goes on"));
        }
        Ok(None)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// As [`Running::look`].
    pub async fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.look(limit)? {
                return Ok(status);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Reads the events that a file has got since the last look.
#[derive(Debug)]
pub struct Tail {
    file: File,
    at: u64,
    /// The beginning of a line that is not all there yet.
    rest: Vec<u8>,
}

impl Tail {
    pub fn of(path: &Path) -> Result<Self> {
        Ok(Self { file: File::open(path).map_err(Error::internal)?, at: 0, rest: Vec::new() })
    }

    /// What is new. The line that a killed Terraform did not finish never is.
    ///
    /// # Errors
    /// `infra_unavailable` when the format is not known.
    pub fn more(&mut self) -> Result<Vec<Event>> {
        self.file.seek(SeekFrom::Start(self.at)).map_err(Error::internal)?;
        let read = self.file.read_to_end(&mut self.rest).map_err(Error::internal)?;
        self.at += read as u64;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        let mut found = Vec::new();
        for line in lines.split(|byte| *byte == b'\n') {
            found.extend(events::parse(&String::from_utf8_lossy(line))?);
        }
        Ok(found)
    }
}

/// How long [`Follower::next`] waits between looks, for callers that wait with it.
pub const fn pause() -> Duration {
    LOOK
}

/// One look at a process that reports events: the new ones, and its end when it has come.
///
/// # Errors
/// As [`Running::look`] and [`Tail::more`].
pub fn look(
    running: &mut Running,
    tail: &mut Tail,
    limit: Duration,
) -> Result<(Vec<Event>, Option<ExitStatus>)> {
    // First the end, then the file: what it wrote last is there by then.
    let ended = running.look(limit)?;
    Ok((tail.more()?, ended))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::unistd::{getpgid, getpgrp};

    use super::*;

    /// Ctrl-C in a terminal, and a service that is stopped, are signals to our group: Terraform goes on with what it has in hand.
    ///
    /// Shown to fail: without `process_group`.
    #[tokio::test]
    async fn a_signal_to_us_is_none_to_terraform() {
        let work = tempfile::tempdir().expect("a folder");
        let roots = Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform");
        let folder = RunFolder::make(work.path(), &roots, "tenant", "ten_1").expect("a run's folder");
        let call = Call { args: vec!["60".to_owned()], name: "sleep", env: Vec::new() };
        let mut running = start(Path::new("/bin/sleep"), &folder, &call).expect("it starts");
        let pid = Pid::from_raw(running.child.id().expect("it runs").cast_signed());
        assert_eq!(getpgid(Some(pid)).expect("its group"), pid);
        assert_ne!(getpgrp(), pid);
        running.stop();
        assert!(!running.end(Duration::from_secs(60)).await.expect("it ends").success());
    }

    /// A second signal would make it drop what it is at. Shown to fail: without `asked`.
    #[tokio::test]
    async fn it_is_asked_to_stop_once() {
        let work = tempfile::tempdir().expect("a folder");
        let roots = Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform");
        let folder = RunFolder::make(work.path(), &roots, "tenant", "ten_1").expect("a run's folder");
        let script =
            "trap 'echo asked' TERM; echo ready; for turn in 1 2 3 4 5 6 7 8 9; do /bin/sleep 0.2; done";
        let call = Call { args: vec!["-c".to_owned(), script.to_owned()], name: "sh", env: Vec::new() };
        let mut running = start(Path::new("/bin/sh"), &folder, &call).expect("it starts");
        let said = || std::fs::read_to_string(folder.file("sh.jsonl")).expect("what it said");
        let says = async |word: &str| {
            while !said().contains(word) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let minute = Duration::from_secs(60);
        tokio::time::timeout(minute, says("ready")).await.expect("it is ready");
        running.stop();
        tokio::time::timeout(minute, says("asked")).await.expect("it hears");
        running.stop();
        assert!(running.end(minute).await.expect("it ends").success());
        assert_eq!(said(), "ready\nasked\n");
    }

    #[test]
    fn a_line_is_read_when_it_is_whole() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let mut tail = Tail::of(file.path()).expect("opened");
        let line = r#"{"type":"resource_drift","change":{"resource":{"addr":"a.b"},"action":"update"}}"#;
        let (first, second) = line.split_at(30);
        write!(file, "{first}").expect("written");
        assert!(tail.more().expect("read").is_empty());
        writeln!(file, "{second}").expect("written");
        write!(file, "{first}").expect("written");
        assert_eq!(tail.more().expect("read").len(), 1);
        assert!(tail.more().expect("read").is_empty());
        writeln!(file, "{second}\n{line}").expect("written");
        assert_eq!(tail.more().expect("read").len(), 2);
    }
}
