//! The folder of one run: a copy of the root and of the modules, and what Terraform says. Each run has one of its own, so
//! that what a dying Terraform leaves (`errored.tfstate`) is never another's.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

/// How the programs of providers are called.
const PROVIDER: &str = "terraform-provider-";

/// `<work>/runs/<root>/<workspace>/<id>/`, with the root's copy inside, beside `modules/`.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    root: String,
    /// Held by whoever the run belongs to, and let go by the system when that process ends, however it ends. Between two
    /// commands of one run nobody works in the folder, and it is not abandoned.
    owner: Option<Arc<Flock<File>>>,
}

impl PartialEq for RunFolder {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl RunFolder {
    /// Makes one, with a fresh copy of the code.
    pub fn make(work: &Path, roots: &Path, root: &str, workspace: &str) -> io::Result<Self> {
        let path = work.join("runs").join(root).join(workspace).join(Uuid::now_v7().to_string());
        std::fs::create_dir_all(&path)?;
        let copied = copy(&roots.join("modules"), &path.join("modules"))
            .and_then(|()| copy(&roots.join(root), &path.join(root)));
        if let Err(error) = copied {
            std::fs::remove_dir_all(&path).ok();
            return Err(error);
        }
        // Terraform asks for the folder it stands in, and the answer has no symbolic links.
        let mut folder = Self { path: path.canonicalize()?, root: root.to_owned(), owner: None };
        if !folder.take()? {
            return Err(io::Error::other("a folder that was just made belongs to somebody"));
        }
        Ok(folder)
    }

    /// What earlier runs of this state have left, oldest first.
    pub fn leftovers(work: &Path, root: &str, workspace: &str) -> io::Result<Vec<Self>> {
        let all = match std::fs::read_dir(work.join("runs").join(root).join(workspace)) {
            Ok(all) => all,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut paths = Vec::new();
        for one in all {
            match one.and_then(|one| one.path().canonicalize()) {
                Ok(path) => paths.push(path),
                // Its owner has just removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        paths.sort();
        Ok(paths.into_iter().map(|path| Self { path, root: root.to_owned(), owner: None }).collect())
    }

    /// Whether its run began before another's of the same state: folders are named after the time, and no two alike.
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.path < other.path
    }

    /// Makes it ours, unless it belongs to a run that goes on. True as well when somebody has removed it meanwhile.
    pub fn take(&mut self) -> io::Result<bool> {
        // Asked again, the system would refuse it to ourselves.
        if self.owner.is_some() {
            return Ok(true);
        }
        let file = match OpenOptions::new().create(true).append(true).open(self.file("owner")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                self.owner = Some(Arc::new(lock));
                Ok(true)
            }
            Err((_, Errno::EWOULDBLOCK)) => Ok(false),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Where Terraform stands.
    pub fn root(&self) -> PathBuf {
        self.path.join(&self.root)
    }

    /// A file beside the code.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The state that Terraform could not write where it belongs.
    pub fn errored_state(&self) -> Option<PathBuf> {
        let file = self.root().join("errored.tfstate");
        file.exists().then_some(file)
    }

    /// What it said while it applied.
    pub fn events(&self) -> PathBuf {
        self.file("apply.jsonl")
    }

    /// Notes who works here.
    pub fn claim(&self, pid: u32) -> io::Result<()> {
        std::fs::write(self.file("pid"), pid.to_string())
    }

    /// The process that works here still, if one does. A provider whose Terraform is gone works for nobody.
    pub fn worker(&self) -> Option<u32> {
        if let Some((pid, _)) = self.by_proc().into_iter().find(|(_, provider)| !provider) {
            return Some(pid);
        }
        if Path::new("/proc/self/cwd").exists() {
            return None;
        }
        // Elsewhere the note is all there is; a process that is not ours to signal is not ours.
        let pid: i32 = std::fs::read_to_string(self.file("pid")).ok()?.parse().ok()?;
        kill(Pid::from_raw(pid), None).is_ok().then(|| u32::try_from(pid).unwrap_or(0))
    }

    /// Ends the providers that a killed Terraform has left: they would go on with what they had in hand, behind the back of
    /// whoever looks for it.
    pub fn end_providers(&self) {
        for (pid, _) in self.by_proc().into_iter().filter(|(_, provider)| *provider) {
            if let Ok(pid) = i32::try_from(pid) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }

    /// Whoever stands in the root's copy, and whether it is a provider: found also when its parent was killed before it could
    /// note the number, and never mistaken for another that was given the number later.
    fn by_proc(&self) -> Vec<(u32, bool)> {
        let root = self.root();
        let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
        let here = all.filter_map(Result::ok).filter_map(|one| {
            let pid: u32 = one.file_name().to_str()?.parse().ok()?;
            // The dead that nobody has waited for have no folder any more; the provider stands where Terraform does.
            if std::fs::read_link(one.path().join("cwd")).ok()? != root {
                return None;
            }
            let program = std::fs::read_link(one.path().join("exe")).unwrap_or_default();
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Some((pid, name.starts_with(PROVIDER)))
        });
        here.collect()
    }

    /// Removes it with all that is in it.
    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Copies a folder of code: no tests, no leavings of somebody who ran Terraform in it by hand.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for one in std::fs::read_dir(from)? {
        let one = one?;
        let name = one.file_name();
        let text = name.to_string_lossy();
        if one.file_type()?.is_dir() {
            if text != "tests" && !text.starts_with('.') {
                copy(&one.path(), &to.join(&name))?;
            }
        } else if text.ends_with(".tf") || text == ".terraform.lock.hcl" {
            std::fs::copy(one.path(), to.join(&name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform")
    }

    #[test]
    fn a_run_has_the_code_and_nothing_else() {
        let work = tempfile::tempdir().expect("a folder");
        let run = RunFolder::make(work.path(), &roots(), "tenant", "ten_1").expect("a run's folder");
        assert!(run.root().join("main.tf").exists());
        assert!(run.root().join(".terraform.lock.hcl").exists());
        assert!(run.file("modules/tenant/main.tf").exists());
        assert!(!run.root().join("tests").exists());
        let another = RunFolder::make(work.path(), &roots(), "tenant", "ten_1").expect("another");
        let found = RunFolder::leftovers(work.path(), "tenant", "ten_1").expect("both");
        assert!(run.is_older_than(&another) && !another.is_older_than(&run) && !run.is_older_than(&run));
        assert_eq!(found, [run.clone(), another]);
        run.remove().expect("removed");
        run.remove().expect("removed twice");
        assert_eq!(RunFolder::leftovers(work.path(), "tenant", "ten_1").expect("one").len(), 1);
        assert!(RunFolder::leftovers(work.path(), "tenant", "ten_2").expect("none").is_empty());
    }

    /// Shown to fail: with a `take` that does not lock.
    #[test]
    fn a_run_that_goes_on_is_not_abandoned() {
        let work = tempfile::tempdir().expect("a folder");
        let run = RunFolder::make(work.path(), &roots(), "tenant", "ten_1").expect("a run's folder");
        let mut left = RunFolder::leftovers(work.path(), "tenant", "ten_1").expect("found");
        assert!(!left[0].take().expect("asked"));
        drop(run);
        assert!(left[0].take().expect("asked"));
        assert!(left[0].take().expect("asked"), "it is ours already");
        left[0].remove().expect("removed");
        assert!(left[0].take().expect("asked"), "somebody else was faster");
    }

    /// A killed Terraform leaves its provider behind, which waits for orders for ever.
    ///
    /// Shown to fail: with `worker` finding providers too, the next run waits for one in vain.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_provider_alone_works_for_nobody() {
        let work = tempfile::tempdir().expect("a folder");
        let run = RunFolder::make(work.path(), &roots(), "tenant", "ten_1").expect("a run's folder");
        let sleep = ["/bin/sleep", "/usr/bin/sleep"].into_iter().find(|path| Path::new(path).exists());
        let program = work.path().join(format!("{PROVIDER}aws_v5"));
        std::fs::copy(sleep.expect("sleep"), &program).expect("a program");
        let mut child = std::process::Command::new(&program)
            .arg("60")
            .current_dir(run.root())
            .spawn()
            .expect("it starts");
        assert_eq!(run.worker(), None);
        assert_eq!(run.by_proc(), [(child.id(), true)]);
        run.end_providers();
        assert!(!child.wait().expect("ended").success());
        assert_eq!(run.by_proc(), []);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_works_in_it_is_known() {
        let work = tempfile::tempdir().expect("a folder");
        let run = RunFolder::make(work.path(), &roots(), "tenant", "ten_1").expect("a run's folder");
        assert_eq!(run.worker(), None);
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(run.root()).spawn().expect("sleep");
        assert_eq!(run.worker(), Some(child.id()));
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!(run.worker(), None);
    }
}
