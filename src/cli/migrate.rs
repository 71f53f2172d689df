//! `freehold migrate …`

use clap::Subcommand;
use serde::Serialize;
use sqlx::Connection;

use super::fleet::{Direct, Fleet};
use super::output::print;
use super::{Globals, table};
use crate::billing::ledger;
use crate::control_plane::fleet::{self, Outcome};
use crate::db::control;
use crate::db::migrations::{self, Migrated};
use crate::kernel::{Error, Result, codes};
use crate::product::{Current, Product};

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// The control database. The first command on an empty one
    #[command(after_help = "\
Examples:
  FREEHOLD_CONTROL_URL=postgres://freehold:…@db/freehold freehold migrate control
  freehold migrate control # safe to run from two places: the second waits for the first")]
    Control,
    /// Every shard's own schema; also revokes what PUBLIC should not be able to do
    #[command(after_help = "Examples:\n  freehold migrate shards")]
    Shards,
    /// Every tenant's schema and every spare slot
    #[command(after_help = "\
Examples:
  freehold migrate tenants

A tenant whose migration fails stays on its version and is served as before, and the others continue. Run it again when \
the cause is gone.")]
    Tenants,
    /// All three, one after the other
    #[command(after_help = "Examples:\n  freehold migrate all")]
    All,
}

/// What was done; what was not asked for is left out.
#[derive(Default, Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<Migrated>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<Vec<Outcome>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenants: Option<Vec<Outcome>>,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    globals.databases_only("migrate")?;
    let mut report = Report::default();
    if matches!(command, Command::Control | Command::All) {
        report.control = Some(migrate_control(globals).await?);
    }
    if !matches!(command, Command::Control) {
        let fleet = Fleet::open(globals).await?;
        let direct = fleet.direct("migrate")?;
        if matches!(command, Command::Shards | Command::All) {
            report.shards = Some(migrate_shards(direct).await?);
        }
        if matches!(command, Command::Tenants | Command::All) {
            report.tenants = Some(migrate_tenants(direct).await?);
        }
    }
    print(globals.output, &report, text)?;
    failures(&report)
}

async fn migrate_control(globals: &Globals) -> Result<Migrated> {
    let options = control::options(globals.control.control_url()?, "freehold-cli")?;
    // Says what is wrong with the address, before anything else does.
    control::connect(&options).await?.close().await.ok();
    let migrated = migrations::migrate(&migrations::CONTROL, &options).await?;
    // Plans name meters, and are applied next.
    let mut conn = control::connect(&options).await?;
    let put = ledger::meters_put(&mut conn, Current::METERS).await;
    conn.close().await.ok();
    put.map(|()| migrated)
}

async fn migrate_shards(direct: &Direct) -> Result<Vec<Outcome>> {
    let bar = direct.progress.count(0, "shards");
    let done = fleet::migrate_shards(direct.hands()?, |_| bar.inc(1)).await;
    bar.finish_and_clear();
    done
}

async fn migrate_tenants(direct: &Direct) -> Result<Vec<Outcome>> {
    let bar = direct.progress.count(0, "tenants");
    let done = fleet::migrate_tenants(direct.hands()?, |_| bar.inc(1)).await;
    bar.finish_and_clear();
    done
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    if let Some(Migrated { from, to }) = &report.control {
        text += &match from == to {
            true => format!("control database: at version {to} already\n"),
            false => format!("control database: from version {from} to {to}\n"),
        };
    }
    for (what, outcomes) in [("shards", &report.shards), ("tenants", &report.tenants)] {
        let Some(outcomes) = outcomes else { continue };
        let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
        text += &format!("{what}: {} done, {} failed\n", outcomes.len() - failed.len(), failed.len());
        if !failed.is_empty() {
            let rows = failed.iter().map(|one| [one.name.clone(), table::or_dash(one.error.as_ref())]);
            text += &table::table(["name", "error"], rows);
        }
    }
    text
}

fn failures(report: &Report) -> Result<()> {
    let all = [&report.shards, &report.tenants].into_iter().flatten().flatten();
    match all.filter(|outcome| outcome.error.is_some()).count() {
        0 => Ok(()),
        failed => Err(Error::new(&codes::INTERNAL)
            .detail(format!("{failed} could not be migrated"))
            .hint("they stay on their version; look at the errors, then run it again")),
    }
}
