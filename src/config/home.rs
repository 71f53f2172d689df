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

/// The file in the state folder; it holds secrets, so `dev` writes it for its owner's eyes only.
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
