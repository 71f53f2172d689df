//! Logs go to stderr: data is on stdout.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub(crate) use super::json::JsonLines;
use super::lines::Lines;
pub use super::lines::flush;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line: for `serve` and `worker`.
    Json,
    /// For people: for `dev` and the short commands.
    Pretty,
}

/// What is logged when neither `--log` nor `RUST_LOG` says.
pub const DEFAULT_FILTER: &str = "info,sqlx=warn";

/// Starts logging. `filter` is a `RUST_LOG` expression that wins over the environment's. A second call does nothing:
/// tests share a process.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<(), String> {
    let text = match filter {
        Some(filter) => filter.to_owned(),
        None => std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| DEFAULT_FILTER.to_owned()),
    };
    let filter = EnvFilter::try_new(&text).map_err(|error| format!("the log filter {text:?}: {error}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let done = match format {
        LogFormat::Json => registry.with(JsonLines(Lines::to(std::io::stderr()).of_the_process())).try_init(),
        LogFormat::Pretty => registry
            .with(
                fmt::layer()
                    .compact()
                    .with_target(false)
                    .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    // Already set: by an earlier test in this process.
    drop(done);
    Ok(())
}

/// As [`init`] for `serve`, into the given file and not to stderr: for benches, whose figures have to include the logs.
#[cfg(feature = "testkit")]
pub fn init_json_into(file: std::fs::File) {
    let registry = tracing_subscriber::registry().with(EnvFilter::new(DEFAULT_FILTER));
    drop(registry.with(JsonLines(Lines::to(file))).try_init());
}
