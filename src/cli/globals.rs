//! Flags that every command takes.

use clap::{ArgAction, Args};
use secrecy::SecretString;

use super::fleet::databases_only;
use super::output::Output;
use super::progress::Progress;
use super::settings::Given;
use crate::config::ControlConfig;
use crate::kernel::Result;

#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// Output format: a table for people, JSON for programs, CSV for spreadsheets (freehold billing only)
    #[arg(long, global = true, value_enum, default_value_t = Output::Table, value_name = "FORMAT", help_heading = "Output")]
    pub output: Output,

    /// Show no progress and no notes; errors are still printed
    #[arg(long, short, global = true, help_heading = "Output")]
    pub quiet: bool,

    /// Show more: -v causes of errors, and warnings; -vv what happens; -vvv everything
    #[arg(long, short, global = true, action = ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,

    /// Use the operators' API of this server instead of working on the databases
    #[arg(long, global = true, env = "FREEHOLD_SERVER", value_name = "URL", help_heading = "Server")]
    pub server: Option<String>,

    /// The operator key for --server. Set it in the environment, not on the command line
    #[arg(
        long,
        global = true,
        env = "FREEHOLD_OPERATOR_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Server"
    )]
    pub operator_key: Option<SecretString>,

    #[command(flatten)]
    pub control: ControlConfig,

    /// What was said, as opposed to being a default.
    #[arg(skip)]
    pub given: Given,
}

impl Globals {
    pub fn progress(&self) -> Progress {
        Progress::new(self.quiet)
    }

    /// # Errors
    /// When a server was named, for a command that no server can be asked.
    pub fn databases_only(&self, what: &str) -> Result<()> {
        if self.server.is_some() { Err(databases_only(what)) } else { Ok(()) }
    }

    /// A remark on stderr for the person in front; nothing for a program.
    pub fn note(&self, text: &str) {
        use std::io::Write;
        if !self.quiet && self.output == Output::Table {
            writeln!(anstream::stderr(), "{text}").ok();
        }
    }

    /// Logs of the short commands. `serve`, `worker` and `dev` start their own.
    pub fn start_logs(&self) {
        let level = match self.verbose {
            0 => "error",
            1 => "warn",
            2 => "info,sqlx=warn",
            _ => "debug",
        };
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_target(false)
            .try_init()
            .ok();
    }
}
