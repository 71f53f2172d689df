//! `freehold api-key …`

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::paging::Paging;
use super::{Globals, table};
use crate::control_plane::tenants::TenantRef;
use crate::identity::keys::{ApiKey, KeyFilter, NewApiKey, WithSecret};
use crate::kernel::ids::ApiKeyId;
use crate::kernel::{Result, Role};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create an API key for a tenant. It is shown only once
    #[command(after_help = "\
Examples:
  freehold api-key create --tenant acme --role owner --name 'first key'
  freehold api-key create --tenant acme --role member --name ci --output json | jq -r .key
  freehold api-key create --tenant acme --role viewer --name audit --expires 2027-01-01T00:00:00Z")]
    Create(Create),
    /// List a tenant's API keys, newest first, including revoked ones
    #[command(after_help = "Examples:\n  freehold api-key list --tenant acme")]
    List(List),
    /// Revoke an API key: every server refuses it within a second
    #[command(after_help = "Examples:\n  freehold api-key revoke key_06fqv3k1s9t4m7b2n8c5v0r6e4")]
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub struct Create {
    /// The tenant it is for: slug or id
    #[arg(long)]
    tenant: TenantRef,
    /// What it may do
    #[arg(long, value_enum)]
    role: Role,
    /// What it is for, to tell keys apart
    #[arg(long)]
    name: String,
    /// When it stops working, for example 2027-01-01T00:00:00Z; never by default
    #[arg(long, value_name = "TIME")]
    expires: Option<DateTime<Utc>>,
}

#[derive(Debug, Args)]
pub struct List {
    /// The tenant: slug or id
    #[arg(long)]
    tenant: TenantRef,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub struct Revoke {
    /// The key's id, not the key
    id: ApiKeyId,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    match command {
        Command::List(List { tenant, paging }) => {
            let page = paging.collect(async |limit, cursor| {
                fleet.api_key_list(&tenant, &KeyFilter { limit, cursor }).await
            });
            print_page(globals, &page.await?, many)
        }
        Command::Revoke(args) => print(globals.output, &fleet.api_key_revoke(args.id).await?, one),
        Command::Create(Create { tenant, role, name, expires }) => {
            let new = NewApiKey { name, role, expires_at: expires };
            print(globals.output, &fleet.api_key_create(&tenant, &new).await?, secret)
        }
    }
}

fn secret(made: &WithSecret<ApiKey>) -> String {
    format!("{}key         {}\n\nIt is not shown again.\n", one(&made.record), made.key)
}

fn one(key: &ApiKey) -> String {
    table::fields([
        ("id", key.id.to_string()),
        ("tenant", key.tenant.to_string()),
        ("name", key.name.clone()),
        ("role", key.role.to_string()),
        ("created", table::time(key.created_at)),
        ("expires", table::or_dash(key.expires_at.map(table::time))),
        ("revoked", table::or_dash(key.revoked_at.map(table::time))),
        ("last used ", table::or_dash(key.last_used_at.map(table::time))),
    ])
}

fn many(keys: &[ApiKey]) -> String {
    table::table(
        ["id", "name", "role", "tail", "created", "expires", "revoked", "last used"],
        keys.iter().map(|key| {
            [
                key.id.to_string(),
                key.name.clone(),
                key.role.to_string(),
                key.tail.clone(),
                table::time(key.created_at),
                table::or_dash(key.expires_at.map(table::time)),
                table::or_dash(key.revoked_at.map(table::time)),
                table::or_dash(key.last_used_at.map(table::time)),
            ]
        }),
    )
}
