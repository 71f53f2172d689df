//! Two hundred tenants, fifty requests of each at any moment, a few dozen connections (A5). Most requests go straight to
//! the tenants' contexts, so that a million fit into a minute; some take the whole way over HTTP at the same time, over
//! the same connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;

use super::resident::{Resident, look};
use crate::kernel::codes;
use crate::testkit::TestApp;
use crate::testkit::figures::Spread;
use crate::testkit::load::{self, BrokerReport, SAMPLES, Tenant, broker_report, logins_and_evictions};

/// One of so many waits is kept for the spread.
const KEEP_EACH: usize = 32;
/// How long a request that found no connection in time stays away.
const STAY_AWAY: Duration = Duration::from_millis(100);

/// How large the crowd is, and how long it stays.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Requests of each tenant at any moment.
    pub each: usize,
    /// Clients that ask over HTTP meanwhile.
    pub http_clients: usize,
    /// The crowd goes when both are reached: this many reads, and this much time.
    pub reads: usize,
    pub lasting: Duration,
    /// It goes in any case after this time.
    pub at_most: Duration,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub tenants: usize,
    /// Requests that were under way or waiting at any moment.
    pub at_once: usize,
    pub seconds: f64,
    /// Reads that were answered, each with rows to check.
    pub reads: usize,
    pub per_second: f64,
    /// Reads that showed another tenant's row, login or schema, or none of the tenant's own.
    pub mismatches: usize,
    /// Answers `tenant_busy` and `shard_busy`: no connection in time.
    pub busy: usize,
    /// Any other failure.
    pub errors: usize,
    /// Reads of the tenant that got the fewest, and of the one that got the most.
    pub fewest: usize,
    pub most: usize,
    /// From asking to having the rows.
    pub wait_ms: Spread,
    /// The first failures, as they came.
    pub failures: Vec<String>,
    pub broker: BrokerReport,
    pub http: load::Report,
}

#[derive(Default)]
struct Tally {
    over: AtomicBool,
    mismatches: AtomicUsize,
    busy: AtomicUsize,
    errors: AtomicUsize,
    waits: Mutex<Vec<Duration>>,
    failures: Mutex<Vec<String>>,
    /// By tenant.
    reads: Vec<AtomicUsize>,
}

impl Tally {
    fn note(&self, failure: String) {
        let mut failures = self.failures.lock();
        if failures.len() < SAMPLES {
            failures.push(failure);
        }
    }

    fn reads(&self) -> usize {
        self.reads.iter().map(|reads| reads.load(Relaxed)).sum()
    }
}

/// Lets the crowd in.
pub async fn run(app: &TestApp, tenants: &[Tenant], residents: &[Resident], plan: Plan) -> Report {
    let tally = Arc::new(Tally {
        reads: residents.iter().map(|_| AtomicUsize::new(0)).collect(),
        ..Tally::default()
    });
    let before = logins_and_evictions(app);
    let begun = Instant::now();
    let mut crowd = JoinSet::new();
    for (index, resident) in residents.iter().enumerate() {
        for _ in 0..plan.each {
            crowd.spawn(read_on(resident.clone(), index, tally.clone()));
        }
    }
    let clients = load::Plan { requests: usize::MAX, clients: plan.http_clients };
    let wanted = || !tally.over.load(Relaxed);
    let (http, ()) = tokio::join!(load::run_while(app, tenants, clients, &wanted), async {
        let stays = || {
            let stayed = begun.elapsed();
            stayed < plan.at_most && (stayed < plan.lasting || tally.reads() < plan.reads)
        };
        while stays() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tally.over.store(true, Relaxed);
    });
    crowd.join_all().await;
    let seconds = begun.elapsed().as_secs_f64();
    let by_tenant = || tally.reads.iter().map(|reads| reads.load(Relaxed));
    let reads = tally.reads();
    let broker = broker_report(app, before, reads + http.requests).await;
    let wait_ms = Spread::of(&tally.waits.lock());
    let failures = std::mem::take(&mut *tally.failures.lock());
    Report {
        tenants: residents.len(),
        at_once: residents.len() * plan.each + plan.http_clients,
        seconds,
        reads,
        per_second: reads as f64 / seconds,
        mismatches: tally.mismatches.load(Relaxed),
        busy: tally.busy.load(Relaxed),
        errors: tally.errors.load(Relaxed),
        fewest: by_tenant().min().unwrap_or(0),
        most: by_tenant().max().unwrap_or(0),
        wait_ms,
        failures,
        broker,
        http,
    }
}

/// One after the other, each on whatever connection the broker lends.
async fn read_on(resident: Resident, index: usize, tally: Arc<Tally>) {
    let mut number = index;
    while !tally.over.load(Relaxed) {
        let asked = Instant::now();
        match resident.context.read(look).await {
            Ok(seen) => {
                tally.reads[index].fetch_add(1, Relaxed);
                if let Some(foreign) = resident.foreign(&seen) {
                    tally.mismatches.fetch_add(1, Relaxed);
                    tally.note(foreign);
                }
                number += 1;
                if number.is_multiple_of(KEEP_EACH) {
                    tally.waits.lock().push(asked.elapsed());
                }
            }
            Err(error) if error.is(&codes::TENANT_BUSY) || error.is(&codes::SHARD_BUSY) => {
                tally.busy.fetch_add(1, Relaxed);
                tokio::time::sleep(STAY_AWAY).await;
            }
            Err(error) => {
                tally.errors.fetch_add(1, Relaxed);
                tally.note(format!("{}: {error:?}", resident.slug));
                tokio::time::sleep(STAY_AWAY).await;
            }
        }
    }
}
