//! Tenants in a cloud, small: what `make chaos` does at full size, with servers of their own too (a server takes minutes).

use freehold::testkit::chaos::cloud::{Plan, run};
use freehold::testkit::terraform_is_here;

/// It must show 1 and 2, small: made 4 at a time, drift named and healed, nothing left by the purge; then the worker and
/// Terraform are killed, and every tenant is ready all the same.
///
/// Guard, not yet seen to fail: with `adopt` not called, what was made twice is in the way of itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_in_a_cloud_outlive_kills() {
    if !terraform_is_here() {
        return;
    }
    let plan = Plan { pooled: 3, dedicated: 0, at_once: 4, kills: 2 };
    let outcome = run(env!("CARGO_BIN_EXE_freehold"), &plan).await;
    let broken: Vec<String> =
        outcome.goals.iter().filter(|goal| !goal.reached).map(|goal| goal.row()).collect();
    assert!(broken.is_empty(), "{broken:#?}\n{:#?}", outcome.lines);
}
