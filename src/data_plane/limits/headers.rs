//! `RateLimit-Policy` and `RateLimit` as structured fields (draft-ietf-httpapi-ratelimit-headers).

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Decision, Policy};
use crate::billing::quotas::{Level, Stage};
use crate::kernel::{Error, codes};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Says the policy and what is left of it: `RateLimit-Policy: "requests";q=40;w=2`, `RateLimit: "requests";r=39;t=1`.
pub fn insert(headers: &mut HeaderMap, policy: Policy, decision: Decision) {
    let policy = format!("\"requests\";q={};w={}", policy.burst, seconds(policy.window_us()).max(1));
    let state = format!("\"requests\";r={};t={}", decision.remaining, seconds(decision.reset_us));
    for (name, value) in [(POLICY, policy), (STATE, state)] {
        // Digits and ASCII punctuation: always a valid header value.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// Says how the month stands, from its soft limit on: `RateLimit: "month";r=12;t=86400`, beside the other.
pub fn insert_month(headers: &mut HeaderMap, level: Level, now: DateTime<Utc>) {
    let (Some(limit), Some(end)) = (level.limit.filter(|_| level.stage() > Stage::Fine), level.resets_at)
    else {
        return;
    };
    let left = (end - now).num_seconds().max(0);
    let policy = format!("\"month\";q={limit}");
    let state = format!("\"month\";r={};t={left}", limit.saturating_sub(level.used));
    for (name, value) in [(POLICY, policy), (STATE, state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(name, value);
        }
    }
}

/// The 429 for a refused request.
pub fn refusal(decision: Decision) -> Error {
    Error::new(&codes::RATE_LIMITED)
        .retry_after(Duration::from_micros(u64::try_from(decision.retry_us).unwrap_or(0)))
}

fn seconds(us: i64) -> i64 {
    us.max(0).div_euclid(1_000_000) + i64::from(us.max(0) % 1_000_000 > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draft_s_shape_and_whole_seconds_rounded_up() {
        let policy = Policy::new(20, 40);
        let (decision, _) = super::super::gcra::decide(policy, 0, 1_000_000);
        let mut headers = HeaderMap::new();
        insert(&mut headers, policy, decision);
        assert_eq!(headers["ratelimit-policy"], "\"requests\";q=40;w=2");
        assert_eq!(headers["ratelimit"], "\"requests\";r=39;t=1");
        let now = "2026-11-30T23:00:00Z".parse().unwrap();
        let level = |used| Level::at(crate::billing::quotas::Quota::RequestsPerMonth, used, Some(100), now);
        insert_month(&mut headers, level(79), now);
        assert_eq!(headers.get_all("ratelimit").iter().count(), 1, "nothing is said while all is well");
        insert_month(&mut headers, level(88), now);
        let said: Vec<_> = headers.get_all("ratelimit").iter().collect();
        assert_eq!(said, ["\"requests\";r=39;t=1", "\"month\";r=12;t=3600"]);
        let refused = Decision { allowed: false, remaining: 0, retry_us: 50_000, reset_us: 2_000_000 };
        assert_eq!(refusal(refused).retry_after_secs(), Some(1));
    }
}
