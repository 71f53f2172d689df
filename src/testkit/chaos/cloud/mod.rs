//! Tenants with resources and servers of their own, by the real Terraform and the real provider against a stand-in for AWS.
//!
//! | file | holds |
//! |---|---|
//! | `sky` | the world, its cloud, and what is asked of both |
//! | `storm` | the same while worker and Terraform are killed again and again |

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tokio::time::Instant;

use crate::testkit::eventually;
use crate::testkit::figures::{Goal, Spread};
use crate::testkit::program::Outcome;

mod sky;
mod storm;

use sky::{LOOK, PATIENCE, Sky};
pub use storm::storm;

/// How large it is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub pooled: usize,
    pub dedicated: usize,
    /// Runs of Terraform at once.
    pub at_once: u16,
    /// Of the worker, and as many of Terraform. For [`storm`] alone.
    pub kills: usize,
}

/// Makes tenants, plants drift and heals it, purges all. `work` is a folder where the provider may be unpacked.
///
/// # Panics
/// When something does not come to an end.
pub async fn calm(binary: &str, work: &Path, plan: &Plan) -> Outcome {
    let sky = Sky::new(binary, work, plan).await;
    let launch = sky.launch();
    let mut worker = sky.start(&launch).await;
    let begun = Instant::now();
    let slugs = sky.create_all("calm-", plan).await;
    let mut took = BTreeMap::new();
    eventually(PATIENCE, "every tenant is ready", async || {
        tokio::time::sleep(LOOK).await;
        let mut waiting = Vec::new();
        for slug in &slugs {
            match sky.is_ready(slug).await {
                Ok(()) => {
                    took.entry(slug.clone()).or_insert_with(|| begun.elapsed());
                }
                Err(why) => waiting.push(why),
            }
        }
        if waiting.is_empty() { Ok(()) } else { Err(waiting.join("; ")) }
    })
    .await;
    let made = sky.inventory().await;
    let whole = (made.roles.len(), made.buckets.len(), made.servers.len())
        == (plan.pooled + plan.dedicated, plan.dedicated, plan.dedicated);
    let lost = sky.orphans().await;

    let mut outcome = Outcome::default();
    let (mut unnamed, mut unhealed) = (0, 0);
    // The first is a dedicated one, if there are any.
    for slug in [slugs.first(), slugs.last()].into_iter().flatten().collect::<std::collections::BTreeSet<_>>()
    {
        let what = format!("tenant/{slug}");
        sky.meddle(slug).await;
        let (clean, said) = sky.infra(&["drift", &what]).await;
        if clean || !said.contains("aws_cloudwatch_log_group") {
            unnamed += 1;
            outcome.lines.push(format!("drift of {what}: {said}"));
        }
        let (applied, said) = sky.infra(&["apply", &what]).await;
        let (healed, still) = sky.infra(&["drift", &what]).await;
        if !applied || !healed {
            unhealed += 1;
            outcome.lines.push(format!("apply of {what}: {said}; then {still}"));
        }
    }
    let purging = Instant::now();
    sky.all_gone(&slugs).await;
    let purged = purging.elapsed();
    let (left, after) = (sky.inventory().await, sky.orphans().await);
    let databases = sky.databases_of(made.servers.keys()).await;
    worker.kill().await;

    let times = |kind: &str| {
        let of_kind = took.iter().filter(|(slug, _)| slug.starts_with(&format!("calm-{kind}")));
        Spread::of(&of_kind.map(|(_, took)| *took).collect::<Vec<_>>())
    };
    outcome.lines.push(format!(
        "{} pooled and {} dedicated tenants, {} runs of Terraform at once; removed in {:.0} s",
        plan.pooled,
        plan.dedicated,
        plan.at_once,
        purged.as_secs_f64()
    ));
    if !whole || !left.is_empty() {
        outcome.lines.push(format!("made: {made:?}; at the end: {left:?}"));
    }
    outcome.lines.extend(lost.iter().chain(&after).take(10).cloned());
    outcome.series.push((format!("pooled: ready after ({} at a time)", plan.at_once), times("p")));
    outcome.series.push(("dedicated: ready after".to_owned(), times("d")));
    outcome.goals.extend([
        Goal::never("tenants without what they were to get", usize::from(!whole)),
        Goal::never("drift that was not named", unnamed),
        Goal::never("drift that was not healed", unhealed),
        Goal::never("in the cloud and in no state", lost.len() + after.len()),
        Goal::never("left by purges: resources", usize::from(!left.is_empty())),
        Goal::never("left by purges: databases of servers", usize::try_from(databases).unwrap_or(usize::MAX)),
    ]);
    let seconds: BTreeMap<String, f64> =
        took.iter().map(|(slug, took)| (slug.clone(), took.as_secs_f64())).collect();
    outcome.facts = json!({ "ready_seconds": seconds, "purged_seconds": purged.as_secs_f64() });
    outcome
}
