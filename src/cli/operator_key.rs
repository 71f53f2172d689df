//! `freehold operator-key …`

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::paging::Paging;
use super::{Globals, table};
use crate::http::operator::NewOperatorKey;
use crate::identity::keys::{KeyFilter, OperatorKey, WithSecret};
use crate::identity::operators::OperatorRole;
use crate::kernel::Result;
use crate::kernel::ids::OperatorKeyId;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a key for the operators' API. It is shown only once
    #[command(after_help = "\
Examples:
  freehold operator-key create --name 'alice on her laptop' --owner alice@example.com
  freehold operator-key create --name dashboard --role viewer
  export FREEHOLD_OPERATOR_KEY=$(freehold operator-key create --name ci --output json | jq -r .key)

A key with an owner acts for that operator: it can never do more than they can, and it ends with them. A key without an \
owner may ask for corrections of money, but cannot agree to any. With --server, a key only creates keys of its own owner.")]
    Create(Create),
    /// List operators' keys, newest first, including revoked ones
    #[command(after_help = "Examples:\n  freehold operator-key list")]
    List(Paging),
    /// Revoke an operator's key at once
    #[command(after_help = "Examples:\n  freehold operator-key revoke opk_06fqv3k1s9t4m7b2n8c5v0r6e4")]
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub struct Create {
    /// Who will use it
    #[arg(long)]
    name: String,
    /// What it may do: viewer reads; finance also corrects money; operator changes everything
    #[arg(long, value_enum, default_value_t = OperatorRole::Operator)]
    role: OperatorRole,
    /// The operator it belongs to: address or id; with --server, by default the owner of the key in use
    #[arg(long, value_name = "EMAIL")]
    owner: Option<String>,
    /// When it stops working, for example 2027-01-01T00:00:00Z; never by default
    #[arg(long, value_name = "TIME")]
    expires: Option<DateTime<Utc>>,
}

#[derive(Debug, Args)]
pub struct Revoke {
    /// The key's id, not the key
    id: OperatorKeyId,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    match command {
        Command::List(paging) => {
            let page = paging
                .collect(async |limit, cursor| fleet.operator_key_list(&KeyFilter { limit, cursor }).await);
            print_page(globals, &page.await?, many)
        }
        Command::Revoke(args) => {
            let key = fleet.operator_key_revoke(args.id).await?;
            print(globals.output, &key, |key| many(std::slice::from_ref(key)))
        }
        Command::Create(Create { name, role, owner, expires }) => {
            let new = NewOperatorKey { name, role, owner, expires_at: expires };
            print(globals.output, &fleet.operator_key_create(&new).await?, secret)
        }
    }
}

fn secret(made: &WithSecret<OperatorKey>) -> String {
    let fields = [
        ("id", made.record.id.to_string()),
        ("name", made.record.name.clone()),
        ("owner", table::or_dash(made.record.owner_email.clone())),
        ("key", made.key.clone()),
    ];
    table::fields(fields) + "\nIt is not shown again.\n"
}

fn many(keys: &[OperatorKey]) -> String {
    table::table(
        ["id", "name", "role", "owner", "tail", "created", "expires", "revoked"],
        keys.iter().map(|key| {
            [
                key.id.to_string(),
                key.name.clone(),
                key.role.as_str().to_owned(),
                table::or_dash(key.owner_email.clone()),
                key.tail.clone(),
                table::time(key.created_at),
                table::or_dash(key.expires_at.map(table::time)),
                table::or_dash(key.revoked_at.map(table::time)),
            ]
        }),
    )
}
