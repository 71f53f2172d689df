//! Faults under load, and what Freehold makes of them. `make chaos`; `ARGS=--list` shows the sections. Ends with an
//! error when something happened that may never happen.

use std::process::ExitCode;
use std::time::Duration;

use freehold::testkit::program::{self, Section};

/// All sections together take no longer than this, or something hangs.
const LIMIT: Duration = Duration::from_secs(15 * 60);

const SECTIONS: &[Section] = &[];

fn main() -> ExitCode {
    program::main("chaos", LIMIT, SECTIONS)
}
