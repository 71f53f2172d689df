//! Tenants in a cloud, with the real Terraform: see `freehold::testkit::chaos::cloud`. They wait for the provider's own clock
//! most of the time, and run only when they are asked for.

use std::path::Path;

use freehold::testkit::Cluster;
use freehold::testkit::chaos::cloud::{Plan, calm, storm};
use freehold::testkit::figures::Goal;
use freehold::testkit::program::{Args, Outcome, Section};

pub const CLOUD: Section = Section {
    name: "cloud",
    about: "10 pooled and 2 dedicated tenants by the real Terraform: made, drifted, healed, purged",
    run: |args| Box::pin(cloud(args)),
};

pub const KILLS: Section = Section {
    name: "cloud-kills",
    about: "the same, while worker and Terraform are killed twenty times each",
    run: |args| Box::pin(kills(args)),
};

const BINARY: &str = env!("CARGO_BIN_EXE_freehold");

fn work() -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("terraform")
}

fn plan(args: &Args) -> Plan {
    Plan { pooled: args.count(10), dedicated: args.count(2), at_once: 4, kills: args.count(20) }
}

async fn cloud(args: &Args) -> Outcome {
    if let Some(unchecked) = nothing_to_run() {
        return unchecked;
    }
    Cluster::durable().await;
    calm(BINARY, &work(), &plan(args)).await
}

async fn kills(args: &Args) -> Outcome {
    if let Some(unchecked) = nothing_to_run() {
        return unchecked;
    }
    Cluster::durable().await;
    storm(BINARY, &work(), &plan(args)).await
}

fn nothing_to_run() -> Option<Outcome> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&paths).any(|folder| folder.join("terraform").is_file()) {
        return None;
    }
    let why = "there is no terraform on the PATH";
    Some(Outcome { goals: vec![Goal::unchecked("tenants in a cloud", why)], ..Outcome::default() })
}
