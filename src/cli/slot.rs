//! `freehold slot …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::{Globals, shard, table};
use crate::control_plane::shards::ShardState;
use crate::control_plane::slots::Slot;
use crate::kernel::Result;
use crate::kernel::page::Page;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List up to 1,000 slots that no tenant has claimed
    #[command(after_help = "Examples:\n  freehold slot list\n  freehold slot list --shard eu-1")]
    List(List),
    /// Make spare slots, so that new tenants are ready in milliseconds
    #[command(after_help = "\
Examples:
  freehold slot fill # every active shard, up to the number it keeps
  freehold slot fill --shard eu-1 --target 200

With --target, the shard keeps that many from now on. With --server, a worker makes them.")]
    Fill(Fill),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only slots of this shard
    #[arg(long)]
    shard: Option<String>,
}

#[derive(Debug, Args)]
pub struct Fill {
    /// Only this shard
    #[arg(long)]
    shard: Option<String>,
    /// How many spare slots to keep ready from now on
    #[arg(long, value_name = "N")]
    target: Option<i32>,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    match command {
        Command::List(args) => print_page(globals, &fleet.slot_list(args.shard.as_deref()).await?, many),
        Command::Fill(args) => {
            let shards = match &args.shard {
                Some(shard) => vec![fleet.shard_show(shard).await?],
                None => fleet.shard_list().await?.items,
            };
            let mut filled = Vec::new();
            // One that was named is never passed over in silence.
            for shard in shards.iter().filter(|one| args.shard.is_some() || one.state == ShardState::Active) {
                filled.push(fleet.slot_fill(shard, args.target.unwrap_or(shard.slot_target)).await?);
            }
            print(globals.output, &Page::whole(filled), |page| shard::many(&page.items))
        }
    }
}

fn many(slots: &[Slot]) -> String {
    table::table(
        ["shard", "slot", "state", "version", "created"],
        slots.iter().map(|slot| {
            [
                slot.shard.clone(),
                slot.schema_name.clone(),
                slot.state.clone(),
                slot.version.to_string(),
                table::time(slot.created_at),
            ]
        }),
    )
}
