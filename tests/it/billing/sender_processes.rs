//! Three senders that are processes, killed at any moment, and a Stripe that fails in every way it can.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use freehold::billing::ledger::{Fact, months, record_many, sealer};
use freehold::testkit::process::{Launch, Process, Programs};
use freehold::testkit::stripe::Fault;

use super::till::{Till, WORK_EVENT};

const BINARY: &str = env!("CARGO_BIN_EXE_freehold");
const METER_EVENT: &str = "Billing.MeterEvents.create";
/// Meters of ours, and what Stripe calls them.
const METERS: [(&str, &str); 2] = [("work", WORK_EVENT), ("tasks_created", "freehold_tasks_created")];
const FACTS: i64 = 10_000;
/// Processes that are killed from outside, each a few calls after the one before.
const KILLS: u32 = 10;
/// Where some of them die by themselves, at their first call: the attempt is on record, Stripe has it, it is written down.
const POINTS: [&str; 3] = ["before_effect", "after_effect", "after_record"];
const LIMIT: Duration = Duration::from_secs(240);

/// The same numbers each time.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Starts workers, of which some are to die at a point of their own.
struct Nursery<'a> {
    till: &'a Till,
    programs: Programs,
    settings: PathBuf,
    born: usize,
}

impl<'a> Nursery<'a> {
    async fn new(till: &'a Till) -> Self {
        let settings = till.world.folder.path().join("stripe.toml");
        let text = format!(
            "mode = \"test\"\nkey = \"env:STRIPE_KEY\"\nbase_url = \"{}\"\nevents_per_second = 1000\npatience_seconds = 1\n",
            till.stripe.base_url
        );
        std::fs::write(&settings, text).unwrap();
        Self { till, programs: Programs::new(BINARY, &till.world).await, settings, born: 0 }
    }

    fn mark(&self, point: &str) -> PathBuf {
        self.till.world.folder.path().join(format!("died-{point}"))
    }

    /// Whether it is to die by itself, and has not.
    fn is_doomed(&self, worker: &Process) -> bool {
        let point = worker.launch.env.iter().find(|(name, _)| *name == "FREEHOLD_FAULT_MARK");
        point.is_some_and(|(_, mark)| !Path::new(mark).exists())
    }

    fn worker(&mut self) -> Process {
        let mut launch = Launch::worker()
            .env("FREEHOLD_STRIPE", self.settings.display())
            .env("STRIPE_KEY", &self.till.stripe.key);
        // Not the first three: somebody has to get on.
        let next = POINTS.iter().find(|point| !self.mark(point).exists());
        if let Some(point) = next.filter(|_| self.born >= 3) {
            launch = launch
                .env("FREEHOLD_FAULT", format!("sender:send:{point}"))
                .env("FREEHOLD_FAULT_MARK", self.mark(point).display());
        }
        self.born += 1;
        self.programs.spawn(launch)
    }
}

/// All facts of twenty tenants and two meters, sealed. Gives the number of batches.
async fn sealed(till: &Till) -> i64 {
    months::months_make(&till.billing.cp).await.unwrap();
    let start = till.now() - TimeDelta::minutes(40);
    let fact = |n: i64| Fact {
        tenant: till.tenants[usize::try_from(n % 20).unwrap()].0,
        meter: METERS[usize::try_from(n / 20 % 2).unwrap()].0.into(),
        source: "test".into(),
        key: format!("fact-{n}"),
        quantity: n % 17,
        occurred_at: start + TimeDelta::seconds(n * 1_500 / FACTS),
        received_at: till.now(),
    };
    let facts: Vec<Fact> = (0..FACTS).map(fact).collect();
    let mut conn = till.db().acquire().await.unwrap();
    for some in facts.chunks(500) {
        record_many(&mut conn, some).await.unwrap();
    }
    drop(conn);
    assert_eq!(sealer::seal(&till.billing.cp).await.unwrap().facts, FACTS);
    waiting(till).await
}

async fn waiting(till: &Till) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM usage_batch WHERE meter = ANY($1) AND state IN ('ready', 'sending', 'unknown')",
    )
    .bind(METERS.map(|(meter, _)| meter).to_vec())
    .fetch_one(till.db())
    .await
    .unwrap()
}

/// What a dead one held is free a minute later. So that nobody has to wait for that, what is written down is moved: for the
/// living it is as if their leases ran out under them, which must do no harm either.
async fn a_minute_passes(till: &Till) {
    for statement in [
        "UPDATE stripe_link SET paced_until = paced_until - interval '1 minute'",
        "UPDATE usage_lane SET leased_until = leased_until - interval '1 minute'",
        "UPDATE usage_batch SET leased_until = leased_until - interval '1 minute', not_before = not_before - interval '1 minute'
          WHERE state IN ('ready', 'sending', 'unknown')",
    ] {
        sqlx::query(statement).execute(till.db()).await.unwrap();
    }
}

/// 10,000 facts of 20 tenants, two meters, three `freehold worker` that are killed with SIGKILL at any moment and replaced, and
/// a Stripe of which three in ten answers are 500s, timeouts, HTML 502s, resets, halves, 409s and 429s: at the end the
/// ledger, the batches and Stripe say the same, for each tenant and meter, to the unit.
///
/// Shown to fail: with another identifier for each attempt Stripe counts more than was used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_killed_with_sigkill_tell_each_unit_once() {
    let till = Till::new(20).await;
    let batches = sealed(&till).await;
    assert!(batches >= 200, "{batches} batches");
    till.stripe.faults().randomly(METER_EVENT, 30, Fault::ALL, 42);
    let mut nursery = Nursery::new(&till).await;
    let mut workers = [nursery.worker(), nursery.worker(), nursery.worker()];
    let (mut killed, mut seed, begun) = (0, 7, Instant::now());
    while waiting(&till).await > 0 {
        assert!(
            begun.elapsed() < LIMIT,
            "{} of {batches} wait: {:?}",
            waiting(&till).await,
            till.states().await
        );
        // Some calls later, or soon: whoever has just started calls nobody yet.
        let (calls, more) = (till.stripe.asked(METER_EVENT).len(), 5 + random(&mut seed) % 15);
        for _ in 0..100 {
            if till.stripe.asked(METER_EVENT).len() as u64 >= calls as u64 + more {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if killed < KILLS {
            let which = usize::try_from(random(&mut seed) % 3).unwrap();
            if !nursery.is_doomed(&workers[which]) {
                workers[which].kill().await;
                killed += 1;
            }
        }
        for worker in &mut workers {
            if worker.is_gone() {
                *worker = nursery.worker();
            }
        }
        a_minute_passes(&till).await;
    }
    for worker in &mut workers {
        worker.kill().await;
    }
    assert_eq!(killed, KILLS, "they were done too soon");
    for point in POINTS {
        assert!(nursery.mark(point).exists(), "nobody died {point}");
    }
    assert!(till.stripe.faults().injected() > 50, "{} faults", till.stripe.faults().injected());
    for (tenant, customer) in &till.tenants {
        for (meter, event_name) in METERS {
            let (facts, sealed, delivered): (i64, i64, i64) = sqlx::query_as(
                "SELECT (SELECT coalesce(sum(quantity), 0)::bigint FROM usage_event WHERE tenant = $1 AND meter = $2),
                        coalesce(sum(quantity), 0)::bigint,
                        coalesce(sum(quantity) FILTER (WHERE state = 'delivered'), 0)::bigint
                   FROM usage_batch WHERE tenant = $1 AND meter = $2",
            )
            .bind(tenant)
            .bind(meter)
            .fetch_one(till.db())
            .await
            .unwrap();
            let counted = till.stripe.event_sum(customer, event_name);
            assert!(facts > 0, "{tenant} {meter}");
            assert_eq!((facts, facts, facts), (sealed, delivered, counted), "{tenant} {meter}");
        }
    }
}
