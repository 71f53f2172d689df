//! `freehold operator …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::paging::Paging;
use super::{Globals, table};
use crate::http::vocabulary::validate;
use crate::identity::operators::{
    NewOperator, Operator, OperatorFilter, OperatorRef, OperatorRole, operator_add, operator_list,
    operator_remove, operator_set_role,
};
use crate::kernel::Result;

const WHAT: &str = "operator";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Let the person with this address at the operators' provider in at /operator
    #[command(after_help = "\
Examples:
  freehold operator add alice@example.com --name 'Alice Adams'
  freehold operator add bob@example.com --name Bob --role viewer

The address is used once, at their first sign-in, and only if the provider has verified it. From then on, the provider's \
own identifier for them counts. The provider is [[operator_provider]] in the identity settings.")]
    Add(Add),
    /// List operators, with those who were removed at the end
    #[command(after_help = "Examples:\n  freehold operator list")]
    List(Paging),
    /// Remove an operator: their sessions and their support sessions end at once
    #[command(after_help = "Examples:\n  freehold operator remove alice@example.com")]
    Remove(Remove),
    /// Give an operator another role, from the next request on
    #[command(after_help = "Examples:\n  freehold operator role alice@example.com viewer")]
    Role(Change),
}

#[derive(Debug, Args)]
pub struct Add {
    /// Their address at the operators' provider
    email: String,
    /// Their name, which tenants see during a support session
    #[arg(long)]
    name: String,
    /// What they may do: a viewer reads; finance also corrects money; an operator changes everything and starts support
    /// sessions
    #[arg(long, value_enum, default_value_t = OperatorRole::Operator)]
    role: OperatorRole,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Their address or id
    operator: OperatorRef,
}

#[derive(Debug, Args)]
pub struct Change {
    /// Their address or id
    operator: OperatorRef,
    /// What they may do from now on
    #[arg(value_enum)]
    role: OperatorRole,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    let direct = fleet.direct(WHAT)?;
    let (cp, caller) = (&direct.cp, &direct.caller);
    let operator = match command {
        Command::List(paging) => {
            let page = paging.collect(async |limit, cursor| {
                operator_list(&mut *direct.control().await?, &OperatorFilter { limit, cursor }).await
            });
            return print_page(globals, &page.await?, many);
        }
        Command::Add(Add { email, name, role }) => {
            let new = NewOperator { email, name, role };
            validate(&new)?;
            operator_add(cp, caller, &new).await?
        }
        Command::Remove(args) => operator_remove(cp, caller, &args.operator).await?,
        Command::Role(args) => operator_set_role(cp, caller, &args.operator, args.role).await?,
    };
    print(globals.output, &operator, |one| many(std::slice::from_ref(one)))
}

fn many(operators: &[Operator]) -> String {
    table::table(
        ["email", "name", "role", "signed in", "since", "removed", "id"],
        operators.iter().map(|one| {
            [
                one.email.clone(),
                one.name.clone(),
                one.role.as_str().to_owned(),
                if one.known { "yes" } else { "not yet" }.to_owned(),
                table::time(one.created_at),
                table::or_dash(one.disabled_at.map(table::time)),
                one.id.to_string(),
            ]
        }),
    )
}
