//! What Freehold costs, side by side with what it is measured against. `make bench`; `ARGS=--list` shows the sections.

mod provision;
mod signed_in;

use std::process::ExitCode;
use std::time::Duration;

use freehold::testkit::program::{self, Section};

/// All sections together take no longer than this, or something hangs.
const LIMIT: Duration = Duration::from_secs(20 * 60);

const SECTIONS: &[Section] = &[
    Section {
        name: "provision",
        about: "making a tenant, with and without a spare slot, beside the bare SQL script",
        run: |args| Box::pin(provision::measure(args)),
    },
    Section {
        name: "signed_in",
        about: "a person's warm request, by access token and by cookie, beside a key's",
        run: |args| Box::pin(signed_in::measure(args)),
    },
];

fn main() -> ExitCode {
    program::main("bench", LIMIT, SECTIONS)
}
