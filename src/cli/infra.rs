//! `freehold infra …`: what there is in the cloud, what would be changed there, what somebody has changed.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::fleet::Fleet;
use super::output::print;
use super::{Globals, table};
use crate::app;
use crate::control_plane::Hands;
use crate::control_plane::audit::Caller;
use crate::control_plane::infra::lookout::{self, Look, LookFilter};
use crate::control_plane::infra::settings::InfraSettings;
use crate::control_plane::infra::targets::{audited, may_apply, may_destroy, target};
use crate::control_plane::infra::{Changed, Planned, Report, Shown, owners};
use crate::kernel::{Error, Result, codes};

#[derive(Debug, Args)]
pub struct InfraArgs {
    /// How the cloud is provisioned: the same TOML file as the worker's (docs/OPERATIONS.md, infra/cloud.example.toml)
    #[arg(long, global = true, env = "FREEHOLD_INFRA", value_name = "FILE")]
    infra: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what an apply would change
    #[command(after_help = "\
Examples:
  freehold infra plan platform
  freehold infra plan tenant/acme --output json | jq '.changes[].address'")]
    Plan(Named),
    /// Bring it to its intended state, undoing drift. Refused if data would be lost
    #[command(after_help = "\
Examples:
  freehold infra apply shard/eu-1
  freehold infra apply tenant/acme

The platform is applied with Terraform itself: docs/DEPLOY.md.")]
    Apply(Named),
    /// Show what was changed from outside. Exits with 1 if there is anything
    #[command(after_help = "\
Examples:
  freehold infra drift tenant/acme

A worker looks at everything once a day; `freehold infra findings` says what it found.")]
    Drift(Named),
    /// Show what exists according to the recorded state; the cloud is not asked
    #[command(after_help = "\
Examples:
  freehold infra show platform --output json | jq .output.network
  freehold infra show tenant/acme")]
    Show(Named),
    /// Remove the server of a shard that is not registered. A final snapshot and its key are kept
    #[command(after_help = "\
Examples:
  freehold infra destroy shard/eu-1 --yes

What belongs to a tenant is removed when it is purged: freehold tenant purge.")]
    Destroy(Destroy),
    /// List what exists in the cloud under this environment's name and is in no state, and states that nothing names. Exits
    /// with 1 if there is anything
    #[command(after_help = "Examples:\n  freehold infra orphans")]
    Orphans,
    /// Show what the workers' daily checks found: drift, orphans, and what could not be checked
    #[command(after_help = "Examples:\n  freehold infra findings\n  freehold infra findings --all")]
    Findings(Findings),
}

#[derive(Debug, Args)]
struct Findings {
    /// Include what is as it should be
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
struct Named {
    /// platform, shard/<name> or tenant/<slug or id>
    #[arg(value_name = "WHAT")]
    what: String,
}

#[derive(Debug, Args)]
struct Destroy {
    #[command(flatten)]
    named: Named,

    /// Do it
    #[arg(long)]
    yes: bool,
}

/// # Errors
/// What the provisioner says; and when something was found that should not be.
pub async fn run(globals: &Globals, args: InfraArgs) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    if let Command::Findings(Findings { all }) = args.command {
        let looks = fleet.infra_looks(&LookFilter { all: Some(all) }).await?;
        return print(globals.output, &looks.items, |looks| findings(looks));
    }
    let direct = fleet.direct("infra, but for infra findings,")?;
    let mut hands = direct.hands()?.clone();
    hands.cloud = app::cloud(InfraSettings::of(args.infra.as_deref())?)?;
    match args.command {
        Command::Plan(named) => {
            let target = target(&hands, &named.what).await?;
            let planned = watched(globals, "planning", hands.cloud.get()?.plan(&target)).await?;
            print(globals.output, &planned, plan)
        }
        Command::Apply(named) => apply(globals, &hands, &direct.caller, &named.what).await,
        Command::Drift(named) => drift(globals, &hands, &named.what).await,
        Command::Show(named) => {
            let target = target(&hands, &named.what).await?;
            print(globals.output, &hands.cloud.get()?.show(&target).await?, shown)
        }
        Command::Destroy(Destroy { named, yes }) => {
            destroy(globals, &hands, &direct.caller, &named.what, yes).await
        }
        Command::Orphans => {
            let found = watched(globals, "looking", owners::orphans(&hands)).await?;
            print(globals.output, &found, |found| {
                if found.is_empty() { "no orphans".to_owned() } else { found.join("\n") }
            })?;
            found_none(found.len(), "orphans")
        }
        Command::Findings(_) => unreachable!("answered above, by a server too"),
    }
}

async fn apply(globals: &Globals, hands: &Hands, caller: &Caller, what: &str) -> Result<()> {
    let target = target(hands, what).await?;
    may_apply(&target)?;
    audited(hands, caller, "infra.apply", &target).await?;
    let (report, bar) = bar(globals);
    let output = hands.cloud.get()?.apply(&target, report).await;
    bar.finish_and_clear();
    let output = output?;
    lookout::found(hands, &target, &[]).await?;
    print(globals.output, &output, |output| serde_json::to_string_pretty(output).unwrap_or_default())
}

async fn drift(globals: &Globals, hands: &Hands, what: &str) -> Result<()> {
    let target = target(hands, what).await?;
    let planned = watched(globals, "looking", hands.cloud.get()?.plan(&target)).await?;
    lookout::found(hands, &target, &planned.drift).await?;
    print(globals.output, &planned.drift, |drift| {
        if drift.is_empty() { "nothing was changed behind our back".to_owned() } else { changes(drift) }
    })?;
    found_none(planned.drift.len(), "resources that somebody has changed")
}

async fn destroy(globals: &Globals, hands: &Hands, caller: &Caller, what: &str, yes: bool) -> Result<()> {
    let target = target(hands, what).await?;
    may_destroy(hands, &target).await?;
    if !yes {
        return Err(Error::new(&codes::PRECONDITION_FAILED)
            .detail(format!("{what} would be removed for good"))
            .hint("see what it holds with: freehold infra show; then say --yes"));
    }
    audited(hands, caller, "infra.destroy", &target).await?;
    let (report, bar) = bar(globals);
    let done = hands.cloud.get()?.destroy(&target, report).await;
    bar.finish_and_clear();
    let destroyed = Destroyed { destroyed: what, kept: done? };
    print(globals.output, &destroyed, |done| {
        let kept = done.kept.iter().map(|one| format!("\nkept: {one}"));
        format!("{} is removed{}", done.destroyed, kept.collect::<String>())
    })
}

/// What `infra destroy` answers.
#[derive(Serialize)]
struct Destroyed<'a> {
    destroyed: &'a str,
    /// On purpose: the last snapshot, and the key without which nobody can read it.
    kept: Vec<String>,
}

fn found_none(count: usize, what: &str) -> Result<()> {
    match count {
        0 => Ok(()),
        count => Err(Error::new(&codes::INTERNAL).detail(format!("{count} {what}"))),
    }
}

async fn watched<T>(
    globals: &Globals,
    doing: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let bar = globals.progress().wait(doing);
    let done = work.await;
    bar.finish_and_clear();
    done
}

/// A bar over the changes, with what is being worked at.
fn bar(globals: &Globals) -> (Report, indicatif::ProgressBar) {
    let bar = globals.progress().count(0, "planning");
    let shown = bar.clone();
    let report: Report = Arc::new(move |progress| {
        shown.set_length(progress.planned);
        shown.set_position(progress.done);
        shown.set_message(progress.working.first().cloned().unwrap_or_default());
    });
    (report, bar)
}

fn plan(planned: &Planned) -> String {
    if planned.changes.is_empty() {
        return "nothing to change".to_owned();
    }
    changes(&planned.changes)
}

fn changes(all: &[Changed]) -> String {
    table::table(["action", "resource"], all.iter().map(|one| [one.action.clone(), one.address.clone()]))
}

fn findings(looks: &[Look]) -> String {
    if looks.is_empty() {
        return "nothing".to_owned();
    }
    let rows = looks.iter().map(|look| {
        let name =
            if look.name.is_empty() { look.kind.clone() } else { format!("{}/{}", look.kind, look.name) };
        let found: Vec<&str> = look.found.iter().map(|changed| changed.address.as_str()).collect();
        [name, found.join(" "), table::or_dash(look.error.as_ref()), table::time(look.looked_at)]
    });
    table::table(["what", "found", "not looked at because", "looked at"], rows)
}

fn shown(shown: &Shown) -> String {
    let mut text = shown.resources.join("\n");
    text.push('\n');
    if !shown.output.is_null() {
        text += &serde_json::to_string_pretty(&shown.output).unwrap_or_default();
    }
    text
}
