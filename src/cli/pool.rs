//! `freehold pool …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::{Globals, table};
use crate::control_plane::plans::Tier;
use crate::control_plane::shards::{NewPool, ShardPool};
use crate::kernel::Result;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a shard pool
    #[command(
        after_help = "Examples:\n  freehold pool add default --region eu-central\n  freehold pool add eu-dedicated --region eu-central --tier dedicated"
    )]
    Add(Add),
    /// List shard pools
    #[command(after_help = "Examples:\n  freehold pool list")]
    List,
}

#[derive(Debug, Args)]
pub struct Add {
    /// Its name: 2 to 31 characters a-z, 0-9 and -
    name: String,
    /// The region its shards are in
    #[arg(long)]
    region: String,
    /// Whether tenants share its shards
    #[arg(long, value_enum, default_value_t = Tier::Pooled)]
    tier: Tier,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    match command {
        Command::List => print_page(globals, &fleet.pool_list().await?, many),
        Command::Add(Add { name, region, tier }) => {
            let pool = fleet.pool_add(&NewPool { name, region, tier }).await?;
            print(globals.output, &pool, |pool| many(std::slice::from_ref(pool)))
        }
    }
}

fn many(pools: &[ShardPool]) -> String {
    table::table(
        ["name", "region", "tier", "created"],
        pools.iter().map(|pool| {
            [
                pool.name.clone(),
                pool.region.clone(),
                pool.tier.as_str().to_owned(),
                table::time(pool.created_at),
            ]
        }),
    )
}
