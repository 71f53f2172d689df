//! `freehold shard …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::{Globals, table};
use crate::control_plane::shards::{NewShard, Shard, ShardState};
use crate::kernel::{Result, SecretRef};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a shard and prepare its database, so that it takes tenants
    #[command(after_help = "\
Examples:
  freehold shard add eu-1 --pool default --dsn file:/run/secrets/eu-1 --tenant-cap 2000 --slots 20
  FREEHOLD_SHARD_EU_1=postgres://… freehold shard add eu-1 --dsn env:FREEHOLD_SHARD_EU_1

The reference to the admin DSN is kept, never the DSN: every worker must find it under the same name. The database \
must exist; its admin login needs CREATEROLE and must own the database (or be a superuser).")]
    Add(Add),
    /// List shards with their tenants, slots and health
    #[command(
        after_help = "Examples:\n  freehold shard list\n  freehold shard list --output json | jq '.items[].slots_ready'"
    )]
    List,
    /// Show one shard
    #[command(after_help = "Examples:\n  freehold shard show eu-1")]
    Show(One),
    /// Stop placing new tenants on a shard; those it has are still served
    #[command(after_help = "Examples:\n  freehold shard drain eu-1")]
    Drain(One),
    /// Let a shard take new tenants again
    #[command(after_help = "Examples:\n  freehold shard activate eu-1")]
    Activate(One),
    /// Take a shard out of the registry: one added by mistake, or not needed any more
    #[command(after_help = "\
Examples:
  freehold shard drain eu-9
  freehold slot fill --shard eu-9 --target 0
  freehold shard remove eu-9

Refused while it takes tenants, has any (deleted ones count until they are purged), or has spare slots: a worker removes \
those of a drained shard whose target is 0. What is in its database stays there.")]
    Remove(One),
}

#[derive(Debug, Args)]
pub struct Add {
    /// Its name: 2 to 31 characters a-z, 0-9 and -
    name: String,
    /// The pool it belongs to
    #[arg(long, default_value = "default")]
    pool: String,
    /// Where its admin DSN is kept: env:NAME or file:/path
    #[arg(long, value_name = "REFERENCE")]
    dsn: SecretRef,
    /// The most tenants it may hold
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    tenant_cap: i32,
    /// Spare slots to keep ready
    #[arg(long, default_value_t = 5, value_name = "N")]
    slots: i32,
}

#[derive(Debug, Args)]
pub struct One {
    /// Its name or id
    shard: String,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    let shard = match command {
        Command::List => return print_page(globals, &fleet.shard_list().await?, many),
        Command::Add(Add { name, pool, dsn, tenant_cap, slots }) => {
            fleet.shard_add(&NewShard { name, pool, dsn, tenant_cap, slots }).await?
        }
        Command::Show(args) => fleet.shard_show(&args.shard).await?,
        Command::Drain(args) => fleet.shard_state(&args.shard, ShardState::Draining).await?,
        Command::Activate(args) => fleet.shard_state(&args.shard, ShardState::Active).await?,
        Command::Remove(args) => fleet.shard_remove(&args.shard).await?,
    };
    print(globals.output, &shard, one)
}

fn one(shard: &Shard) -> String {
    let address = match (&shard.host, shard.port, &shard.database) {
        (Some(host), Some(port), Some(database)) => format!("{host}:{port}/{database}"),
        _ => "-".to_owned(),
    };
    table::fields([
        ("id", shard.id.to_string()),
        ("name", shard.name.clone()),
        ("pool", shard.pool.clone()),
        ("region", shard.region.clone()),
        ("state", shard.state.as_str().to_owned()),
        ("tenants", format!("{} of {}", shard.tenants, shard.tenant_cap)),
        ("slots", format!("{} of {}", shard.slots_ready, shard.slot_target)),
        ("address", address),
        ("admin dsn", shard.admin_dsn_ref.clone()),
        ("size", table::bytes(shard.bytes)),
        ("last seen", table::or_dash(shard.last_seen_at.map(table::time))),
        ("last failure", table::or_dash(shard.last_failure.as_ref())),
        ("created", table::time(shard.created_at)),
    ])
}

pub fn many(shards: &[Shard]) -> String {
    table::table(
        ["name", "pool", "region", "state", "tenants", "slots", "size", "last seen", "last failure"],
        shards.iter().map(|shard| {
            [
                shard.name.clone(),
                shard.pool.clone(),
                shard.region.clone(),
                shard.state.as_str().to_owned(),
                format!("{}/{}", shard.tenants, shard.tenant_cap),
                format!("{}/{}", shard.slots_ready, shard.slot_target),
                table::bytes(shard.bytes),
                table::or_dash(shard.last_seen_at.map(table::time)),
                table::or_dash(shard.last_failure.as_ref()),
            ]
        }),
    )
}
