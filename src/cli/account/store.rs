//! Who is signed in where: one file, readable for its owner alone.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::client::origin;
use crate::cli::Globals;
use crate::config::home;
use crate::kernel::{Error, Result, codes};
use crate::local::write_private;

/// The file's content, and where it is.
pub struct Store {
    file: PathBuf,
    kept: Kept,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// Where the person signed in last.
    current: Option<String>,
    logins: BTreeMap<String, Login>,
}

/// A session on one server.
#[derive(Serialize, Deserialize)]
pub struct Login {
    pub refresh_token: String,
    /// By tenant; the empty name is the person's own.
    pub access: BTreeMap<String, Access>,
}

impl Login {
    pub fn new(refresh_token: String) -> Self {
        Self { refresh_token, access: BTreeMap::new() }
    }
}

/// An access token that may still be good.
#[derive(Clone, Serialize, Deserialize)]
pub struct Access {
    pub token: String,
    pub expires_at: DateTime<Utc>,
}

impl Store {
    pub fn open(globals: &Globals) -> Result<Self> {
        let file = file(globals)?;
        let kept = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Error::new(&codes::BAD_REQUEST)
                    .detail(format!("{} cannot be read: {error}", file.display()))
                    .hint("remove it and sign in again: freehold login")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(error) => {
                return Err(Error::new(&codes::BAD_REQUEST)
                    .detail(format!("{} cannot be read: {error}", file.display()))
                    .source(error));
            }
        };
        Ok(Self { file, kept })
    }

    /// The server that is meant: the one that was named, the one of the last sign-in, the one of `freehold dev` beside us.
    ///
    /// # Errors
    /// When there is none of them, or it is no server's address.
    pub fn server(&self, globals: &Globals) -> Result<String> {
        if let Some(named) = globals.server.as_ref().or(self.kept.current.as_ref()) {
            return origin(named);
        }
        if home::load(&globals.control.home)?.is_some() {
            return origin(&globals.control.addresses()?.base_url());
        }
        Err(Error::new(&codes::BAD_REQUEST)
            .detail("no server is given")
            .hint("name it: freehold login --server https://freehold.example.com"))
    }

    pub fn get(&self, server: &str) -> Option<&Login> {
        self.kept.logins.get(server)
    }

    pub fn put(&mut self, server: &str, login: Login) {
        self.kept.current = Some(server.to_owned());
        self.kept.logins.insert(server.to_owned(), login);
    }

    pub fn renew(&mut self, server: &str, refresh_token: String) {
        if let Some(login) = self.kept.logins.get_mut(server) {
            login.refresh_token = refresh_token;
        }
    }

    pub fn keep(&mut self, server: &str, tenant: &str, token: &str, expires_at: DateTime<Utc>) -> Access {
        let access = Access { token: token.to_owned(), expires_at };
        if let Some(login) = self.kept.logins.get_mut(server) {
            login.access.insert(tenant.to_owned(), access.clone());
        }
        access
    }

    pub fn remove(&mut self, server: &str) -> Option<Login> {
        if self.kept.current.as_deref() == Some(server) {
            self.kept.current = None;
        }
        self.kept.logins.remove(server)
    }

    pub fn save(&self) -> Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
            Error::new(&codes::BAD_REQUEST)
                .detail(format!("cannot make the folder {}: {error}", folder.display()))
                .source(error)
        })?;
        write_private(&self.file, &serde_json::to_string_pretty(&self.kept).map_err(Error::internal)?)
    }
}

/// In the state folder if one is named, else where a person's settings are.
fn file(globals: &Globals) -> Result<PathBuf> {
    const NAME: &str = "credentials.json";
    if globals.given.home {
        return Ok(globals.control.home.join(NAME));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    config.map(|config| config.join("freehold").join(NAME)).ok_or_else(|| {
        Error::new(&codes::BAD_REQUEST)
            .detail("there is no place to keep the sign-in: neither HOME nor XDG_CONFIG_HOME is set")
            .hint("set FREEHOLD_HOME to a folder of yours")
    })
}
