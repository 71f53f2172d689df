//! `freehold audit …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::print_page;
use super::paging::Paging;
use super::{Globals, table};
use crate::control_plane::audit::{AuditFilter, AuditLine};
use crate::control_plane::tenants::TenantRef;
use crate::kernel::Result;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List what was changed, by whom, newest first
    #[command(after_long_help = "\
Examples:
  freehold audit list --tenant acme
  freehold audit list --action tenant.psql --all --output json")]
    List(List),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only changes of this tenant: slug or id (a purged one by id)
    #[arg(long)]
    tenant: Option<TenantRef>,
    /// Only changes of this kind, as in tenant.suspend
    #[arg(long)]
    action: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

pub async fn run(globals: &Globals, Command::List(args): Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    let tenant = match &args.tenant {
        Some(tenant) => Some(fleet.tenant_id(tenant).await?),
        None => None,
    };
    let page = args.paging.collect(async |limit, cursor| {
        fleet.audit_list(&AuditFilter { tenant, action: args.action.clone(), limit, cursor }).await
    });
    print_page(globals, &page.await?, many)
}

fn many(lines: &[AuditLine]) -> String {
    table::table(
        ["at", "actor", "action", "subject", "detail", "request id"],
        lines.iter().map(|line| {
            [
                table::time(line.at),
                line.actor.clone(),
                line.action.clone(),
                line.subject.clone(),
                line.detail.to_string(),
                table::or_dash(line.request_id.as_ref()),
            ]
        }),
    )
}
