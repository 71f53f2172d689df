//! The state folder of `freehold dev` tells the other commands where everything is, so that `freehold tenant list`
//! works beside it without any setting.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::kernel::{Error, Result};

/// What `freehold dev` leaves for other commands.
#[derive(Clone, Serialize, Deserialize)]
pub struct HomeSettings {
    pub control_url: String,
    pub redis_url: String,
    pub master_key: String,
    pub public_scheme: String,
    pub base_domain: String,
}

/// The file in the state folder; it holds secrets and is for its owner's eyes only.
pub fn settings_file(home: &Path) -> PathBuf {
    home.join("settings.json")
}

/// Reads the settings, if there is a state folder.
pub fn load(home: &Path) -> Result<Option<HomeSettings>> {
    match std::fs::read(settings_file(home)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(Error::internal),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::internal(error)),
    }
}

/// Writes the settings in one step, readable for the owner alone.
pub fn save(home: &Path, settings: &HomeSettings) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(settings).map_err(Error::internal)?;
    write_private(&settings_file(home), &bytes)
}

/// Writes a file that only its owner may read, so that nobody ever sees half of it.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let part = path.with_extension("part");
    std::fs::remove_file(&part).ok();
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().map_err(Error::internal)
}
