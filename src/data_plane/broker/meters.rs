//! What the broker counts, per shard and never per tenant: the number of time series must not grow with the tenants.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// One shard's instruments, and the few numbers that tests and `stats` read back.
pub struct Meters {
    connections: Gauge,
    pub waiting: Gauge,
    logins: Counter,
    login_seconds: Histogram,
    evictions: Counter,
    refused: Counter,
    retries: Counter,
    pub breaker_open: Gauge,
    pub open_now: AtomicUsize,
    pub most_open: AtomicUsize,
    pub logins_total: AtomicU64,
    pub login_micros_total: AtomicU64,
    pub evictions_total: AtomicU64,
    pub retries_total: AtomicU64,
}

impl Meters {
    pub fn new(shard: &str) -> Self {
        let shard = || shard.to_owned();
        Self {
            connections: gauge!("broker_connections", "shard" => shard()),
            waiting: gauge!("broker_waiting", "shard" => shard()),
            logins: counter!("broker_logins_total", "shard" => shard()),
            login_seconds: histogram!("broker_login_seconds", "shard" => shard()),
            evictions: counter!("broker_evictions_total", "shard" => shard()),
            refused: counter!("broker_refused_total", "shard" => shard()),
            retries: counter!("broker_retries_total", "shard" => shard()),
            breaker_open: gauge!("broker_breaker_open", "shard" => shard()),
            open_now: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            logins_total: AtomicU64::new(0),
            login_micros_total: AtomicU64::new(0),
            evictions_total: AtomicU64::new(0),
            retries_total: AtomicU64::new(0),
        }
    }

    pub fn login(&self, took: Duration) {
        self.logins.increment(1);
        self.logins_total.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.login_micros_total.fetch_add(micros, Ordering::Relaxed);
        self.login_seconds.record(took.as_secs_f64());
    }

    pub fn opened(&self) {
        self.connections.increment(1.0);
        let now = self.open_now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_open.fetch_max(now, Ordering::Relaxed);
    }

    pub fn closed(&self) {
        self.connections.decrement(1.0);
        self.open_now.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn evicted(&self) {
        self.evictions.increment(1);
        self.evictions_total.fetch_add(1, Ordering::Relaxed);
    }

    pub fn refused(&self) {
        self.refused.increment(1);
    }

    pub fn retried(&self) {
        self.retries.increment(1);
        self.retries_total.fetch_add(1, Ordering::Relaxed);
    }
}
