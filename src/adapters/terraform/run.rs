//! Plan, look at the plan, apply exactly that. Drift. Destroy, in two phases.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitStatus;

use serde_json::Value;
use sqlx::PgConnection;

use super::allow::{self, Allowed, Plan};
use super::events::{Action, Event};
use super::folder::RunFolder;
use super::in_flight;
use super::init::Env;
use super::inventory::Listed;
use super::journal::{Note, Notes};
use super::process::{self, Call, Running, Tail};
use super::progress::Progress;
use super::recover::{EARLIER, inputs_argument, put_down};
use super::state::State;
use super::{Inner, Root, Task, Terraform, environment, version};
use crate::db::states::{self, Kept};
use crate::kernel::{Error, Result, codes};

/// What would be changed, or was changed by somebody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    pub changes: Vec<(String, Action)>,
    pub drift: Vec<(String, Action)>,
}

impl Planned {
    /// The drift that an apply would put right.
    pub fn put_right(&self) -> Vec<(String, Action)> {
        let healed = |address: &String| self.changes.iter().any(|(changed, _)| changed == address);
        self.drift.iter().filter(|(address, _)| healed(address)).cloned().collect()
    }
}

/// Told how far it is. Called often; should be quick.
pub type Report<'a> = &'a mut (dyn FnMut(&Progress) + Send);

/// What protects its resource from being removed, so that the protection is taken off first.
const PROTECTED: &[&str] = &["aws_db_instance", "aws_kms_key", "aws_s3_bucket", "aws_secretsmanager_secret"];

/// What the provider says when it has no credentials, or none that are taken.
const NOBODY: &[&str] = &[
    "No valid credential sources found",
    "validating provider credentials",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "ExpiredToken",
];

/// In a run's folder: its events are in no journal yet.
const UNWRITTEN: &str = "unwritten";

/// One run: its folder and its environment.
struct Session<'a> {
    tf: &'a Inner,
    task: &'a Task,
    folder: RunFolder,
    env: Env,
    /// What earlier runs had begun, and is in no state.
    earlier: BTreeSet<String>,
}

/// How a command that reports events has ended.
struct Ended {
    status: ExitStatus,
    events: Vec<Event>,
}

impl Terraform {
    /// Makes the state what its inputs say. Gives the root's output of the same name.
    ///
    /// It may be repeated whenever it fails: what an earlier run has made is taken up first.
    ///
    /// # Errors
    /// `infra_unavailable` when Terraform cannot run at the moment; `infra_refused` when the plan would remove what must
    /// stay; `infra_failed` with what the cloud said.
    pub async fn apply(&self, task: &Task, report: Report<'_>) -> Result<Value> {
        let _place = self.0.place().await?;
        let session = Session::open(&self.0, task).await?;
        let done = session.apply(Allowed::Apply, &[], report).await;
        session.close(done).await?;
        let mut conn = self.0.states.connect().await?;
        states::journal_clear(&mut conn, task.root.as_str(), &task.workspace).await?;
        Ok(self.0.state(&mut conn, task).await?.output(task.root.as_str()))
    }

    /// What an apply would change. Takes up what an earlier run has left, and changes nothing else.
    ///
    /// # Errors
    /// As [`Terraform::apply`].
    pub async fn plan(&self, task: &Task) -> Result<Planned> {
        let _place = self.0.place().await?;
        let session = Session::open(&self.0, task).await?;
        let planned = session.plan(&[]).await.map(|ended| planned(&ended.events));
        session.close(planned).await
    }

    /// What somebody has changed behind Terraform's back, and an apply would put right. What only looks different since the
    /// cloud has filled it in is none: a role knows its policies after they were made, and no apply changes that.
    ///
    /// # Errors
    /// As [`Terraform::apply`].
    pub async fn drift(&self, task: &Task) -> Result<Vec<(String, Action)>> {
        Ok(self.plan(task).await?.put_right())
    }

    /// What a state holds, as it was recorded. Nothing when there is none.
    ///
    /// # Errors
    /// `infra_unavailable` when the state database does not answer.
    pub async fn state(&self, task: &Task) -> Result<State> {
        task.check()?;
        let mut conn = self.0.states.connect().await?;
        states::prepare(&mut conn, &Root::ALL.map(Root::as_str)).await?;
        states::misplaced(&mut conn, task.root.as_str(), &task.workspace).await?;
        self.0.state(&mut conn, task).await
    }

    /// Removes everything, and then the state. `task` has its protections off: first they are taken off what is there,
    /// then a plan to remove all is made, held against the list of what may go, and carried out. Gives what stays: the last
    /// snapshots of its servers, each with its key.
    ///
    /// # Errors
    /// As [`Terraform::apply`].
    pub async fn destroy(&self, task: &Task, allowed: Allowed, report: Report<'_>) -> Result<Vec<Kept>> {
        let _place = self.0.place().await?;
        let mut conn = self.0.states.connect().await?;
        states::prepare(&mut conn, &Root::ALL.map(Root::as_str)).await?;
        if states::is_gone(&mut conn, task.root.as_str(), &task.workspace).await? {
            return Ok(Vec::new());
        }
        let session = Session::open(&self.0, task).await?;
        let done = session.destroy(allowed, report).await;
        let kept = session.close(done).await?;
        // The connection may have been idle for an hour.
        let mut conn = self.0.states.connect().await?;
        states::row_delete(&mut conn, task.root.as_str(), &task.workspace, task.once).await?;
        Ok(kept)
    }
}

impl Inner {
    pub(super) async fn place(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.places.acquire().await.map_err(Error::internal)
    }

    /// Somebody has the state locked: who.
    pub(super) async fn locked(&self, task: &Task) -> Error {
        let root = task.root.as_str();
        let holder = match self.states.connect().await {
            Ok(mut conn) => states::lock_holder(&mut conn, root, &task.workspace).await.unwrap_or_default(),
            Err(_) => None,
        };
        let who = holder.map_or_else(
            || "somebody who has gone meanwhile".to_owned(),
            |held| {
                let client = held.client.unwrap_or_else(|| "this machine".to_owned());
                format!("session {} of the state database, from {client}, since {}", held.pid, held.since)
            },
        );
        Error::new(&codes::INFRA_UNAVAILABLE)
            .detail(format!("the state of {root} {} is locked by {who}", task.workspace))
            .hint("the lock goes with its process; if its machine is lost, end that session in the state database")
    }

    /// A cloud that does not answer costs 25 s of attempts, for each resource.
    async fn reach(&self, env: &Env) -> Result<()> {
        let Some(endpoint) = environment::endpoint(env) else { return Ok(()) };
        let bare = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
        let host = bare.split('/').next().unwrap_or(bare);
        let host = if host.contains(':') { host.to_owned() } else { format!("{host}:443") };
        let dial = tokio::net::TcpStream::connect(&host);
        match tokio::time::timeout(std::time::Duration::from_secs(3), dial).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::new(&codes::INFRA_UNAVAILABLE)
                .detail(format!("the cloud does not answer at {endpoint}"))
                .hint("is AWS_ENDPOINT_URL right?")),
        }
    }
}

impl<'a> Session<'a> {
    /// Everything before the first plan: the folder, the provider, the state's row, what earlier runs have left.
    async fn open(tf: &'a Inner, task: &'a Task) -> Result<Self> {
        task.check()?;
        let settings = &tf.settings;
        let work = super::init::absolute(&settings.work)?;
        let roots = super::init::absolute(&settings.roots)?;
        let folder =
            RunFolder::make(&work, &roots, task.root.as_str(), &task.workspace).map_err(|error| {
                Error::new(&codes::INFRA_UNAVAILABLE)
                    .detail(format!(
                        "the Terraform code in {} cannot be copied to {}",
                        roots.display(),
                        work.display()
                    ))
                    .hint("set roots and work in the infrastructure settings")
                    .source(error)
            })?;
        let mut session = Self { tf, task, folder, env: Env::new(), earlier: BTreeSet::new() };
        let opened = session.prepare().await;
        match opened {
            Ok(()) => Ok(session),
            Err(error) => session.close(Err(error)).await,
        }
    }

    async fn prepare(&mut self) -> Result<()> {
        let Self { tf, task, folder, .. } = &*self;
        let inputs = serde_json::to_vec(&task.inputs).map_err(Error::internal)?;
        std::fs::write(folder.file("inputs.tfvars.json"), inputs).map_err(Error::internal)?;
        let env = tf.ready(task.root, folder).await?;
        tf.reach(&env).await?;
        let version = tf.ready.get().map_or("", String::as_str);
        let mut conn = tf.states.connect().await?;
        let root = task.root.as_str();
        match task.root {
            // Only looked at: a row made here would be in the way of who begins it.
            Root::Platform => states::row_need(&mut conn, root, &task.workspace).await?,
            _ => states::row_add(&mut conn, root, &task.workspace, version).await?,
        }
        tf.settle(task, folder, &env).await?;
        let begun = tf.adopt(task, folder, &env).await?;
        let text = serde_json::to_vec(&begun).map_err(Error::internal)?;
        std::fs::write(folder.file(EARLIER), text).map_err(Error::internal)?;
        (self.env, self.earlier) = (env, begun);
        if self.earlier.is_empty() { Ok(()) } else { self.find(&self.earlier).await }
    }

    /// Looks in the cloud for what was begun and that a plan would make: it may be there, and in no state.
    async fn find(&self, begun: &BTreeSet<String>) -> Result<()> {
        if self.plan(&[]).await?.status.code() == Some(0) {
            return Ok(());
        }
        let plan = allow::read(&self.show().await?)?;
        let lost: Vec<_> = plan
            .resource_changes
            .iter()
            .filter(|one| one.creates() && begun.contains(&one.address))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        // By the environment and by name, which all that is looked for has.
        let roles = format!("^{}-", self.tf.settings.environment);
        let mut inventory = self.tf.inventory(&Listed { tags: BTreeMap::new(), roles }).await?;
        // Keys of a server of the same name that was removed.
        let mut conn = self.tf.states.connect().await?;
        let former = states::waning(&mut conn).await?;
        let kept = states::kept(&mut conn).await?;
        inventory.tagged.retain(|arn, _| !former.contains(arn) && !kept.iter().any(|one| one.key == *arn));
        for one in lost {
            let Some(id) = in_flight::import_id(one, &inventory) else { continue };
            let imported = self.tf.import(self.task, &self.folder, &one.address, id, &self.env).await?;
            // What cannot be imported is perhaps not ours; the apply then says what is in its way.
            tracing::info!(address = one.address, ?imported, "looked for what was in flight");
        }
        Ok(())
    }

    /// The folder goes, unless it holds a state or notes that could not be written: the next run reads them there.
    async fn close<T>(self, outcome: Result<T>) -> Result<T> {
        if self.folder.worker().is_none() {
            self.folder.end_providers();
        }
        if self.folder.errored_state().is_none()
            && !self.folder.file(UNWRITTEN).exists()
            && self.folder.worker().is_none()
            && let Err(error) = self.folder.remove()
        {
            tracing::warn!(error = %error, "a run's folder stays behind");
        }
        outcome
    }

    /// Plans into `plan.tfplan`. Exit code 2 says that there is something to do.
    async fn plan(&self, more: &[&str]) -> Result<Ended> {
        let mut args = ["plan", "-json", "-input=false", "-detailed-exitcode", "-out=plan.tfplan"]
            .map(str::to_owned)
            .to_vec();
        args.extend([
            self.tf.lock_argument(),
            format!("-parallelism={}", self.tf.settings.parallelism),
            inputs_argument(&self.folder),
        ]);
        args.extend(more.iter().map(|one| (*one).to_owned()));
        let ended = self.follow("plan", args, &mut |_| {}, &mut Progress::default()).await?;
        match ended.status.code() {
            Some(0 | 2) => Ok(ended),
            _ => Err(self.failure(&ended).await),
        }
    }

    async fn apply(&self, allowed: Allowed, more: &[&str], report: Report<'_>) -> Result<()> {
        let planned = self.plan(more).await?;
        if planned.status.code() == Some(0) {
            return Ok(());
        }
        let plan = allow::read(&self.show().await?)?;
        self.carry_out(&planned, &plan, allowed, report).await
    }

    /// Does what was planned last, if it may be done.
    async fn carry_out(
        &self,
        planned: &Ended,
        plan: &Plan,
        allowed: Allowed,
        report: Report<'_>,
    ) -> Result<()> {
        allow::check(plan, allowed)?;
        let mut progress = Progress::default();
        planned.events.iter().for_each(|event| progress.take(event));
        report(&progress);
        let args = vec![
            "apply".to_owned(),
            "-json".to_owned(),
            "-input=false".to_owned(),
            self.tf.lock_argument(),
            format!("-parallelism={}", self.tf.settings.parallelism),
            "plan.tfplan".to_owned(),
        ];
        let ended = self.follow("apply", args, report, &mut progress).await?;
        if ended.status.success() { Ok(()) } else { Err(self.failure(&ended).await) }
    }

    async fn destroy(&self, allowed: Allowed, report: Report<'_>) -> Result<Vec<Kept>> {
        let held = self.state().await?.resources();
        // Only what is there: an unfinished state is not finished in order to be removed.
        let protected = held.into_iter().filter(|one| PROTECTED.contains(&one.kind.as_str()));
        self.unprotect(protected.map(|one| one.address).collect(), report).await?;
        // Whether a server leaves a snapshot behind is settled by now.
        let state = self.state().await?;
        let (kept, going) = self.parted(&state).await?;
        if !going.is_empty() {
            let targets: Vec<String> = going.iter().map(|address| format!("-target={address}")).collect();
            let mut more = vec!["-destroy"];
            if !kept.is_empty() {
                more.extend(targets.iter().map(String::as_str));
            }
            self.apply(allowed, &more, report).await?;
        }
        // What an attempt that was killed had removed is in the state still when there is nothing left to remove.
        if !self.parted(&self.state().await?).await?.1.is_empty() {
            self.forget_gone().await?;
        }
        Ok(kept)
    }

    /// What of a state stays when it is removed, and the addresses of what goes: a snapshot is worth nothing without its key.
    /// Each is noted before anything goes: afterwards nobody knows it any more, and an attempt that died between could not say.
    async fn parted(&self, state: &State) -> Result<(Vec<Kept>, Vec<String>)> {
        let mut conn = self.tf.states.connect().await?;
        for server in state.servers() {
            if let (Some(key), Some(snapshot)) = (server.key, server.snapshot) {
                states::kept_add(&mut conn, &Kept { key, snapshot }).await?;
            }
        }
        let (mut kept, keys) = (states::kept(&mut conn).await?, state.arns("aws_kms_key"));
        kept.retain(|one| keys.contains(&one.key));
        let waning: Vec<String> =
            keys.into_iter().filter(|key| !kept.iter().any(|one| one.key == *key)).collect();
        states::waning_add(&mut conn, &waning).await?;
        // A state has one server at most, and that one key.
        let stays = |kind: &str| !kept.is_empty() && kind == "aws_kms_key";
        let going = state.resources().into_iter().filter(|one| !stays(&one.kind)).map(|one| one.address);
        let going = going.collect();
        Ok((kept, going))
    }

    async fn state(&self) -> Result<State> {
        // A new connection each time: what is done between takes minutes.
        self.tf.state(&mut self.tf.states.connect().await?, self.task).await
    }

    /// Takes what is gone from the cloud out of the state.
    async fn forget_gone(&self) -> Result<()> {
        let args = ["apply", "-refresh-only", "-auto-approve", "-input=false", "-no-color"];
        let mut args = args.map(str::to_owned).to_vec();
        args.extend([self.tf.lock_argument(), inputs_argument(&self.folder)]);
        match self.tf.question(self.task, &self.folder, "refresh", args, &self.env).await? {
            Ok(()) => Ok(()),
            Err(said) => Err(Error::new(&codes::INFRA_FAILED).detail(format!(
                "what is gone cannot be taken out of the state: {}",
                version::first_error(&said)
            ))),
        }
    }

    /// Takes the protections off what is there. What an attempt that was killed has removed is in the state still: it is left
    /// alone, or a server would be made only to be removed.
    async fn unprotect(&self, mut protected: Vec<String>, report: Report<'_>) -> Result<()> {
        while !protected.is_empty() {
            let targets: Vec<String> = protected.iter().map(|address| format!("-target={address}")).collect();
            let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
            let planned = self.plan(&targets).await?;
            if planned.status.code() == Some(0) {
                return Ok(());
            }
            let plan = allow::read(&self.show().await?)?;
            let there = protected.len();
            protected.retain(|address| {
                !plan.resource_changes.iter().any(|one| one.creates() && one.address == *address)
            });
            if protected.len() == there {
                return self.carry_out(&planned, &plan, Allowed::Apply, report).await;
            }
        }
        Ok(())
    }

    /// The plan as JSON.
    async fn show(&self) -> Result<Vec<u8>> {
        let args = ["show", "-json", "plan.tfplan"].map(str::to_owned).to_vec();
        let call =
            Call { args, name: "show", env: [self.env.clone(), environment::of_task(self.task)].concat() };
        let mut running = process::start(&self.tf.settings.terraform, &self.folder, &call)?;
        if !running.end(self.tf.settings.limit()).await?.success() {
            let said = std::fs::read_to_string(self.folder.file("show.err")).unwrap_or_default();
            return Err(version::no_provider(&said).unwrap_or_else(|| {
                Error::new(&codes::INFRA_FAILED)
                    .detail(format!("Terraform cannot show its plan: {}", version::first_error(&said)))
            }));
        }
        std::fs::read(self.folder.file("show.jsonl")).map_err(Error::internal)
    }

    /// Runs a command that reports events, and keeps the journal meanwhile.
    async fn follow(
        &self,
        name: &str,
        args: Vec<String>,
        report: Report<'_>,
        progress: &mut Progress,
    ) -> Result<Ended> {
        let call = Call { args, name, env: [self.env.clone(), environment::of_task(self.task)].concat() };
        let mut running: Running = process::start(&self.tf.settings.terraform, &self.folder, &call)?;
        let mut tail = Tail::of(&self.folder.file(&format!("{name}.jsonl")))?;
        let mut conn: Option<PgConnection> = None;
        let mut notes = Notes::beside(self.earlier.clone());
        let mut unwritten: Vec<Note> = Vec::new();
        let mut all = Vec::new();
        loop {
            let (events, ended) = match process::look(&mut running, &mut tail, self.tf.settings.limit()) {
                Ok(looked) => looked,
                Err(error) => {
                    running.stop();
                    return Err(error);
                }
            };
            if !events.is_empty() {
                events.iter().for_each(|event| progress.take(event));
                report(progress);
                unwritten.extend(events.iter().filter_map(|event| notes.take(event)));
                all.extend(events);
            }
            // A state database that is away for a moment stops nothing: the file of events has it all meanwhile.
            if !unwritten.is_empty() && self.write_down(&mut conn, &unwritten).await.is_ok() {
                unwritten.clear();
            }
            if let Some(status) = ended {
                if !unwritten.is_empty() {
                    std::fs::write(self.folder.file(UNWRITTEN), b"").map_err(Error::internal)?;
                }
                return Ok(Ended { status, events: all });
            }
            tokio::time::sleep(process::pause()).await;
        }
    }

    async fn write_down(&self, conn: &mut Option<PgConnection>, notes: &[Note]) -> Result<()> {
        let mut open = match conn.take() {
            Some(open) => open,
            None => self.tf.states.connect().await?,
        };
        for note in notes {
            put_down(&mut open, self.task, note).await?;
        }
        *conn = Some(open);
        Ok(())
    }

    /// What went wrong, as Terraform said it.
    async fn failure(&self, ended: &Ended) -> Error {
        let said: Vec<(String, String)> = ended
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Diagnostic { error: true, summary, detail, address } => {
                    let place = address.as_ref().map_or(String::new(), |address| format!("{address}: "));
                    Some((format!("{place}{summary}"), detail.clone()))
                }
                _ => None,
            })
            .collect();
        if said.iter().any(|(summary, _)| version::is_locked(summary)) {
            return self.tf.locked(self.task).await;
        }
        let Some((summary, detail)) = said.first() else {
            let how = ended.status.to_string();
            return Error::new(&codes::INFRA_FAILED)
                .detail(format!("Terraform ended without a word ({how})"))
                .hint("what it made is taken up by the next attempt");
        };
        if let Some(error) =
            said.iter().find_map(|(summary, detail)| version::no_provider(&format!("{summary}: {detail}")))
        {
            return error;
        }
        if NOBODY.iter().any(|text| summary.contains(text) || detail.contains(text)) {
            return Error::new(&codes::INFRA_UNAVAILABLE)
                .detail("the cloud does not take the credentials, or there are none")
                .hint("give the process a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
                .source(format!("{summary}: {detail}"));
        }
        let short: String = summary.chars().take(400).collect();
        Error::new(&codes::INFRA_FAILED).detail(short).source(detail.clone())
    }
}

/// What the events of a plan say.
fn planned(events: &[Event]) -> Planned {
    let mut planned = Planned::default();
    for event in events {
        match event {
            Event::Planned { address, action } if !matches!(action, Action::Read | Action::Noop) => {
                planned.changes.push((address.clone(), *action));
            }
            Event::Drift { address, action } => planned.drift.push((address.clone(), *action)),
            _ => {}
        }
    }
    planned
}
