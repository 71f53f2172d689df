//! Many tenants under load for minutes, and not one row, connection or key of another's. `make soak`; `ARGS=--list`
//! shows the sections. Ends with an error when one answer is wrong.

mod mixed;

use std::process::ExitCode;
use std::time::Duration;

use freehold::testkit::program::{self, Section};

/// All sections together take no longer than this, or something hangs.
const LIMIT: Duration = Duration::from_secs(14 * 60);

const SECTIONS: &[Section] = &[Section {
    name: "mixed",
    about: "1,000 tenants on three shards, 100,000 mixed requests over 40 connections a shard",
    run: |args| Box::pin(mixed::run(args)),
}];

fn main() -> ExitCode {
    program::main("soak", LIMIT, SECTIONS)
}
