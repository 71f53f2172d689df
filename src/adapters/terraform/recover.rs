//! What a run that was killed has left, and how the next one takes it up: it waits for a Terraform that is still at work,
//! pushes the state that could not be written, imports what was made and is in no state, and takes the taint from what
//! would otherwise be replaced.

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

/// An import asks the cloud about one resource.
const QUESTION: Duration = Duration::from_secs(5 * 60);

/// Puts a note down in the state database.
pub async fn put_down(conn: &mut PgConnection, task: &Task, note: &Note) -> Result<()> {
    let root = task.root.as_str();
    match note {
        Note::Made(Entry { address, kind, id }) => {
            let made = Made { address: address.clone(), kind: kind.clone(), id: id.clone() };
            states::journal_add(conn, root, &task.workspace, &made).await
        }
        Note::Gone(address) => states::journal_remove(conn, root, &task.workspace, address).await,
    }
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
        for folder in left.iter().filter(|folder| *folder != fresh) {
            self.outlast(task, folder).await?;
            let mut conn = self.states.connect().await?;
            // The events first: what they say may be in no state.
            if folder.events().exists() {
                let events = Tail::of(&folder.events())?.more()?;
                for note in journal::replay(&events) {
                    put_down(&mut conn, task, &note).await?;
                }
            }
            if let Some(errored) = folder.errored_state() {
                self.push(task, folder, &errored, env).await?;
            }
            folder.remove().map_err(Error::internal)?;
        }
        Ok(())
    }

    /// Waits for a Terraform that has outlived whoever started it.
    async fn outlast(&self, task: &Task, folder: &RunFolder) -> Result<()> {
        let begun = Instant::now();
        while let Some(pid) = folder.worker() {
            if begun.elapsed() > self.settings.lock_timeout() {
                return Err(Error::new(&codes::INFRA_UNAVAILABLE)
                    .detail(format!("Terraform is still at work on {} (process {pid})", task.workspace))
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

    /// Imports what the journal has and the state has not, and untaints what must not be replaced. True when something
    /// was done.
    pub(super) async fn adopt(&self, task: &Task, folder: &RunFolder, env: &Env) -> Result<bool> {
        let root = task.root.as_str();
        let mut conn = self.states.connect().await?;
        let made = states::journal(&mut conn, root, &task.workspace).await?;
        let known = self.state(&mut conn, task).await?;
        let journal: Vec<Entry> =
            made.into_iter().map(|Made { address, kind, id }| Entry { address, kind, id }).collect();
        let lost = journal::missing(&journal, &known.addresses());
        let tainted: Vec<String> = known
            .resources()
            .into_iter()
            .filter(|one| one.tainted && !allow::is_replaceable(&one.kind))
            .map(|one| one.address)
            .collect();
        for entry in &lost {
            self.import(&mut conn, task, folder, entry, env).await?;
        }
        for address in &tainted {
            let args = ["untaint".to_owned(), self.lock_argument(), address.clone()];
            if let Err(said) = self.question(task, folder, "untaint", args.to_vec(), env).await? {
                return Err(Error::new(&codes::INFRA_FAILED)
                    .detail(format!("{address} cannot be untainted: {}", version::first_error(&said))));
            }
        }
        if !lost.is_empty() || !tainted.is_empty() {
            tracing::info!(
                workspace = task.workspace,
                imported = lost.len(),
                untainted = tainted.len(),
                "took up what an earlier run of Terraform has left"
            );
        }
        Ok(!lost.is_empty() || !tainted.is_empty())
    }

    async fn import(
        &self,
        conn: &mut PgConnection,
        task: &Task,
        folder: &RunFolder,
        entry: &Entry,
        env: &Env,
    ) -> Result<()> {
        let Some(id) = journal::import_id(entry, &task.server_name(&self.settings.environment)) else {
            return Ok(());
        };
        let args = [
            "import".to_owned(),
            "-input=false".to_owned(),
            "-no-color".to_owned(),
            self.lock_argument(),
            inputs_argument(folder),
            entry.address.clone(),
            id,
        ];
        match self.question(task, folder, "import", args.to_vec(), env).await? {
            Ok(()) => Ok(()),
            // Somebody has removed it since, or a run on another machine was first.
            Err(said) if said.contains("non-existent remote object") => {
                put_down(conn, task, &Note::Gone(entry.address.clone())).await
            }
            Err(said) if said.contains("already managed by Terraform") => Ok(()),
            Err(said) => Err(Error::new(&codes::INFRA_FAILED).detail(format!(
                "{} cannot be imported: {}",
                entry.address,
                version::first_error(&said)
            ))),
        }
    }

    /// Runs a command that reports no events. What it said on stderr, when it failed.
    async fn question(
        &self,
        task: &Task,
        folder: &RunFolder,
        name: &str,
        args: Vec<String>,
        env: &Env,
    ) -> Result<Result<(), String>> {
        let env = [env.clone(), environment::of_task(task)].concat();
        let call = Call { args, name, env };
        let ended = process::start(&self.settings.terraform, folder, &call)?.end(QUESTION).await?;
        if ended.success() {
            return Ok(Ok(()));
        }
        Ok(Err(std::fs::read_to_string(folder.file(&format!("{name}.err"))).unwrap_or_default()))
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
