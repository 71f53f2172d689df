//! Folders and small private files of local servers.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;

use crate::kernel::{Entropy, Error, Result, codes};

use super::user::ServerUser;

/// Where server data goes when the servers' user cannot reach the state folder.
const ELSEWHERE: &str = "/var/lib/freehold-dev";

/// Names the folder under [`ELSEWHERE`] that belongs to a state folder.
const POINTER: &str = "servers";

/// An I/O failure with the path in its text: "No such file" alone helps nobody.
pub fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(&codes::BAD_REQUEST).detail(format!("cannot {what} {}: {error}", path.display())).source(error)
}

/// Makes a folder and those above it. When the servers run as another user it lets them through, but not look around.
pub fn make(folder: &Path, user: ServerUser) -> Result<()> {
    let mode = if user == ServerUser::Ourselves { 0o700 } else { 0o711 };
    let made = DirBuilder::new().recursive(true).mode(mode).create(folder);
    made.map_err(|error| cannot("make the folder", folder, error))
}

/// Removes a folder or file if it is there.
pub fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", path, error)),
        _ => Ok(()),
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("new");
    let write = || {
        remove_if_there(&draft)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&draft, path)
    };
    write().map_err(|error| cannot("write", path, error))
}

/// The file's text without the newline at its end; `None` when there is no such file.
pub fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, error)),
    }
}

/// The password in `folder`, made on first use.
pub fn password(folder: &Path) -> Result<String> {
    let path = folder.join("password");
    if let Some(password) = read(&path)? {
        return Ok(password);
    }
    let password = Entropy::default().base32::<20>();
    write_private(&path, &format!("{password}\n"))?;
    Ok(password)
}

/// The folder that holds the servers of the state folder `home`: `home` itself when `user` can reach it, else one
/// under `/var/lib` that a pointer file in `home` remembers.
pub fn of_servers(home: &Path, user: ServerUser) -> Result<PathBuf> {
    if let Some(elsewhere) = pointed_to(home)? {
        make(&elsewhere, user)?;
        return Ok(elsewhere);
    }
    if user.can_enter(home) {
        return Ok(home.to_owned());
    }
    let hash = digest::digest(&digest::SHA256, home.as_os_str().as_encoded_bytes());
    let elsewhere = Path::new(ELSEWHERE).join(HEXLOWER.encode(&hash.as_ref()[..8]));
    make(&elsewhere, user)?;
    write_private(&home.join(POINTER), &format!("{}\n", elsewhere.display()))?;
    Ok(elsewhere)
}

/// What [`of_servers`] remembered for `home`, if the servers are elsewhere.
fn pointed_to(home: &Path) -> Result<Option<PathBuf>> {
    let Some(text) = read(&home.join(POINTER))? else { return Ok(None) };
    let path = PathBuf::from(text);
    // A reset removes what this file names, so nothing but our own kind of folder is believed.
    if path.parent() == Some(Path::new(ELSEWHERE)) {
        return Ok(Some(path));
    }
    Err(Error::new(&codes::BAD_REQUEST)
        .detail(format!("{} names a folder that is not under {ELSEWHERE}", home.join(POINTER).display()))
        .hint("remove that file, or start over in another state folder"))
}

/// Removes the folder that [`of_servers`] made elsewhere, if there is one, and forgets it.
pub fn remove_elsewhere(home: &Path) -> Result<()> {
    if let Some(elsewhere) = pointed_to(home)? {
        remove(&elsewhere)?;
        remove(&home.join(POINTER))?;
        // Refused as long as other state folders have theirs in it.
        let _ = fs::remove_dir(ELSEWHERE);
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
