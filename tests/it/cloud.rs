//! Tenants in a cloud, small: what `make chaos ARGS='--only cloud,cloud-kills'` does at full size, with servers of their own
//! too (a server takes minutes, by its provider's clock).

use std::path::{Path, PathBuf};

use freehold::testkit::chaos::cloud::{Plan, calm, storm};
use freehold::testkit::program::Outcome;
use freehold::testkit::terraform_is_here;

const BINARY: &str = env!("CARGO_BIN_EXE_freehold");

/// That of `terraform.rs`, where the provider is unpacked already.
fn work() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("terraform")
}

fn is_as_it_must_be(outcome: &Outcome) {
    let broken: Vec<String> =
        outcome.goals.iter().filter(|goal| !goal.reached).map(|goal| goal.row()).collect();
    assert!(broken.is_empty(), "{broken:#?}\n{:#?}", outcome.lines);
}

/// Made, drifted, named, healed, purged: by a worker and the command line, as processes of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_come_and_go() {
    if !terraform_is_here() {
        return;
    }
    let plan = Plan { pooled: 1, dedicated: 0, at_once: 4, kills: 0 };
    is_as_it_must_be(&calm(BINARY, &work(), &plan).await);
}

/// Trust C1 and C5: the worker and Terraform are killed while tenants are made, and while they are purged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_outlive_kills() {
    if !terraform_is_here() {
        return;
    }
    let plan = Plan { pooled: 1, dedicated: 0, at_once: 4, kills: 2 };
    is_as_it_must_be(&storm(BINARY, &work(), &plan).await);
}
