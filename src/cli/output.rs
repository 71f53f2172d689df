//! Data on stdout: a table for people, or one JSON value.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use super::Globals;
use crate::kernel::page::Page;
use crate::kernel::{Error, Result, codes};

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON value.
    Json,
    /// For spreadsheets: what `freehold billing` lists.
    Csv,
}

/// Prints a value. `table` is how people read it.
///
/// # Errors
/// When stdout cannot be written to. A reader that has gone (`| head`) is no error.
pub fn print<T: Serialize>(output: Output, value: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
    let mut text = match output {
        Output::Table => table(value),
        Output::Json => serde_json::to_string_pretty(value).map_err(Error::internal)?,
        Output::Csv => return Err(no_csv()),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    write_out(text.as_bytes())
}

/// Prints a page of a list, and says on stderr when there is more.
pub fn print_page<T: Serialize>(
    globals: &Globals,
    page: &Page<T>,
    table: impl FnOnce(&[T]) -> String,
) -> Result<()> {
    print(globals.output, page, |page| table(&page.items))?;
    if let Some(cursor) = &page.next_cursor {
        globals.note(&format!("there is more: --all, or --cursor {cursor}"));
    }
    Ok(())
}

/// Only lists of `freehold billing` are sheets.
pub fn no_csv() -> Error {
    Error::new(&codes::BAD_REQUEST)
        .detail("there is no CSV of this")
        .hint("--output table is for people, --output json for programs")
}

/// Writes bytes to stdout.
pub fn write_out(bytes: &[u8]) -> Result<()> {
    let mut stdout = anstream::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::internal(error)),
        _ => Ok(()),
    }
}
