//! What Freehold costs, side by side with what it is measured against. `make bench`; `ARGS=--list` shows the sections.

mod bare;
mod broker;
mod bulk;
mod directory;
mod django;
mod effort;
mod gate;
mod hot;
mod limits;
mod metering;
mod neighbour;
mod pgbench;
mod provision;
mod routed;
mod sign_ups;
mod signed_in;
mod warm;
mod webhooks;
mod zipf;

use std::process::ExitCode;
use std::time::Duration;

use freehold::testkit::program::{self, Section, Special};

/// All sections together take no longer than this, or something hangs.
const LIMIT: Duration = Duration::from_secs(25 * 60);

const SECTIONS: &[Section] = &[
    Section {
        name: "provision",
        about: "making a tenant, with and without a spare slot, beside the bare SQL script",
        run: |args| Box::pin(provision::measure(args)),
    },
    Section {
        name: "bulk",
        about: "a thousand tenants at once, beside the bare SQL script",
        run: |args| Box::pin(bulk::measure(args)),
    },
    Section {
        name: "directory",
        about: "50, 1,000 and 10,000 tenants in the directory: latency, memory, start",
        run: |args| Box::pin(directory::measure(args)),
    },
    Section {
        name: "gate",
        about: "instructions of the hot path, compared with what was recorded",
        run: |args| Box::pin(gate::measure(args)),
    },
    Section {
        name: "broker",
        about: "the connection broker alone, 16 warm tenants, beside sqlx's own pool; what a login costs",
        run: |args| Box::pin(broker::measure(args)),
    },
    Section {
        name: "zipf",
        about: "1,000 tenants on one shard, asked by Zipf's law, with connections for some of them",
        run: |args| Box::pin(zipf::measure(args)),
    },
    Section {
        name: "sign_ups",
        about: "a hundred people who make a workspace at the same moment",
        run: |args| Box::pin(sign_ups::measure(args)),
    },
    Section {
        name: "signed_in",
        about: "a person's warm request, by access token and by cookie, beside a key's",
        run: |args| Box::pin(signed_in::measure(args)),
    },
    Section {
        name: "routed",
        about: "a tenant's request, beside the same statements in a bare axum + sqlx handler",
        run: |args| Box::pin(routed::measure(args)),
    },
    Section {
        name: "django",
        about: "a tenant's request, beside the same one to django-tenants under granian",
        run: |args| Box::pin(django::measure(args)),
    },
    Section {
        name: "limits",
        about: "the same requests with the rate limits on, without Redis, and off",
        run: |args| Box::pin(limits::measure(args)),
    },
    Section {
        name: "webhooks",
        about: "Stripe's webhooks at the door: a thousand a second, and as many as are taken",
        run: |args| Box::pin(webhooks::measure(args)),
    },
    Section {
        name: "metering",
        about: "facts into the ledger, beside a bare batched INSERT; a write that is metered, beside one that is not",
        run: |args| Box::pin(metering::measure(args)),
    },
    Section {
        name: "neighbour",
        about: "a quiet tenant beside one that asks for twenty times its limit, and alone",
        run: |args| Box::pin(neighbour::measure(args)),
    },
];

fn main() -> ExitCode {
    if let Some(done) = gate::asked() {
        return done;
    }
    program::main("bench", LIMIT, SECTIONS, Special::default())
}
