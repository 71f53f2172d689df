//! `freehold billing incident …`: what somebody has to look at.

use clap::{Args, Subcommand};

use super::ask::Till;
use super::sheet::print_sheet;
use super::{Globals, one};
use crate::billing::incidents::IncidentId;
use crate::billing::reconcile::duties::Accept;
use crate::kernel::Result;

#[derive(Debug, Subcommand)]
pub enum Incidents {
    /// List what somebody has to look at
    #[command(after_help = "Examples:\n  freehold billing incident list")]
    List(IncidentList),
    /// Settle an incident: somebody has looked at it, and it is over
    #[command(after_help = "Examples:\n  freehold billing incident settle inc_06fqv3k1s9t4m7b2n8c5v0r6e4")]
    Settle(IncidentArgs),
    /// Decide that what is owed to a customer, or billed by nobody, stays as it is
    #[command(after_help = "\
Examples:
  freehold billing incident accept inc_06fqv3k1s9t4m7b2n8c5v0r6e4 --reason 'paid back by bank transfer on 2026-12-03'

For incidents of the kinds credit_due and usage_unbilled. Settled without a decision, the next comparison opens them again.")]
    Accept(AcceptArgs),
}

#[derive(Debug, Args)]
pub struct IncidentList {
    /// Include those that are over
    #[arg(long)]
    settled: bool,
}

#[derive(Debug, Args)]
pub struct IncidentArgs {
    /// The incident's id
    id: IncidentId,
}

#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// The incident's id
    id: IncidentId,
    /// Why, for the audit log
    #[arg(long)]
    reason: String,
}

pub(super) async fn run(globals: &Globals, till: &Till, command: Incidents) -> Result<()> {
    match command {
        Incidents::List(IncidentList { settled }) => {
            print_sheet(globals, &till.all_incidents(settled).await?)
        }
        Incidents::Settle(IncidentArgs { id }) => one(globals, till.incident_settle(id).await?),
        Incidents::Accept(AcceptArgs { id, reason }) => {
            one(globals, till.incident_accept(id, &Accept { reason }).await?)
        }
    }
}
