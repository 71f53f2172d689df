//! Which system user runs the servers: PostgreSQL refuses to run as root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use crate::kernel::{Error, Result, codes};

use super::folder::cannot;

/// The user that server processes run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerUser {
    /// We are nobody special, and so are the servers.
    Ourselves,
    /// We are root; the servers are not.
    Other { uid: u32, gid: u32 },
}

impl ServerUser {
    /// Ourselves, or for root `postgres` and failing that `nobody`.
    pub fn choose() -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self::Ourselves);
        }
        for name in ["postgres", "nobody"] {
            if let Ok(Some(user)) = User::from_name(name) {
                return Ok(Self::Other { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
            }
        }
        Err(Error::new(&codes::BAD_REQUEST)
            .detail(
                "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it as",
            )
            .hint("start again as an ordinary user"))
    }

    /// Makes `command` run as this user.
    pub fn apply(self, command: &mut Command) {
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives a file or folder to this user.
    pub fn own(self, path: &Path) -> Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Other { uid, gid } => std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(|error| cannot("give to the server's user", path, error)),
        }
    }

    /// Whether this user can enter `folder`. Asked by trying, so that access lists and mounts count too.
    pub fn can_enter(self, folder: &Path) -> bool {
        if self == Self::Ourselves {
            return true;
        }
        let mut command = Command::new("sh");
        command.args(["-c", "cd \"$1\"", "sh"]).arg(folder).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.apply(&mut command);
        command.status().is_ok_and(|status| status.success())
    }
}
