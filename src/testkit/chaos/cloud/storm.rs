//! `kill -9` of the worker and of Terraform, at random moments, while tenants are made and while they are purged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::time::Instant;

use super::Plan;
use super::sky::{AtWork, PATIENCE, Sky};
use crate::kernel::Entropy;
use crate::testkit::figures::Goal;
use crate::testkit::process::{Launch, Process};
use crate::testkit::program::Outcome;

/// The longest pause between two kills; a run of Terraform takes about as long.
const PAUSE: Duration = Duration::from_secs(6);
/// How long an apply is waited for, and how far into it at most it is killed. Plans take most of the time, and whoever is
/// killed begins with another: without waiting hardly one gets as far as an apply.
const AN_APPLY: Duration = Duration::from_secs(30);
const INTO_IT: Duration = Duration::from_secs(4);

const APPLY: &str = "apply";

/// What was killed so far.
#[derive(Default)]
struct Killed {
    workers: usize,
    /// By what it was at.
    terraforms: BTreeMap<String, usize>,
}

impl Killed {
    fn terraforms(&self) -> usize {
        self.terraforms.values().sum()
    }

    fn applies(&self) -> usize {
        self.terraforms.get(APPLY).copied().unwrap_or_default()
    }
}

struct Storm<'a> {
    sky: &'a Sky,
    plan: &'a Plan,
    launch: Launch,
    worker: Process,
    entropy: Entropy,
    killed: Killed,
    /// All that were asked for.
    slugs: Vec<String>,
    /// The numbers that each server was seen with: one that was replaced has two.
    servers: BTreeMap<String, BTreeSet<String>>,
}

/// Makes tenants and purges them while worker and Terraform are killed; half of the kills to each. `work` is a folder where
/// the provider may be unpacked.
///
/// # Panics
/// When something does not come to an end.
pub async fn storm(binary: &str, work: &Path, plan: &Plan) -> Outcome {
    let sky = Sky::new(binary, work, plan).await;
    let launch = sky.launch();
    let worker = sky.start(&launch).await;
    let slugs = sky.create_all("storm-", plan).await;
    let mut storm = Storm {
        sky: &sky,
        plan,
        launch,
        worker,
        entropy: Entropy::default(),
        killed: Killed::default(),
        slugs,
        servers: BTreeMap::new(),
    };
    let making = storm.until(plan.kills.div_ceil(2), false).await;
    let settling = Instant::now();
    sky.all_ready(&storm.slugs).await;
    let ready = settling.elapsed();
    storm.look().await;
    let (made, lost) = (sky.inventory().await, sky.orphans().await);
    let asked = storm.slugs.len();
    let whole =
        (made.roles.len(), made.buckets.len(), made.servers.len()) == (asked, plan.dedicated, plan.dedicated);

    let purging = storm.until(plan.kills, true).await;
    let settling = Instant::now();
    sky.all_gone(&storm.slugs).await;
    let gone = settling.elapsed();
    let (left, after) = (sky.inventory().await, sky.orphans().await);
    let databases = sky.databases_of(storm.servers.keys()).await;
    storm.worker.kill().await;
    let schemas = sky.world.orphans().await;
    let replaced = storm.servers.values().filter(|numbers| numbers.len() > 1).count();

    let Storm { killed, slugs, .. } = storm;
    let applies = killed.applies();
    let mut outcome = Outcome::default();
    outcome.lines.push(format!(
        "{} kills of the worker, {} of Terraform ({:?}), over {:.0} and {:.0} s; {asked} tenants ready {:.0} s after the first half, \
         {} gone {:.0} s after the second",
        killed.workers,
        killed.terraforms(),
        killed.terraforms,
        making.as_secs_f64(),
        purging.as_secs_f64(),
        ready.as_secs_f64(),
        slugs.len(),
        gone.as_secs_f64(),
    ));
    outcome.lines.extend(lost.iter().chain(&after).chain(&schemas).take(10).cloned());
    if !whole || !left.is_empty() {
        outcome.lines.push(format!("made: {made:?}; at the end: {left:?}"));
    }
    outcome.goals.extend([
        Goal::at_least("kills in the middle of an apply", applies as f64, (plan.kills / 10) as f64, ""),
        Goal::never("tenants without what they were to get, or twice", usize::from(!whole)),
        Goal::never("in the cloud and in no state", lost.len() + after.len()),
        Goal::never("replaced database servers", replaced),
        Goal::never("left by purges: resources", usize::from(!left.is_empty())),
        Goal::never("left by purges: databases of servers", usize::try_from(databases).unwrap_or(usize::MAX)),
        Goal::never("left by purges: schemas and logins", schemas.len()),
    ]);
    outcome.facts = json!({
        "killed": { "worker": killed.workers, "terraform": killed.terraforms },
        "settled_seconds": { "ready": ready.as_secs_f64(), "gone": gone.as_secs_f64() },
    });
    outcome
}

impl Storm<'_> {
    /// Kills until there were so many of each, and sees to it that there is always something to do. How long it took.
    async fn until(&mut self, kills: usize, purging: bool) -> Duration {
        let begun = Instant::now();
        while self.killed.workers < kills || self.killed.terraforms() < kills {
            let Killed { workers, terraforms } = &self.killed;
            assert!(begun.elapsed() < PATIENCE, "{workers} workers and {terraforms:?} were killed");
            let [a, b, c] = self.entropy.bytes();
            tokio::time::sleep(PAUSE.mul_f64(f64::from(u16::from_le_bytes([a, b])) / 65_536.0)).await;
            if self.killed.workers < kills && (c % 2 == 0 || self.killed.terraforms() >= kills) {
                self.worker.kill().await;
                self.worker = self.sky.start(&self.launch).await;
                self.killed.workers += 1;
            } else if self.killed.terraforms() < kills {
                self.kill_a_terraform(a).await;
            }
            if purging {
                self.sky.send_off(&self.slugs).await;
            }
            self.feed().await;
            self.look().await;
        }
        begun.elapsed()
    }

    /// Every second time one that has been at an apply for a moment; else any that is at work, as soon as one is.
    async fn kill_a_terraform(&mut self, random: u8) {
        let waiting = Instant::now();
        while self.killed.terraforms() % 2 == 1 && waiting.elapsed() < AN_APPLY {
            if self.sky.terraforms().iter().any(|one| one.command == APPLY) {
                tokio::time::sleep(INTO_IT.mul_f64(f64::from(random) / 256.0)).await;
                let there = self.sky.terraforms();
                if there.iter().find(|one| one.command == APPLY).is_some_and(|one| self.ended(one)) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let waiting = Instant::now();
        while waiting.elapsed() < PAUSE {
            let there = self.sky.terraforms();
            if there.get(usize::from(random) % there.len().max(1)).is_some_and(|one| self.ended(one)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn ended(&mut self, one: &AtWork) -> bool {
        let done = kill(Pid::from_raw(one.pid), Signal::SIGKILL).is_ok();
        if done {
            *self.killed.terraforms.entry(one.command.clone()).or_default() += 1;
        }
        done
    }

    /// There is always something to do, and an end to it.
    async fn feed(&mut self) {
        let most = self.plan.pooled + self.plan.dedicated + 2 * self.plan.kills;
        if self.sky.terraforms().is_empty() && self.slugs.len() < most {
            let slug = format!("storm-x{}", self.slugs.len());
            self.sky.create(&slug, "business").await;
            self.slugs.push(slug);
        }
    }

    async fn look(&mut self) {
        for (name, number) in self.sky.servers().await {
            self.servers.entry(name).or_default().insert(number);
        }
    }
}
