//! What a run that was killed has left, and how the next one takes it up: it waits for a Terraform that is still at work,
//! pushes the state that could not be written, imports what was made and is in no state, and takes the taint from what
//! would otherwise be replaced.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::folder::RunFolder;
use super::init::Env;
use super::journal::{self, Entry, Note};
use super::process::{self, Call, Tail};
use super::state::State;
use super::{Inner, Task, allow, environment, version};
use crate::db::states::{self, Made};
use crate::kernel::{Error, Result, codes};

/// An import asks the cloud about one resource. It is given this beside the time to wait for the state's lock.
const QUESTION: Duration = Duration::from_secs(5 * 60);

/// In a run's folder: what earlier runs had begun.
pub const EARLIER: &str = "earlier.json";

/// What earlier runs than that of this folder had begun.
fn earlier(folder: &RunFolder) -> BTreeSet<String> {
    let text = std::fs::read(folder.file(EARLIER)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Puts a note down in the state database.
pub async fn put_down(conn: &mut PgConnection, task: &Task, note: &Note) -> Result<()> {
    let (root, workspace) = (task.root.as_str(), &task.workspace);
    let made = match note {
        Note::Gone(address) => return states::journal_remove(conn, root, workspace, address).await,
        Note::Begun { address, kind } => Made { address: address.clone(), kind: kind.clone(), id: None },
        Note::Made(Entry { address, kind, id }) => {
            Made { address: address.clone(), kind: kind.clone(), id: id.clone() }
        }
    };
    states::journal_add(conn, root, workspace, &made).await
}

/// How an import ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    Yes,
    /// There is no such thing in the cloud.
    Absent,
    /// What Terraform said.
    Failed(String),
}

impl Inner {
    /// Deals with what earlier runs of this state have left on this machine. What they left elsewhere is in the journal.
    ///
    /// # Errors
    /// `infra_unavailable` while one of them is still at work when the time to wait is over.
    pub(super) async fn settle(&self, task: &Task, fresh: &RunFolder, env: &Env) -> Result<()> {
        let work = super::init::absolute(&self.settings.work)?;
        let left =
            RunFolder::leftovers(&work, task.root.as_str(), &task.workspace).map_err(Error::internal)?;
        // Who came later waits for us. Two that began together would else wait for each other.
        for mut folder in left.into_iter().filter(|folder| folder.is_older_than(fresh)) {
            self.outlast(task, &mut folder).await?;
            folder.end_providers();
            let mut conn = self.states.connect().await?;
            // The events first: what they say may be in no state.
            if folder.events().exists() {
                let events = Tail::of(&folder.events())?.more()?;
                for note in journal::replay(&events, earlier(&folder)) {
                    put_down(&mut conn, task, &note).await?;
                }
            }
            if let Some(errored) = folder.errored_state() {
                self.push(task, &folder, &errored, env).await?;
            }
            folder.remove().map_err(Error::internal)?;
        }
        Ok(())
    }

    /// Waits for a run of another, and for a Terraform that has outlived whoever started it.
    async fn outlast(&self, task: &Task, folder: &mut RunFolder) -> Result<()> {
        let begun = Instant::now();
        // First the owner: while there is one, the folder may be empty of workers for a moment.
        while !folder.take().map_err(Error::internal)? || folder.worker().is_some() {
            if begun.elapsed() > self.settings.lock_timeout() {
                let who = folder.worker().map_or(String::new(), |pid| format!(" (process {pid})"));
                return Err(Error::new(&codes::INFRA_UNAVAILABLE)
                    .detail(format!("Terraform is still at work on {}{who}", task.workspace))
                    .hint("it is left to finish; this is tried again later")
                    .retry_after(Duration::from_secs(30)));
            }
            tokio::time::sleep(process::pause()).await;
        }
        Ok(())
    }

    /// Writes the state that a Terraform could not write because the state database was away.
    async fn push(
        &self,
        task: &Task,
        folder: &RunFolder,
        errored: &std::path::Path,
        env: &Env,
    ) -> Result<()> {
        let lock = format!("-lock-timeout={}s", self.settings.lock_timeout_seconds);
        let args = ["state".to_owned(), "push".to_owned(), lock, errored.to_string_lossy().into_owned()];
        let ended = self.question(task, folder, "push", args.to_vec(), env).await?;
        match ended {
            Ok(()) => Ok(()),
            // The state has moved on since: whatever this one had beside it is in the journal.
            Err(said) if said.contains("serial") || said.contains("lineage") => {
                tracing::warn!(
                    workspace = task.workspace,
                    "a state that was left behind is older than the state"
                );
                Ok(())
            }
            Err(said) => Err(Error::new(&codes::INFRA_FAILED).detail(format!(
                "a state that was left behind cannot be written: {}",
                version::first_error(&said)
            ))),
        }
    }

    /// Imports what was made and is in no state, and untaints what must not be replaced. Gives the addresses of what was
    /// only begun and is in no state either.
    pub(super) async fn adopt(&self, task: &Task, folder: &RunFolder, env: &Env) -> Result<BTreeSet<String>> {
        let root = task.root.as_str();
        let mut conn = self.states.connect().await?;
        let made = states::journal(&mut conn, root, &task.workspace).await?;
        let known = self.state(&mut conn, task).await?;
        let journal: Vec<Entry> =
            made.into_iter().map(|Made { address, kind, id }| Entry { address, kind, id }).collect();
        let server = task.server_name(&self.settings.environment);
        let mut begun = BTreeSet::new();
        let mut imported = 0;
        for entry in journal::missing(&journal, &known.addresses()) {
            let Some(id) = &entry.id else {
                begun.insert(entry.address);
                continue;
            };
            let Some(id) = journal::import_id(&entry.kind, id, &server) else { continue };
            match self.import(task, folder, &entry.address, id, env).await? {
                Imported::Yes => imported += 1,
                // Somebody has removed it since.
                Imported::Absent => put_down(&mut conn, task, &Note::Gone(entry.address.clone())).await?,
                Imported::Failed(said) => {
                    let why = version::first_error(&said);
                    return Err(Error::new(&codes::INFRA_FAILED)
                        .detail(format!("{} was made and cannot be imported: {why}", entry.address)));
                }
            }
        }
        let untainted = self.untaint(task, folder, &known, env).await?;
        if imported + untainted + begun.len() > 0 {
            tracing::info!(
                workspace = task.workspace,
                imported,
                untainted,
                begun = begun.len(),
                "takes up what an earlier run of Terraform has left"
            );
        }
        Ok(begun)
    }

    /// What was in flight when Terraform was asked to stop is tainted, and would be replaced: a database server too.
    async fn untaint(&self, task: &Task, folder: &RunFolder, known: &State, env: &Env) -> Result<usize> {
        let tainted =
            known.resources().into_iter().filter(|one| one.tainted && !allow::is_replaceable(&one.kind));
        let mut count = 0;
        for one in tainted {
            let args = vec!["untaint".to_owned(), self.lock_argument(), one.address.clone()];
            if let Err(said) = self.question(task, folder, "untaint", args, env).await? {
                return Err(Error::new(&codes::INFRA_FAILED).detail(format!(
                    "{} cannot be untainted: {}",
                    one.address,
                    version::first_error(&said)
                )));
            }
            count += 1;
        }
        Ok(count)
    }

    /// Takes one resource into the state.
    pub(super) async fn import(
        &self,
        task: &Task,
        folder: &RunFolder,
        address: &str,
        id: String,
        env: &Env,
    ) -> Result<Imported> {
        let args = vec![
            "import".to_owned(),
            "-input=false".to_owned(),
            "-no-color".to_owned(),
            self.lock_argument(),
            inputs_argument(folder),
            address.to_owned(),
            id,
        ];
        Ok(match self.question(task, folder, "import", args, env).await? {
            Ok(()) => Imported::Yes,
            Err(said) if said.contains("non-existent remote object") => Imported::Absent,
            // A run on another machine was first.
            Err(said) if said.contains("already managed by Terraform") => Imported::Yes,
            Err(said) => Imported::Failed(said),
        })
    }

    /// Runs a command that reports no events. What it said on stderr, when it failed.
    ///
    /// # Errors
    /// `infra_unavailable` when it could not be run, or its provider could not, and while somebody has the state locked.
    pub(super) async fn question(
        &self,
        task: &Task,
        folder: &RunFolder,
        name: &str,
        args: Vec<String>,
        env: &Env,
    ) -> Result<Result<(), String>> {
        let env = [env.clone(), environment::of_task(task)].concat();
        let call = Call { args, name, env };
        let limit = self.settings.lock_timeout() + QUESTION;
        let ended = process::start(&self.settings.terraform, folder, &call)?.end(limit).await?;
        if ended.success() {
            return Ok(Ok(()));
        }
        let said = std::fs::read_to_string(folder.file(&format!("{name}.err"))).unwrap_or_default();
        if version::is_locked(&said) {
            return Err(self.locked(task).await);
        }
        version::no_provider(&said).map_or(Ok(Err(said)), Err)
    }

    pub(super) async fn state(&self, conn: &mut PgConnection, task: &Task) -> Result<State> {
        match states::read(conn, task.root.as_str(), &task.workspace).await? {
            Some(text) => State::parse(&text),
            None => Ok(State::default()),
        }
    }

    pub(super) fn lock_argument(&self) -> String {
        format!("-lock-timeout={}s", self.settings.lock_timeout_seconds)
    }
}

/// The inputs are written beside the code, before anything else is done.
pub fn inputs_argument(folder: &RunFolder) -> String {
    format!("-var-file={}", folder.file("inputs.tfvars.json").display())
}
