//! `freehold job …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::paging::Paging;
use super::{Globals, table};
use crate::jobs::queue::{Job, JobFilter, JobState};
use crate::kernel::Result;
use crate::kernel::ids::JobId;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List jobs, newest first
    #[command(after_help = "Examples:\n  freehold job list --state dead")]
    List(List),
    /// Put a dead job back into the queue
    #[command(after_help = "Examples:\n  freehold job retry job_06fqv3k1s9t4m7b2n8c5v0r6e4")]
    Retry(Retry),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only jobs in this state
    #[arg(long, value_enum)]
    state: Option<JobState>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub struct Retry {
    /// The job's id
    id: JobId,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    match command {
        Command::List(args) => {
            let page = args.paging.collect(async |limit, cursor| {
                fleet.job_list(&JobFilter { state: args.state, limit, cursor }).await
            });
            print_page(globals, &page.await?, many)
        }
        Command::Retry(args) => {
            print(globals.output, &fleet.job_retry(args.id).await?, |job| many(std::slice::from_ref(job)))
        }
    }
}

fn many(jobs: &[Job]) -> String {
    table::table(
        ["id", "kind", "tenant", "state", "attempts", "created", "error"],
        jobs.iter().map(|job| {
            [
                job.id.to_string(),
                job.kind.clone(),
                table::or_dash(job.tenant),
                job.state.as_str().to_owned(),
                job.attempts.to_string(),
                table::time(job.created_at),
                table::or_dash(job.error.as_ref()),
            ]
        }),
    )
}
