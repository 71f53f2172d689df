//! One process per state folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::kernel::{Error, Result, codes};

use super::folder::cannot;

/// Holds a folder for this process. The kernel frees it when the process ends, however it ends, so no stale lock can
/// be left behind; the file stays, since removing it would let two processes lock two files of one name.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of `folder`, at once or not at all.
    ///
    /// # Errors
    /// `state_conflict`, naming the process that holds it.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join("lock");
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(|error| cannot("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(folder, &mut file)),
            Err(TryLockError::Error(error)) => return Err(cannot("lock", &path, error)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|error| cannot("write", &path, error))?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    /// Said, and not left to the closing: a child that another thread is just about to start has the file open too until
    /// it begins its own program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

fn held(folder: &Path, file: &mut File) -> Error {
    let mut text = String::new();
    // The holder may not have written its id yet; then the message does without.
    let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
    let (who, hint) = match pid {
        Some(pid) => (format!("process {pid}"), format!("stop it first (kill {pid})")),
        None => ("another process".to_owned(), "stop it first".to_owned()),
    };
    Error::new(&codes::STATE_CONFLICT)
        .detail(format!("the state folder {} is in use by {who}", folder.display()))
        .hint(format!("{hint}, or choose another folder with FREEHOLD_HOME"))
}
