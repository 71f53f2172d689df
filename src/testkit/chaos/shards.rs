//! One shard behind a bad network, under load on all: what its own tenants are told, what the others notice, how soon
//! it is over, and whether a promise was broken.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::town::Books;
use super::{Town, Traffic};
use crate::product::{Current, Product};
use crate::testkit::figures::Spread;
use crate::testkit::proxy::Counts;
use crate::testkit::{AppOptions, Mode, TestApp, Through, WorldOptions};

/// Every fault, by name. The latencies are such that a shard this slow is still of use, and that one this slow is not.
pub const FAULTS: &[(&str, Mode)] = &[
    ("none", Mode::Pass),
    ("refuse", Mode::Refuse),
    ("blackhole", Mode::Blackhole),
    ("reset", Mode::Reset),
    ("slow 20 ms", Mode::Latency(Duration::from_millis(20))),
    ("slow 500 ms", Mode::Latency(Duration::from_millis(500))),
    ("drip", Mode::Drip { bytes: 64, every: Duration::from_millis(50) }),
    ("flap", Mode::Flap { up: Duration::from_millis(700), down: Duration::from_millis(700) }),
    ("half-open", Mode::ANSWERS_LOST),
    ("commits lost", Mode::COMMITS_LOST),
    ("commits lost in silence", Mode::HalfOpen { after: Some("COMMIT"), silent: Duration::from_secs(2) }),
];

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Requests a second to each shard's tenants.
    pub rate: f64,
    pub healthy: Duration,
    pub fault: Duration,
    /// How long to look at most for the end of the aftermath.
    pub after: Duration,
}

/// The shard that is struck; the other one is the neighbour.
const STRUCK: usize = 0;
const NEIGHBOUR: usize = 1;
/// From the start of a fault until the breaker has certainly opened: three attempts of 0.9 s side by side, and then some.
const SETTLED: Duration = Duration::from_millis(2_500);
/// Attempts one second apart are never quite so on the wire.
const SECOND: Duration = Duration::from_millis(900);

/// What one strike came to.
#[derive(Debug, Serialize)]
pub struct Strike {
    pub fault: &'static str,
    /// What the proxy did meanwhile: proof that the fault was there.
    pub wire: Counts,
    pub neighbour_before: Spread,
    pub neighbour_during: Spread,
    pub neighbour_wrong: usize,
    /// The part of its requests, over the whole time, that succeeded.
    pub neighbour_success: f64,
    /// The first wrong answers, word for word.
    pub neighbour_samples: Vec<String>,
    /// The struck shard's tenants during the fault.
    pub requests: usize,
    pub success: f64,
    pub answers: BTreeMap<String, usize>,
    pub served: Spread,
    pub refused: Spread,
    /// Answers that were neither success nor 503 or 429 with `Retry-After`: word for word.
    pub disorderly: Vec<String>,
    /// The most connection attempts that the wire saw within a second after the breaker had time to open. 0 where it did
    /// not stay open.
    pub probes_a_second: usize,
    /// Attempts of the whole time in fault, the first ones included, over requests.
    pub attempts_per_request: f64,
    /// Pieces of work that the broker began a second time, over requests.
    pub retries_per_request: f64,
    /// From the end of the fault until at least 99 of 100 requests succeed. The whole time looked at if they do not.
    pub recovered_seconds: f64,
    pub books: Books,
}

impl Strike {
    /// How much slower the neighbour was meanwhile: a ratio of 99th percentiles.
    pub fn neighbour_ratio(&self) -> f64 {
        self.neighbour_during.p99 / self.neighbour_before.p99
    }

    /// Whether this fault makes the shard useless, so that everybody has to be turned away within a second.
    pub fn is_outage(&self) -> bool {
        matches!(self.fault, "refuse" | "blackhole" | "reset" | "half-open")
    }

    /// Whether the fault was met.
    pub fn bit(&self) -> bool {
        match self.fault {
            "none" => true,
            "blackhole" => self.wire.silenced > 0 && self.wire.in_fault > 0,
            "half-open" | "commits lost" | "commits lost in silence" => self.wire.answers_lost > 0,
            "slow 20 ms" => self.served.p50 >= 40.0,
            "slow 500 ms" | "drip" => self.success < 1.0 || self.served.p50 >= 200.0,
            _ => self.wire.cut > 0 && self.success < 1.0,
        }
    }
}

/// Two shards behind proxies, with tenants on both.
pub async fn town(each: usize) -> Town {
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 2, tenant_cap: 1_000, slots: 4, tables: Current::migrations() },
        through: Through { shards: true, ..Through::default() },
        ..AppOptions::of::<Current>()
    })
    .await;
    Town::settle(app, each).await
}

/// Load on both shards, one of them struck, and the books of it. `label` names the writes; no two strikes share one.
pub async fn strike(
    town: &Town,
    (name, mode): (&'static str, Mode),
    measure: Measure,
    label: &str,
) -> Strike {
    let proxy = &town.app.proxies.shards[STRUCK];
    let id = town.app.world.shards[STRUCK].id;
    let stats = || town.app.replicas[0].http.broker.stats(id);
    let other = format!("{label}, beside");
    let traffic = Traffic::start(vec![
        town.group(STRUCK, "struck", label, measure.rate),
        town.group(NEIGHBOUR, "neighbour", &other, measure.rate),
    ]);
    // The first moments open connections, on the generator's side too.
    tokio::time::sleep(measure.healthy / 4).await;
    let calm = Instant::now();
    tokio::time::sleep(measure.healthy).await;

    let (wire, retries) = (proxy.counts(), stats().retries);
    proxy.set(mode);
    let struck = Instant::now();
    let open = always_open(struck, measure.fault, || stats().breaker_open).await;
    let (ended, probes) = (Instant::now(), proxy.most_attempts_within(SECOND, struck + SETTLED));
    let (wire, retries) = (proxy.counts() - wire, stats().retries - retries);
    proxy.set(Mode::Pass);

    let recovered = recovered(&traffic, ended, measure.after).await;
    let before = traffic.window(NEIGHBOUR, calm, struck);
    let mut seen = traffic.finish().await;
    let (beside, own) = (seen.remove(NEIGHBOUR), seen.remove(STRUCK));
    let during = |window: &super::Window| {
        let inside = window.events.iter().filter(|event| (struck..ended).contains(&event.due));
        super::Window::of(inside.cloned().collect())
    };
    let (neighbour, hit) = (during(&beside), during(&own));
    Strike {
        fault: name,
        wire,
        neighbour_before: before.latency(),
        neighbour_during: neighbour.latency(),
        // Over the whole time: the way in and the way out of a fault are part of it.
        neighbour_wrong: beside.wrong(),
        neighbour_success: beside.success(),
        neighbour_samples: beside
            .events
            .iter()
            .filter(|event| !event.is_right())
            .take(3)
            .map(|event| format!("{event:?}"))
            .collect(),
        requests: hit.requests(),
        success: hit.success(),
        answers: hit.answers(),
        served: hit.latency(),
        refused: hit.refusals(),
        disorderly: own.disorderly().iter().take(3).map(|event| format!("{event:?}")).collect(),
        probes_a_second: if open { probes } else { 0 },
        attempts_per_request: wire.in_fault as f64 / hit.requests().max(1) as f64,
        retries_per_request: retries as f64 / hit.requests().max(1) as f64,
        recovered_seconds: recovered.as_secs_f64(),
        books: town.balance(STRUCK, label, &own).await,
    }
}

/// Waits until the fault is to end. Whether the breaker was open from the moment it had time to, at each look.
async fn always_open(struck: Instant, lasts: Duration, is_open: impl Fn() -> bool) -> bool {
    tokio::time::sleep(SETTLED.min(lasts)).await;
    let mut open = is_open();
    while struck.elapsed() < lasts {
        tokio::time::sleep(Duration::from_millis(20)).await;
        open &= is_open();
    }
    open
}

/// Looks until 99 of 100 have succeeded for a second on end, and gives how long after `ended` that began.
async fn recovered(traffic: &Traffic, ended: Instant, most: Duration) -> Duration {
    let steady = Duration::from_secs(1);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = Instant::now();
        let since = traffic.window(STRUCK, ended, now).succeeds_from(0.99);
        if let Some(since) = since
            && now - since >= steady
        {
            return since - ended;
        }
        if now - ended >= most {
            return most;
        }
    }
}
