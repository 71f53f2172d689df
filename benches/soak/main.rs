//! Many tenants under load for minutes, and not one row, connection or key of another's. `make soak`; `ARGS=--list`
//! shows the sections. Ends with an error when one answer is wrong.

mod caches;
mod crowd;
mod drops;
mod jobs;
mod mixed;
mod noisy;

use std::process::ExitCode;
use std::time::Duration;

use freehold::testkit::program::{self, Section, Special};

/// All sections together take no longer than this, or something hangs.
const LIMIT: Duration = Duration::from_secs(14 * 60);

const SECTIONS: &[Section] = &[
    Section {
        name: "mixed",
        about: "1,000 tenants on three shards, 60,000 mixed requests over 40 connections a shard",
        run: |args| Box::pin(mixed::run(args)),
    },
    Section {
        name: "crowd",
        about: "200 tenants × 50 requests at once over 30 connections, a million reads (A5)",
        run: |args| Box::pin(crowd::run(args)),
    },
    Section {
        name: "drops",
        about: "20,000 requests dropped anywhere in their life, through added latency (A6)",
        run: |args| Box::pin(drops::run(args)),
    },
    Section {
        name: "caches",
        about: "every route asked by twenty tenants and by nobody, and a look into Redis (A7)",
        run: |args| Box::pin(caches::run(args)),
    },
    Section {
        name: "noisy",
        about: "a neighbour at its connection limit with endless statements (A11)",
        run: |args| Box::pin(noisy::run(args)),
    },
    Section {
        name: "jobs",
        about: "jobs of sixteen tenants on workers that are killed at every moment (A9)",
        run: |args| Box::pin(jobs::run(args)),
    },
];

fn main() -> ExitCode {
    program::main("soak", LIMIT, SECTIONS, Special::default())
}
