//! `freehold run …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::paging::Paging;
use super::{Globals, table};
use crate::control_plane::tenants::TenantRef;
use crate::jobs::run::{Run, RunFilter, StepState};
use crate::kernel::Result;
use crate::kernel::ids::RunId;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List runs, newest first
    #[command(after_help = "Examples:\n  freehold run list --open\n  freehold run list --tenant acme")]
    List(List),
    /// Show a run and its steps
    #[command(after_help = "Examples:\n  freehold run show run_06fqv3k1s9t4m7b2n8c5v0r6e4")]
    Show(One),
    /// Put a stuck run back to work, or a waiting one at once, and follow it
    #[command(after_help = "Examples:\n  freehold run resume run_06fqv3k1s9t4m7b2n8c5v0r6e4")]
    Resume(One),
    /// Undo what a waiting or stuck run has done so far, and follow that
    #[command(after_help = "\
Examples:
  freehold run undo run_06fqv3k1s9t4m7b2n8c5v0r6e4

For a tenant that is not to be made after all. The database server that was made for it goes with it.")]
    Undo(One),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only runs about this tenant: slug or id
    #[arg(long)]
    tenant: Option<TenantRef>,
    /// Only runs that are not finished
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub struct One {
    /// The run's id
    id: RunId,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    match command {
        Command::Show(args) => print(globals.output, &fleet.run_show(args.id).await?, one),
        Command::Resume(args) => print(globals.output, &fleet.run_resume(args.id).await?, one),
        Command::Undo(args) => print(globals.output, &fleet.run_undo(args.id).await?, one),
        Command::List(args) => {
            let tenant = match &args.tenant {
                Some(tenant) => Some(fleet.tenant_id(tenant).await?),
                None => None,
            };
            let open = args.open.then_some(true);
            let page = args.paging.collect(async |limit, cursor| {
                fleet.run_list(&RunFilter { tenant, open, limit, cursor }).await
            });
            print_page(globals, &page.await?, many)
        }
    }
}

fn one(run: &Run) -> String {
    let fields = table::fields([
        ("id", run.id.to_string()),
        ("kind", run.kind.clone()),
        ("state", run.state.as_str().to_owned()),
        ("subject", run.subject.clone()),
        ("attempts", run.attempts.to_string()),
        ("error", table::or_dash(run.error.as_ref())),
        ("created", table::time(run.created_at)),
        ("finished", table::or_dash(run.finished_at.map(table::time))),
    ]);
    let steps = run.steps.iter().map(|step| {
        let mark = match step.state {
            StepState::Pending => "pending",
            StepState::Done => "done",
            StepState::Undone => "undone",
        };
        [step.name.clone(), mark.to_owned(), table::or_dash(step.finished_at.map(table::time))]
    });
    format!("{fields}\n{}", table::table(["step", "state", "finished"], steps))
}

fn many(runs: &[Run]) -> String {
    table::table(
        ["id", "kind", "state", "subject", "attempts", "created", "error"],
        runs.iter().map(|run| {
            [
                run.id.to_string(),
                run.kind.clone(),
                run.state.as_str().to_owned(),
                run.subject.clone(),
                run.attempts.to_string(),
                table::time(run.created_at),
                table::or_dash(run.error.as_ref()),
            ]
        }),
    )
}
