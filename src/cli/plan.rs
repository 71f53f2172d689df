//! `freehold plan …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::{Globals, table};
use crate::control_plane::plans::{Plan, PlanChanges, SHIPPED};
use crate::kernel::{Error, Result, codes};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the plans on sale and what they grant
    #[command(
        after_long_help = "Examples:\n  freehold plan list\n  freehold plan list --output json | jq '.items[].entitlements'"
    )]
    List,
    /// Bring the plans to those of a file
    #[command(after_long_help = "\
Examples:
  freehold plan apply --dry-run # the plans this program ships with
  freehold plan apply --file plans.toml

Plans that the file leaves out are no longer sold; tenants that have one keep it.")]
    Apply(Apply),
}

#[derive(Debug, Args)]
pub struct Apply {
    /// The plan file; the plans that this program ships with when not given
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    match command {
        Command::List => print_page(globals, &Fleet::open(globals).await?.plan_list().await?, many),
        Command::Apply(args) => {
            let toml = match &args.file {
                None => SHIPPED.to_owned(),
                Some(path) => std::fs::read_to_string(path).map_err(|error| {
                    Error::new(&codes::BAD_REQUEST)
                        .detail(format!("{} cannot be read: {error}", path.display()))
                })?,
            };
            let changes = Fleet::open(globals).await?.plan_apply(toml, args.dry_run).await?;
            print(globals.output, &changes, changed)
        }
    }
}

fn changed(changes: &PlanChanges) -> String {
    let list = |ids: &[String]| if ids.is_empty() { "-".to_owned() } else { ids.join(", ") };
    table::fields([
        ("added", list(&changes.added)),
        ("changed", list(&changes.changed)),
        ("retired", list(&changes.retired)),
        ("unchanged", list(&changes.unchanged)),
    ])
}

fn many(plans: &[Plan]) -> String {
    table::table(
        [
            "plan",
            "name",
            "tier",
            "pool",
            "requests/s",
            "burst",
            "connections",
            "statement ms",
            "projects",
            "seats",
        ],
        plans.iter().map(|plan| {
            let grants = &plan.entitlements;
            [
                plan.id.clone(),
                plan.name.clone(),
                plan.tier.as_str().to_owned(),
                plan.shard_pool.clone(),
                grants.requests_per_second.to_string(),
                grants.burst.to_string(),
                grants.connections.to_string(),
                grants.statement_timeout_ms.to_string(),
                grants.projects.to_string(),
                grants.seats.to_string(),
            ]
        }),
    )
}
