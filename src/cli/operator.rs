//! `freehold operator …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::{Globals, table};
use crate::http::vocabulary::validate;
use crate::identity::operators::{
    NewOperator, Operator, OperatorRef, OperatorRole, operator_add, operator_list, operator_remove,
    operator_set_role,
};
use crate::kernel::Result;
use crate::kernel::page::Page;

const WHAT: &str = "operator";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Let somebody in at /operator, who has this address at the operators' provider
    #[command(after_long_help = "\
Examples:
  freehold operator add alice@example.com --name 'Alice Adams'
  freehold operator add bob@example.com --name Bob --role viewer

The address leads to them once, at their first sign-in, and only if the provider has verified it. After that it is the
provider's own name for them that counts. The provider is [[operator_provider]] in the identity settings.")]
    Add(Add),
    /// List operators, those who were removed at the end
    #[command(after_long_help = "Examples:\n  freehold operator list")]
    List,
    /// Shut an operator out: their sessions end at once, and their looks into tenants
    #[command(after_long_help = "Examples:\n  freehold operator remove alice@example.com")]
    Remove(Remove),
    /// Give an operator another role, from the next request on
    #[command(after_long_help = "Examples:\n  freehold operator role alice@example.com viewer")]
    Role(Change),
}

#[derive(Debug, Args)]
pub struct Add {
    /// Their address at the operators' provider
    email: String,
    /// Their name: tenants read it when they look in
    #[arg(long)]
    name: String,
    /// What they may do: viewer reads, finance corrects money too, operator changes things and looks into tenants
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
        Command::List => {
            let all = operator_list(&mut *direct.control().await?).await?;
            return print_page(globals, &Page::whole(all), many);
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
