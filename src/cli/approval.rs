//! `freehold approval …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::paging::Paging;
use super::{Globals, table};
use crate::control_plane::approvals::{Approval, ApprovalFilter, Grave, NewApproval};
use crate::kernel::Result;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Agree that another operator may delete many tenants, or remove them for good at once
    #[command(after_help = "\
Examples:
  freehold approval give alice@example.com --action delete --tenants 50 --reason 'test tenants of last week'
  freehold approval give alice@example.com --action purge --tenants 1 --reason 'asked for by the customer, ticket 4711'

Through a server, an operator may delete ten tenants within an hour, and remove ten early. For more than that, and to \
remove at once a tenant that they deleted themselves, another operator has to agree. An approval lasts an hour. Commands \
that work on the databases themselves need none, and can give one.")]
    Give(Give),
    /// List approvals, newest first
    #[command(after_help = "Examples:\n  freehold approval list\n  freehold approval list --all")]
    List(List),
}

#[derive(Debug, Args)]
pub struct Give {
    /// The operator it is for: address or id
    operator: String,
    /// What they may do
    #[arg(long, value_enum)]
    action: Grave,
    /// The number of tenants it covers
    #[arg(long, value_name = "N", default_value_t = 10)]
    tenants: i32,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    paging: Paging,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    match command {
        Command::Give(Give { operator, action, tenants, reason }) => {
            let given = fleet.approval_give(&NewApproval { operator, action, tenants, reason }).await?;
            print(globals.output, &given, |one| many(std::slice::from_ref(one)))
        }
        Command::List(args) => {
            let page = args
                .paging
                .collect(async |limit, cursor| fleet.approval_list(&ApprovalFilter { limit, cursor }).await);
            print_page(globals, &page.await?, many)
        }
    }
}

fn many(approvals: &[Approval]) -> String {
    table::table(
        ["id", "operator", "action", "used", "by", "until", "reason"],
        approvals.iter().map(|one| {
            [
                one.id.to_string(),
                one.operator.to_string(),
                one.action.as_str().to_owned(),
                format!("{} of {}", one.used, one.tenants),
                one.actor.clone(),
                table::time(one.expires_at),
                one.reason.clone(),
            ]
        }),
    )
}
