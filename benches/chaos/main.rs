//! Faults under load, and what Freehold makes of them. `make chaos`; `ARGS=--list` shows the sections. Ends with an
//! error when something happened that may never happen.

mod cloud;
mod control;
mod processes;
mod redis;
mod shards;

use std::process::ExitCode;
use std::time::Duration;

use freehold::testkit::program::{self, Section, Special};

/// All sections together take no longer than this, or something hangs. Those that run only by name have twice as long each.
const LIMIT: Duration = Duration::from_secs(15 * 60);

const SECTIONS: &[Section] = &[
    Section {
        name: "shards",
        about: "one shard refuses, hangs, resets, slows, drips, flaps, loses its answers; load on two",
        run: |args| Box::pin(shards::run(args)),
    },
    Section {
        name: "redis",
        about: "Redis killed, behind a bad network, emptied, set back, under load",
        run: |args| Box::pin(redis::run(args)),
    },
    processes::ROLLING,
    processes::DEAD_REPLICA,
    processes::RESTARTS,
    processes::CLOCK,
    processes::NO_ROOM,
    processes::DESCRIPTORS,
    processes::SHARD_CRASH,
    cloud::CLOUD,
    cloud::KILLS,
    // It takes longer than all others together, so it begins at the start.
    Section {
        name: control::NAME,
        about: "ten minutes without the control database, beside the other sections",
        run: |args| Box::pin(control::run(args)),
    },
];

fn main() -> ExitCode {
    let special = Special { beside: &[control::NAME], by_name: &[cloud::CLOUD.name, cloud::KILLS.name] };
    program::main("chaos", LIMIT, SECTIONS, special)
}
