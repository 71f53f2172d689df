//! Finds the server programs: on the `PATH`, then where Debian and Red Hat keep PostgreSQL's.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kernel::{Error, Result, codes};

/// The oldest PostgreSQL that has all we use.
pub const POSTGRES_MIN: u32 = 15;

const HINT: &str =
    "run `make deps` (Debian, Ubuntu), or install PostgreSQL 15 or newer and Redis 6.2 or newer";

/// PostgreSQL's programs, all of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    /// The folder of `initdb`, `postgres`, `psql`, `pg_dump`.
    pub bin: PathBuf,
    /// Its major version: 15, 16, ...
    pub major: u32,
}

impl Postgres {
    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// Where to look. [`Places::system`] is this machine; tests give their own.
#[derive(Clone, Debug)]
pub struct Places {
    /// As in the environment variable: folders with colons between.
    pub path: OsString,
    /// Folders whose children named by a version hold a `bin`, such as `/usr/lib/postgresql`.
    pub versioned: Vec<PathBuf>,
}

impl Places {
    pub fn system() -> Self {
        let versioned = ["/usr/lib/postgresql", "/usr"].map(PathBuf::from).to_vec();
        Self { path: std::env::var_os("PATH").unwrap_or_default(), versioned }
    }

    /// PostgreSQL to make a new server with: the first on the `PATH` that is new enough, else the newest there is.
    ///
    /// # Errors
    /// `bad_request` with a hint when there is none, or only older ones.
    pub fn postgres(&self) -> Result<Postgres> {
        let found = self.all_postgres();
        if let Some(postgres) = found.iter().find(|postgres| postgres.major >= POSTGRES_MIN) {
            return Ok(postgres.clone());
        }
        let detail = match found.first() {
            None => "no PostgreSQL server programs (initdb, postgres) were found".to_owned(),
            Some(old) => format!(
                "PostgreSQL {} in {} is too old; {POSTGRES_MIN} or newer is needed",
                old.major,
                old.bin.display()
            ),
        };
        Err(Error::new(&codes::BAD_REQUEST).detail(detail).hint(HINT))
    }

    /// PostgreSQL of exactly this major version: data of one version cannot be opened by another.
    ///
    /// # Errors
    /// `bad_request` with a hint when it is not there.
    pub fn postgres_of(&self, major: u32) -> Result<Postgres> {
        self.all_postgres().into_iter().find(|postgres| postgres.major == major).ok_or_else(|| {
            Error::new(&codes::BAD_REQUEST)
                .detail(format!("the data was made by PostgreSQL {major}, which is no longer installed"))
                .hint(format!("install PostgreSQL {major}, or start over with `freehold dev --reset`"))
        })
    }

    /// The Redis server program, or Valkey's, which takes the same configuration.
    ///
    /// # Errors
    /// `bad_request` with a hint when there is none.
    pub fn redis(&self) -> Result<PathBuf> {
        ["redis-server", "valkey-server"].iter().find_map(|name| self.on_path(name)).ok_or_else(|| {
            Error::new(&codes::BAD_REQUEST).detail("no redis-server program was found").hint(HINT)
        })
    }

    /// What is on the `PATH` first, then the versioned folders, newest first. Asking a program for its version costs a
    /// process, so those whose folder name tells it are not asked.
    fn all_postgres(&self) -> Vec<Postgres> {
        let mut found = Vec::new();
        if let Some(bin) = self.on_path("postgres").and_then(|program| complete(program.parent()?))
            && let Some(major) = ask_major(&bin)
        {
            found.push(Postgres { bin, major });
        }
        let mut versioned = self
            .versioned
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let major = major_in_name(&entry.file_name())?;
                Some(Postgres { bin: complete(&entry.path().join("bin"))?, major })
            })
            .collect::<Vec<_>>();
        versioned.sort_by_key(|postgres| std::cmp::Reverse(postgres.major));
        found.extend(versioned);
        found
    }

    fn on_path(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|folder| folder.join(name)).find(|program| program.is_file())
    }
}

/// `bin` when it holds a whole server: a client-only package has `psql` but no `initdb`.
fn complete(bin: &Path) -> Option<PathBuf> {
    ["postgres", "initdb"].iter().all(|name| bin.join(name).is_file()).then(|| bin.to_owned())
}

/// `15` (Debian) or `pgsql-15` (Red Hat).
fn major_in_name(name: &OsStr) -> Option<u32> {
    let name = name.to_str()?;
    name.strip_prefix("pgsql-").unwrap_or(name).parse().ok()
}

fn ask_major(bin: &Path) -> Option<u32> {
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, also of a beta such as `19beta1`.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL) ")?.1;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(parse_major("something else"), None);
        assert_eq!(major_in_name(OsStr::new("pgsql-16")), Some(16));
        assert_eq!(major_in_name(OsStr::new("16")), Some(16));
        assert_eq!(major_in_name(OsStr::new("share")), None);
    }
}
