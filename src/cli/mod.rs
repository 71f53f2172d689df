//! The command line: one file per noun. Commands ask a [`fleet::Fleet`], which works on the databases itself or asks the
//! operators' API; no command knows which. Data goes to stdout, everything else to stderr.
//!
//! To add a command: a variant with its help and an example, a method of `Fleet`, a view.

use std::ffi::OsString;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::kernel::Result;

mod account;
mod api_key;
mod approval;
mod audit;
mod billing;
mod dev;
mod doctor;
pub mod exit;
mod fleet;
mod globals;
mod health;
mod infra;
mod job;
mod manual;
mod migrate;
mod openapi;
mod operator;
mod operator_key;
pub mod output;
mod paging;
mod plan;
mod pool;
mod progress;
mod run;
mod serve;
mod settings;
mod shard;
mod signing_key;
mod slot;
mod support;
mod table;
mod tenant;
mod worker;

pub use globals::Globals;

const LONG_HELP: &str = "\
Settings come from flags, then from the environment, then from the state folder of `freehold dev`. Without --server, a \
command works on the databases itself; with it, it asks the operators' API of a running server (all but migrate, doctor, \
operator, infra but for infra findings, signing-key and tenant psql).

Exit codes:
  0  done
  1  failed: something is wrong on this side, or a check found a problem
  2  usage: a wrong flag, a wrong field, a file that cannot be read
  3  there is no such thing
  4  conflict: taken, or not possible in its present state
  5  unavailable: a database, a shard or the server does not answer; try again
  6  not allowed

Data is printed on stdout, messages and progress on stderr. With --output json, stdout is one JSON value (a list is \
{\"items\": […], \"next_cursor\": …}), and an error is an RFC 9457 problem on stderr.

Examples:
  freehold dev
  freehold tenant create acme --name 'Acme Inc.' --plan team
  freehold tenant list --output json | jq -r '.items[].url'
  FREEHOLD_OPERATOR_KEY=fho_… freehold --server https://freehold.example.com tenant show acme";

/// Freehold: a multi-tenant SaaS platform on plain PostgreSQL
#[derive(Debug, Parser)]
#[command(name = "freehold", version, after_long_help = LONG_HELP, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::DevArgs),
    Serve(serve::ServeArgs),
    Worker(worker::WorkerArgs),
    /// Bring databases to this build's version
    #[command(subcommand)]
    Migrate(migrate::Command),
    Doctor(doctor::DoctorArgs),
    Health(health::HealthArgs),
    /// Tenants: the customers' organisations
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// API keys of tenants
    #[command(subcommand)]
    ApiKey(api_key::Command),
    /// Approvals: a second person's consent to what takes two
    #[command(subcommand)]
    Approval(approval::Command),
    /// Shards: the databases that tenants live in
    #[command(subcommand)]
    Shard(shard::Command),
    /// Shard pools: groups of shards that a plan's tenants are placed on
    #[command(subcommand)]
    Pool(pool::Command),
    /// Spare slots: schemas made ahead of time
    #[command(subcommand)]
    Slot(slot::Command),
    /// Plans: what is sold, and what each plan grants
    #[command(subcommand)]
    Plan(plan::Command),
    /// Runs: recorded changes of several steps
    #[command(subcommand)]
    Run(run::Command),
    /// Jobs: single effects that are retried
    #[command(subcommand)]
    Job(job::Command),
    /// The cloud: what Terraform manages for the platform, shards and tenants
    Infra(infra::InfraArgs),
    /// The audit log: who changed what
    #[command(subcommand)]
    Audit(audit::Command),
    /// Billing: what was used, reported to Stripe, invoiced and paid
    Billing(billing::Billing),
    /// Operators: the staff who sign in at /operator
    #[command(subcommand)]
    Operator(operator::Command),
    /// Support sessions: see what a tenant sees, for a stated reason and a limited time
    #[command(subcommand)]
    Support(support::Command),
    /// Keys for the operators' API
    #[command(subcommand)]
    OperatorKey(operator_key::Command),
    /// Keys that access tokens are signed with
    #[command(subcommand)]
    SigningKey(signing_key::Command),
    Login(account::LoginArgs),
    Whoami(account::WhoamiArgs),
    Token(account::TokenArgs),
    Logout(account::LogoutArgs),
    Openapi(openapi::Openapi),
    Completions(manual::Completions),
    Man(manual::Man),
}

/// Reads the command line, and the settings beside it.
///
/// # Errors
/// What clap says of it; `--help` and `--version` are such errors too.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches: ArgMatches = Cli::command().try_get_matches_from(args)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.globals.given = settings::Given::of(&matches);
    Ok(cli)
}

/// Does what the command line says.
///
/// # Errors
/// To be shown by [`exit::report`].
pub async fn run(mut cli: Cli) -> Result<()> {
    settings::complete(&mut cli.globals)?;
    let globals = &cli.globals;
    if !matches!(cli.command, Command::Dev(_) | Command::Serve(_) | Command::Worker(_)) {
        globals.start_logs();
    }
    // Before anything is done whose outcome could not be said.
    if globals.output == output::Output::Csv && !matches!(cli.command, Command::Billing(_)) {
        return Err(output::no_csv());
    }
    match cli.command {
        Command::Dev(args) => dev::run(&globals.control, &args).await,
        Command::Serve(args) => serve::run(&globals.control, &args).await,
        Command::Worker(args) => worker::run(&globals.control, &args).await,
        Command::Doctor(args) => doctor::run(globals, &args).await,
        Command::Health(args) => health::run(&args, globals.output).await,
        Command::Migrate(command) => migrate::run(globals, command).await,
        Command::Tenant(command) => tenant::run(globals, command).await,
        Command::ApiKey(command) => api_key::run(globals, command).await,
        Command::Approval(command) => approval::run(globals, command).await,
        Command::Shard(command) => shard::run(globals, command).await,
        Command::Pool(command) => pool::run(globals, command).await,
        Command::Slot(command) => slot::run(globals, command).await,
        Command::Plan(command) => plan::run(globals, command).await,
        Command::Run(command) => run::run(globals, command).await,
        Command::Job(command) => job::run(globals, command).await,
        Command::Infra(args) => infra::run(globals, args).await,
        Command::Audit(command) => audit::run(globals, command).await,
        Command::Billing(command) => billing::run(globals, command).await,
        Command::Operator(command) => operator::run(globals, command).await,
        Command::Support(command) => support::run(globals, command).await,
        Command::OperatorKey(command) => operator_key::run(globals, command).await,
        Command::SigningKey(command) => signing_key::run(globals, command).await,
        Command::Login(args) => account::login(globals, &args).await,
        Command::Whoami(args) => account::whoami(globals, &args).await,
        Command::Token(args) => account::token(globals, &args).await,
        Command::Logout(args) => account::logout(globals, &args).await,
        Command::Openapi(_) => openapi::run(),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn leaves(path: &str, command: &Command, found: &mut Vec<(String, Command)>) {
        let path = format!("{path} {}", command.get_name());
        let mut children = command.get_subcommands().peekable();
        if children.peek().is_none() {
            found.push((path, command.clone()));
            return;
        }
        children.for_each(|child| leaves(&path, child, found));
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        Cli::command().debug_assert();
        let mut found = Vec::new();
        leaves("", &Cli::command(), &mut found);
        assert!(found.len() > 35, "{} commands", found.len());
        for (path, command) in found {
            assert!(command.get_about().is_some(), "{path}: no description");
            let help = [command.get_after_help(), command.get_after_long_help()];
            let example = help.into_iter().flatten().any(|help| help.to_string().contains("  freehold "));
            assert!(example || path.contains("worker"), "{path}: no example");
            for arg in command.get_arguments() {
                let id = arg.get_id().as_str();
                assert!(
                    arg.get_help().is_some() || matches!(id, "help" | "version"),
                    "{path}: {id} is not explained"
                );
            }
        }
    }

    /// Words as a shell would see them, up to a pipe, a redirection or a comment.
    fn words(line: &str) -> Vec<OsString> {
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for c in line.chars().chain([' ']) {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted && matches!(word.as_str(), "|" | ">" | "#") => return words,
                ' ' if !quoted && word.is_empty() => {}
                ' ' if !quoted => words.push(std::mem::take(&mut word).into()),
                _ => word.push(c),
            }
        }
        words
    }

    #[test]
    fn the_examples_in_the_help_are_commands() {
        let mut found = Vec::new();
        leaves("", &Cli::command(), &mut found);
        let mut parsed = 0;
        for (path, command) in found {
            let help = command.get_after_help().or(command.get_after_long_help()).map(ToString::to_string);
            for line in help.unwrap_or_default().lines().filter(|line| line.starts_with("  freehold ")) {
                assert!(parse(words(line)).is_ok(), "{path}: {line}: {}", parse(words(line)).unwrap_err());
                parsed += 1;
            }
        }
        assert!(parsed > 40, "{parsed} examples");
    }
}
