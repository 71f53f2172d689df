//! How much at once: requests a second, and one call in flight for each customer and meter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::errors::{Answer, Refusal};

/// Requests a second. By the machine's clock, not by the movable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub meter_events: u32,
    /// On each other endpoint.
    pub others: u32,
}

impl Rates {
    pub const LIVE: Self = Self { meter_events: 1_000, others: 25 };
    pub const SANDBOX: Self = Self { meter_events: 25, others: 25 };
    pub const NONE: Self = Self { meter_events: u32::MAX, others: u32::MAX };

    fn of(self, operation: &str) -> u32 {
        if operation == METER_EVENT { self.meter_events } else { self.others }
    }
}

pub const METER_EVENT: &str = "Billing.MeterEvents.create";

#[derive(Default)]
pub struct Limits {
    /// By operation: when the present second began, and how many came in it.
    seconds: Mutex<BTreeMap<String, (Option<Instant>, u32)>>,
    lanes: Arc<Mutex<BTreeSet<String>>>,
}

/// A call in flight for a customer and a meter.
pub struct Lane {
    name: String,
    lanes: Arc<Mutex<BTreeSet<String>>>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.lanes.lock().remove(&self.name);
    }
}

impl Limits {
    /// # Errors
    /// 429 with `rate_limit`.
    pub fn pass(&self, rates: Rates, operation: &str) -> Answer<()> {
        let mut seconds = self.seconds.lock();
        let (begun, count) = seconds.entry(operation.to_owned()).or_default();
        if begun.is_none_or(|begun| begun.elapsed() >= Duration::from_secs(1)) {
            (*begun, *count) = (Some(Instant::now()), 0);
        }
        if *count >= rates.of(operation) {
            return Err(too_many());
        }
        *count += 1;
        Ok(())
    }

    /// # Errors
    /// 429 with `lock_timeout` while another call for the same customer and meter is in flight.
    pub fn lane(&self, customer: &str, event_name: &str) -> Answer<Lane> {
        let name = format!("{customer} {event_name}");
        if !self.lanes.lock().insert(name.clone()) {
            let why = "This object cannot be accessed right now because another API request is currently \
                       accessing it: one call at a time for a customer and a meter.";
            return Err(Refusal::new(429, "invalid_request_error", why).code("lock_timeout"));
        }
        Ok(Lane { name, lanes: self.lanes.clone() })
    }
}

pub fn too_many() -> Refusal {
    Refusal::new(429, "invalid_request_error", "Request rate limit exceeded.").code("rate_limit")
}
