//! The alarms about sending. Each is an incident: open while it is so, settled when it is over.

use chrono::TimeDelta;
use serde_json::json;

use super::{decide, lanes};
use crate::billing::{Billing, incidents};
use crate::control_plane::ControlPlane;
use crate::kernel::Result;

/// The kinds of incidents that sending opens.
pub mod kind {
    /// The oldest batch waits too long.
    pub const UNDELIVERED: &str = "usage_undelivered";
    /// Stripe refuses our key; nothing is sent.
    pub const KEY: &str = "stripe_key_refused";
    /// Our clock and Stripe's differ too much; nothing is sent.
    pub const CLOCK: &str = "clock_skew";
    /// Stripe will not take a batch.
    pub const REJECTED: &str = "batch_rejected";
    /// A batch was set aside.
    pub const QUARANTINED: &str = "batch_quarantined";
    /// What Stripe counted explains no selection of the batches that it may have.
    pub const UNSETTLED: &str = "batches_unsettled";
}

/// Who settles what is over.
const BY: &str = "sender";
/// Waiting for longer is an incident, one for each.
const LEVELS: [(&str, TimeDelta); 3] = [
    ("15 minutes", TimeDelta::minutes(15)),
    ("2 hours", TimeDelta::hours(2)),
    ("12 hours", TimeDelta::hours(12)),
];

/// Looks how long the oldest undelivered batch waits.
pub async fn undelivered(billing: &Billing) -> Result<()> {
    let (cp, livemode) = (&billing.cp, billing.settings.livemode());
    let now = cp.clock.now();
    let mut conn = cp.db.acquire().await?;
    let oldest = lanes::oldest_undelivered(&mut conn, livemode, now).await?.unwrap_or_default();
    metrics::gauge!("billing_oldest_undelivered_seconds").set(oldest.as_seconds_f64().max(0.0));
    for (subject, level) in LEVELS {
        if oldest > level {
            let detail = json!({ "waits_seconds": oldest.num_seconds() });
            incidents::open(&mut conn, kind::UNDELIVERED, subject, None, detail, now).await?;
        } else {
            incidents::settle(&mut conn, kind::UNDELIVERED, subject, BY, now).await?;
        }
    }
    Ok(())
}

const fn mode(livemode: bool) -> &'static str {
    if livemode { "live" } else { "test" }
}

pub(super) async fn key_refused(cp: &ControlPlane, livemode: bool, why: &str) -> Result<()> {
    let mut conn = cp.db.acquire().await?;
    let detail = json!({ "why": why });
    incidents::open(&mut conn, kind::KEY, mode(livemode), None, detail, cp.clock.now()).await.map(drop)
}

pub(super) async fn key_works(cp: &ControlPlane, livemode: bool) -> Result<()> {
    let mut conn = cp.db.acquire().await?;
    incidents::settle(&mut conn, kind::KEY, mode(livemode), BY, cp.clock.now()).await.map(drop)
}

/// Opens or settles the incident about our clock.
pub(super) async fn clock(cp: &ControlPlane, livemode: bool, skew_seconds: Option<i32>) -> Result<()> {
    metrics::gauge!("billing_clock_skew_seconds").set(f64::from(skew_seconds.unwrap_or_default()));
    let mut conn = cp.db.acquire().await?;
    let (subject, now) = (mode(livemode), cp.clock.now());
    if decide::clock_is_off(skew_seconds) {
        let detail = json!({ "stripe_is_ahead_by_seconds": skew_seconds });
        incidents::open(&mut conn, kind::CLOCK, subject, None, detail, now).await.map(drop)
    } else {
        incidents::settle(&mut conn, kind::CLOCK, subject, BY, now).await.map(drop)
    }
}
