//! `freehold signing-key …`

use clap::{Args, Subcommand};

use super::fleet::Fleet;
use super::output::{print, print_page};
use super::{Globals, table};
use crate::identity::signing::{SigningKey, signing_key_list, signing_key_rotate};
use crate::kernel::Result;
use crate::kernel::page::Page;

const WHAT: &str = "signing-key";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the keys that access tokens are signed with, newest first
    #[command(after_help = "Examples:\n  freehold signing-key list")]
    List,
    /// Publish the next key. Workers do this by themselves every 30 days
    #[command(after_help = "\
Examples:
  freehold signing-key rotate
  freehold signing-key rotate --now # a key leaked

Without --now the new key signs after 15 minutes, when everyone knows it, and nobody notices. With --now it signs at once, \
and every token signed before is refused within a minute; clients get new ones by themselves.")]
    Rotate(Rotate),
}

#[derive(Debug, Args)]
pub struct Rotate {
    /// Sign with the new key at once, and refuse every token signed with the others
    #[arg(long)]
    now: bool,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    let direct = fleet.direct(WHAT)?;
    match command {
        Command::List => {
            let keys = signing_key_list(&mut *direct.control().await?, direct.cp.clock.now()).await?;
            print_page(globals, &Page::whole(keys), many)
        }
        Command::Rotate(args) => {
            let master = &direct.hands()?.master;
            let key = signing_key_rotate(&direct.cp, master, &direct.caller, args.now).await?;
            print(globals.output, &key, |key| many(std::slice::from_ref(key)))
        }
    }
}

fn many(keys: &[SigningKey]) -> String {
    table::table(
        ["kid", "phase", "created", "signs from", "retired"],
        keys.iter().map(|key| {
            [
                key.kid.clone(),
                format!("{:?}", key.phase).to_lowercase(),
                table::time(key.created_at),
                table::time(key.signs_from),
                table::or_dash(key.retired_at.map(table::time)),
            ]
        }),
    )
}
