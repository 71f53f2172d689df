//! Wall clocks that step and disks that are full, for programs that know nothing of it: a small library (`preload.c`) is
//! loaded ahead of the C library. It needs a C compiler, which building Freehold needs too, and no rights.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

const SOURCE: &str = include_str!("preload.c");

/// The library, for any number of processes.
pub struct Preload {
    folder: TempDir,
    library: PathBuf,
}

/// What one process, or several, are told. May change while they run.
pub struct Knob {
    path: PathBuf,
    library: PathBuf,
    says: File,
}

impl Preload {
    /// # Panics
    /// Without a C compiler.
    pub fn build() -> Self {
        let folder = TempDir::new().expect("a folder");
        // PostgreSQL may run as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
        let (source, library) = (folder.path().join("preload.c"), folder.path().join("preload.so"));
        fs::write(&source, SOURCE).expect("our own folder");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let done = compile.output().expect("a C compiler (make deps installs one)");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self { folder, library }
    }

    /// A knob of its own, at rest: the right time, and room.
    ///
    /// # Panics
    /// When the temporary folder cannot be written.
    pub fn knob(&self, name: &str) -> Knob {
        let path = self.folder.path().join(name);
        let says = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        let says = says.expect("our own folder");
        says.write_all_at(&[0; 16], 0).expect("our own file");
        Knob { path, library: self.library.clone(), says }
    }
}

impl Knob {
    /// What a process has to have in its environment.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        [("LD_PRELOAD", text(&self.library)), ("FREEHOLD_PRELOAD_SAYS", text(&self.path))]
    }

    /// Puts the wall clock ahead by so many seconds, or behind.
    ///
    /// # Panics
    /// When our own file cannot be written.
    pub fn clock(&self, seconds: i64) {
        self.says.write_all_at(&seconds.to_ne_bytes(), 0).expect("our own file");
    }

    /// Whether files may not grow.
    ///
    /// # Panics
    /// When our own file cannot be written.
    pub fn full(&self, full: bool) {
        self.says.write_all_at(&i64::from(full).to_ne_bytes(), 8).expect("our own file");
    }
}
