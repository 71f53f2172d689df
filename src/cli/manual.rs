//! Shell completions and manual pages, from the commands themselves.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::output::write_out;
use crate::kernel::{Error, Result, codes};

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  freehold completions bash > /etc/bash_completion.d/freehold
  freehold completions zsh > ~/.zfunc/_freehold")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Write the manual pages into a folder
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  freehold man /usr/local/share/man/man1")]
pub struct Man {
    /// The folder, which is created if need be
    dir: PathBuf,
}

pub fn completions(args: &Completions) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "freehold", &mut text);
    write_out(&text)
}

pub fn man(args: &Man) -> Result<()> {
    std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir))
        .map_err(|error| {
            Error::new(&codes::BAD_REQUEST)
                .detail(format!("{} cannot be written: {error}", args.dir.display()))
                .source(error)
        })
}
