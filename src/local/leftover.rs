//! Servers that an earlier run left behind: it was killed a moment ago and its keepers are still at work, or the
//! keepers were killed too.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::kernel::{Error, Result, codes};

use super::keeper::POLL;

/// Ends the server that works in `folder`, if there is one, and waits until it is gone. A process counts only when
/// its working folder is `folder` *and* its program is one of `programs`: no pid file is trusted, since the number in
/// an old one may belong to anybody by now.
pub async fn stop(folder: &Path, programs: &[&str], steps: &[(Signal, Duration)]) -> Result<()> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    for (signal, time) in steps {
        let deadline = Instant::now() + *time;
        let found = working_in(&folder, programs);
        // PostgreSQL's connections are processes too; only the parent of them all understands "stop".
        for (pid, _) in found.iter().filter(|(_, parent)| !found.contains_key(parent)) {
            let pid = Pid::from_raw(*pid);
            let _ = kill(pid, Signal::SIGCONT);
            let _ = kill(pid, *signal);
        }
        while !working_in(&folder, programs).is_empty() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        if working_in(&folder, programs).is_empty() {
            return Ok(());
        }
    }
    let pids: Vec<_> = working_in(&folder, programs).into_keys().map(|pid| pid.to_string()).collect();
    Err(Error::new(&codes::STATE_CONFLICT)
        .detail(format!("a server of an earlier run does not end (process {})", pids.join(", ")))
        .hint(format!("end it by hand: kill -9 {}", pids.join(" "))))
}

/// Processes of `programs` whose working folder is `folder`, with their parents.
fn working_in(folder: &Path, programs: &[&str]) -> HashMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let process = entry.path();
            if fs::read_link(process.join("cwd")).ok()? != folder {
                return None;
            }
            let program = fs::read_link(process.join("exe")).ok()?;
            let name = program.file_name()?.to_str()?;
            if !programs.iter().any(|program| name.starts_with(program)) {
                return None;
            }
            Some((pid, parent_in(&fs::read_to_string(process.join("stat")).ok()?)?))
        })
        .collect()
}

/// The parent in a line of `/proc/<pid>/stat`: `12 (name) S 11 ...`, where the name may hold spaces and brackets.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_parent_past_an_odd_name() {
        assert_eq!(parent_in("12 (a) b) c) S 11 12 12 0"), Some(11));
        assert_eq!(parent_in("12"), None);
    }
}
