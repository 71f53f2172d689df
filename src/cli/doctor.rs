//! `freehold doctor`: is everything as it should be?

use clap::Args;

use super::Globals;
use super::output::print;
use crate::app;
use crate::billing::inbox::watch;
use crate::control_plane::doctor::{self, Severity};
use crate::kernel::{Error, Result, codes};

/// Examine the control database, every shard, the cloud and billing, and report what is not as it should be
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  freehold doctor
  freehold doctor --output json | jq '.findings[] | select(.severity == \"problem\")'

Checks versions, clocks, reachability, what PUBLIC can still do, drifted logins, missing slots, stuck runs and dead \
jobs; drift and orphans that the workers found in the cloud; webhooks that wait or were given up, and every open billing \
incident. Each finding is explained in docs/OPERATIONS.md. Exits with 1 when there is a problem; notes alone are fine.")]
pub struct DoctorArgs {}

/// Prints the report.
///
/// # Errors
/// When there is a problem, so that the exit code says so; with a server, which cannot be asked this.
pub async fn run(globals: &Globals, _: &DoctorArgs) -> Result<()> {
    globals.databases_only("doctor")?;
    let hands = app::hands(&globals.control, "freehold-doctor")?;
    let mut report = doctor::examine(&hands, |_| {}).await?;
    let mut conn = hands.cp.db.acquire().await?;
    report.findings.extend(watch::findings(&mut conn, hands.cp.clock.now()).await?);
    drop(conn);
    print(globals.output, &report, |report| {
        let mut text = format!("{} shards, {} tenants\n", report.shards, report.tenants);
        for finding in &report.findings {
            let mark = if finding.severity == Severity::Problem { "PROBLEM" } else { "note" };
            text += &format!("{mark:8}{} {}: {}\n", finding.place, finding.check, finding.message);
            text += &format!("        hint: {}\n", finding.hint);
        }
        if report.healthy() {
            text += "everything is as it should be\n";
        }
        text
    })?;
    if report.healthy() {
        return Ok(());
    }
    let problems = report.findings.iter().filter(|finding| finding.severity == Severity::Problem).count();
    Err(Error::new(&codes::INTERNAL).detail(format!("{problems} problems were found")))
}
