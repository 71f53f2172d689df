//! `freehold support …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::paging::Paging;
use super::{Globals, table};
use crate::control_plane::tenants::TenantRef;
use crate::identity::support::{NewSupport, StartedSupport, SupportFilter, SupportSession};
use crate::kernel::Result;
use crate::kernel::ids::SupportId;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a support session: read what a tenant sees. The tenant is shown who, why and for how long
    #[command(after_help = "\
Examples:
  freehold support start acme --reason 'ticket 4711: import fails'
  freehold support start acme --reason 'ticket 4711: import fails' --minutes 15

Gives a link for a browser: good once, for ten minutes.")]
    Start(Start),
    /// List support sessions, newest first
    #[command(after_help = "\
Examples:
  freehold support list --live
  freehold support list --tenant acme --all")]
    List(List),
    /// End a support session: every server refuses it within a second
    #[command(after_help = "Examples:\n  freehold support end sup_06fqv3k1s9t4m7b2n8c5v0r6e4")]
    End(End),
}

#[derive(Debug, Args)]
pub struct Start {
    /// The tenant's slug or id
    tenant: TenantRef,
    /// The reason, which the tenant can read
    #[arg(long)]
    reason: String,
    /// How many minutes it may last, at most 240 (default 60)
    #[arg(long, value_name = "N")]
    minutes: Option<u32>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only sessions in this tenant: slug or id
    #[arg(long)]
    tenant: Option<TenantRef>,
    /// Only sessions that are still going on
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub struct End {
    /// The session's id
    id: SupportId,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    match command {
        Command::Start(Start { tenant, reason, minutes }) => {
            let started = fleet.support_start(&tenant, &NewSupport { reason, minutes }).await?;
            print(globals.output, &started, link)
        }
        Command::End(args) => {
            let session = fleet.support_end(args.id).await?;
            print(globals.output, &session, |one| many(std::slice::from_ref(one)))
        }
        Command::List(args) => {
            let tenant = match &args.tenant {
                Some(tenant) => Some(fleet.tenant_id(tenant).await?),
                None => None,
            };
            let live = args.live.then_some(true);
            let page = args.paging.collect(async |limit, cursor| {
                fleet.support_list(&SupportFilter { tenant, live, limit, cursor }).await
            });
            print_page(globals, &page.await?, many)
        }
    }
}

fn link(started: &StartedSupport) -> String {
    table::fields([
        ("id", started.session.id.to_string()),
        ("reason", started.session.reason.clone()),
        ("until", table::time(started.session.expires_at)),
        ("link", started.link.clone()),
    ]) + "\nThe link is good once, for ten minutes. It is not shown again.\n"
}

fn many(sessions: &[SupportSession]) -> String {
    table::table(
        ["id", "tenant", "operator", "reason", "from", "until", "ended"],
        sessions.iter().map(|one| {
            [
                one.id.to_string(),
                one.tenant.to_string(),
                one.operator.clone(),
                one.reason.clone(),
                table::time(one.created_at),
                table::time(one.expires_at),
                table::or_dash(one.ended_at.map(table::time)),
            ]
        }),
    )
}
