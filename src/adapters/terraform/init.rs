//! The provider and the modules: fetched once for all states of a root, into a folder that all of its runs share.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::folder::RunFolder;
use super::process::{self, Call};
use super::{Inner, Root, environment, version};
use crate::db::states;
use crate::kernel::{Error, Result};

/// From the registry, 0.7 GB.
const INIT_LIMIT: Duration = Duration::from_secs(15 * 60);
const QUESTION_LIMIT: Duration = Duration::from_secs(60);

/// The environment of every later command on this root.
pub type Env = Vec<(String, String)>;

impl Inner {
    /// Makes everything ready for a run in this folder, and says with which environment it goes.
    ///
    /// # Errors
    /// `infra_unavailable` that says what is missing: the program, its version, the provider, the state database.
    pub(super) async fn ready(&self, root: Root, folder: &RunFolder) -> Result<Env> {
        let work = absolute(&self.settings.work)?;
        if let Some(sockets) = environment::sockets(&self.settings) {
            std::fs::create_dir_all(sockets).map_err(Error::internal)?;
        }
        let config = work.join("cli.tfrc");
        self.version(&work, &config, root, folder).await?;
        let mut conn = self.states.connect().await?;
        states::prepare(&mut conn, &Root::ALL.map(Root::as_str)).await?;

        // Named after what is in it: a new version of the code has another, while the old one is still at work.
        let data = work.join("data").join(format!("{}-{:08x}", root.as_str(), self.fingerprint(folder)?));
        let env = self.env(root, &data, &config);
        let done = data.join("freehold-ready");
        if done.exists() {
            return Ok(env);
        }
        let _alone = alone(work.join("init.lock")).await?;
        if !done.exists() {
            self.init(folder, env.clone()).await?;
            std::fs::write(&done, b"").map_err(Error::internal)?;
        }
        Ok(env)
    }

    /// Looks once whether the program is the right one.
    async fn version(&self, work: &Path, config: &Path, root: Root, folder: &RunFolder) -> Result<()> {
        let look = async || {
            let cache = work.join("providers");
            std::fs::create_dir_all(&cache).map_err(Error::internal)?;
            let given = self.settings.mirror.clone();
            let named = std::env::var_os("TF_PLUGIN_MIRROR").filter(|folder| !folder.is_empty());
            let mirror = given.or_else(|| named.map(PathBuf::from));
            // By another name first: somebody may be reading it.
            let fresh = folder.file("cli.tfrc");
            std::fs::write(&fresh, environment::cli_config(mirror.as_deref(), &cache))
                .map_err(Error::internal)?;
            std::fs::rename(&fresh, config).map_err(Error::internal)?;

            let args = vec!["version".to_owned(), "-json".to_owned()];
            let call = Call { args, name: "version", env: self.env(root, work, config) };
            process::start(&self.settings.terraform, folder, &call)?.end(QUESTION_LIMIT).await?;
            let answer = std::fs::read(folder.file("version.jsonl")).map_err(Error::internal)?;
            version::check(&answer, &self.settings.terraform_version)
        };
        self.ready.get_or_try_init(look).await.map(drop)
    }

    async fn init(&self, folder: &RunFolder, env: Env) -> Result<()> {
        let args = ["init", "-input=false", "-no-color", "-lockfile=readonly"].map(str::to_owned).to_vec();
        let call = Call { args, name: "init", env };
        let ended = process::start(&self.settings.terraform, folder, &call)?.end(INIT_LIMIT).await?;
        if ended.success() {
            return Ok(());
        }
        Err(version::init_failed(&std::fs::read_to_string(folder.file("init.err")).unwrap_or_default()))
    }

    fn env(&self, root: Root, data: &Path, config: &Path) -> Env {
        environment::common(&self.settings, root, &self.state_url, data, config, std::env::vars())
    }

    /// Of all that `init` looks at.
    fn fingerprint(&self, folder: &RunFolder) -> Result<u32> {
        let mut hash = crc32fast::Hasher::new();
        hash.update(self.ready.get().map_or(&b""[..], String::as_bytes));
        hash.update(format!("{:?}", self.settings.mirror).as_bytes());
        add(&mut hash, &folder.root())?;
        add(&mut hash, &folder.file("modules"))?;
        Ok(hash.finalize())
    }
}

fn add(hash: &mut crc32fast::Hasher, path: &Path) -> Result<()> {
    if path.is_file() {
        hash.update(&std::fs::read(path).map_err(Error::internal)?);
        return Ok(());
    }
    let all = std::fs::read_dir(path).map_err(Error::internal)?;
    let mut paths = all
        .map(|one| one.map(|one| one.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(Error::internal)?;
    paths.sort();
    paths.iter().try_for_each(|path| {
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        add(hash, path)
    })
}

/// One process at a time: the provider is unpacked into a place that all share.
async fn alone(path: PathBuf) -> Result<Flock<File>> {
    let wait = move || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| std::io::Error::from(error))
    };
    tokio::task::spawn_blocking(wait).await.map_err(Error::internal)?.map_err(Error::internal)
}

/// Terraform stands elsewhere, so a path that begins here would lead astray.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::internal)
}
