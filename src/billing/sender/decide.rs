//! What an answer means for a batch. Pure: no clock, no database, no Stripe.
//!
//! | answer | meaning | next |
//! |---|---|---|
//! | 2xx, read | delivered | done |
//! | 400 "already exists with identifier" | delivered earlier; in doubt when it was seen to be missing, or moved | done; summaries settle it |
//! | 400 `idempotency_error` | unknown | later, with another idempotency header |
//! | other 400, 404 | rejected; after an unknown attempt in doubt | a person looks; summaries settle it |
//! | 401, 403 | our key | nothing more is sent |
//! | 409, 424, 429 | not now | later, with the same idempotency header |
//! | no connection | not sent | later, with the same header |
//! | timeout, reset | unknown | later, with the same header |
//! | 5xx, unreadable or cut body | unknown | later, with **another** header: Stripe replays a saved 500 for a day |
//!
//! Stripe tells copies by their identifier for 24 hours. What is unknown for 20 is not sent again: summaries settle it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::billing::stripe::Trouble;
use crate::jobs::backoff::Backoff;

/// Unknown for longer, a batch is quarantined: Stripe promises to know an identifier again for 24 hours only.
pub const UNKNOWN_AT_MOST: TimeDelta = TimeDelta::hours(20);
/// Stripe knows an identifier again for 24 hours; half an hour is for clocks. Sent again before that, what Stripe took and did
/// not count is answered as delivered, and still not counted.
pub const REMEMBERED: TimeDelta = TimeDelta::minutes(24 * 60 + 30);
/// Stripe counts with a delay. A sum that may lack what was sent within this proves nothing: neither for what is sent again by
/// itself, nor for what is sent again by hand.
pub const COUNTED_AFTER: TimeDelta = TimeDelta::hours(2);
/// Stripe takes timestamps of the last 35 days. One day is for us.
pub const OLDEST: TimeDelta = TimeDelta::days(34);
/// Stripe takes timestamps up to five minutes ahead. One minute is for the way and for clocks.
pub const AHEAD: TimeDelta = TimeDelta::minutes(4);
/// Our clock may differ from Stripe's by this much.
pub const SKEW_AT_MOST: TimeDelta = TimeDelta::minutes(5);

const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How a batch was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Via {
    #[sqlx(rename = "http_200")]
    Http200,
    #[sqlx(rename = "duplicate_400")]
    Duplicate400,
    SummaryCheck,
    Manual,
}

/// What becomes of a batch after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Delivered(Via),
    /// Stripe will never take it as it is.
    Rejected(String),
    /// Stripe does not have it, as far as this attempt goes. `wait` from now.
    Again {
        wait: Duration,
        why: String,
    },
    /// Stripe may have it. `wait` from now; with `salt`, the next attempt has another idempotency header.
    Unknown {
        wait: Duration,
        salt: bool,
        why: String,
    },
    /// The answer does not say whether Stripe counts it: set aside, for what Stripe counted to say.
    Doubtful(String),
    /// Our key is refused: nothing more is sent by anyone. This batch is as it was.
    Halt(String),
}

/// What an attempt's answer means. `attempts` counts this one; `jitter` is a random number in `0..1`.
pub fn next(answer: &Result<(), Trouble>, attempts: i32, jitter: f64) -> Next {
    let wait = backoff(attempts, jitter);
    match answer {
        Ok(()) => Next::Delivered(Via::Http200),
        Err(Trouble::Refused { message, .. }) if is_duplicate(message) => Next::Delivered(Via::Duplicate400),
        // Our header was used for another request: the batch itself was not judged.
        Err(trouble @ Trouble::Refused { code, .. }) if code == "idempotency_error" => {
            Next::Unknown { wait, salt: true, why: trouble.to_string() }
        }
        Err(trouble @ Trouble::Refused { .. }) => Next::Rejected(trouble.to_string()),
        Err(trouble @ Trouble::Key { .. }) => Next::Halt(trouble.to_string()),
        // A little later than they say: everyone was told the same.
        Err(trouble @ Trouble::Later { after, .. }) => {
            let wait =
                after.map_or(wait, |after| after.min(LONGEST_WAIT) + wait.min(after.max(FIRST_WAIT)) / 2);
            Next::Again { wait, why: trouble.to_string() }
        }
        Err(trouble @ Trouble::Unreached(_)) => Next::Again { wait, why: trouble.to_string() },
        Err(trouble @ Trouble::Silent(_)) => Next::Unknown { wait, salt: false, why: trouble.to_string() },
        Err(trouble @ Trouble::Broken { .. }) => Next::Unknown { wait, salt: true, why: trouble.to_string() },
    }
}

/// What was tried with a batch before, which an answer is read by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Stripe may have it from an attempt before this one.
    pub maybe: bool,
    /// It was seen to be missing at Stripe since it was first taken, and is sent again.
    pub requeued: bool,
    /// It was moved to another moment before this attempt, and nobody knows yet which of the two Stripe has.
    pub moved: bool,
}

/// What an answer means for a batch that was tried before. A refusal says nothing of an attempt before it, and "delivered
/// earlier" no more than what was known of a batch that Stripe took and did not count.
pub fn in_view_of(next: Next, before: Before) -> Next {
    match next {
        Next::Rejected(why) if before.maybe => {
            Next::Doubtful(format!("Stripe may have it from an earlier attempt; then: {why}"))
        }
        Next::Delivered(Via::Duplicate400) if before.requeued => {
            Next::Doubtful("Stripe knows its identifier, and was seen not to count it".to_owned())
        }
        Next::Delivered(Via::Duplicate400) if before.moved => Next::Doubtful(
            "Stripe knows its identifier, as of the moment before it was moved or of the one after"
                .to_owned(),
        ),
        next => next,
    }
}

/// Whether a refusal says that Stripe has this event.
fn is_duplicate(message: &str) -> bool {
    message.to_ascii_lowercase().contains("already exists with identifier")
}

fn backoff(attempts: i32, jitter: f64) -> Duration {
    Backoff::new(FIRST_WAIT, LONGEST_WAIT).wait(attempts, jitter)
}

/// Whether a batch may be sent at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    Fit,
    /// Stripe would refuse its timestamp, or could not tell whether it knows it: for a person, or for summaries.
    Quarantine(&'static str),
}

/// `maybe_since`: since when Stripe may have it; none when it certainly has not.
pub fn fitness(event_at: DateTime<Utc>, maybe_since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Fitness {
    if maybe_since.is_some_and(|since| now - since > UNKNOWN_AT_MOST) {
        return Fitness::Quarantine("unknown for more than 20 hours: summaries will settle it");
    }
    if now - event_at > OLDEST {
        return Fitness::Quarantine("older than 34 days: Stripe takes no timestamp older than 35");
    }
    if event_at - now > AHEAD {
        return Fitness::Quarantine("its time is in the future");
    }
    Fitness::Fit
}

/// The `Idempotency-Key` of an attempt.
pub fn idempotency_key(identifier: &str, salt: i32) -> String {
    format!("{identifier}:{salt}")
}

/// Whether our clock differs too much from Stripe's to send what has a time in it.
pub fn clock_is_off(skew_seconds: Option<i32>) -> bool {
    skew_seconds.is_some_and(|skew| i64::from(skew).abs() > SKEW_AT_MOST.num_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, message: &str) -> Result<(), Trouble> {
        Err(Trouble::Refused {
            status,
            code: "invalid_request_error".to_owned(),
            message: message.to_owned(),
        })
    }

    /// The table of billing.md, row by row.
    #[test]
    fn every_answer_has_its_next() {
        assert_eq!(next(&Ok(()), 1, 0.0), Next::Delivered(Via::Http200));
        let again = refused(400, "An event already exists with identifier ub:ten_x:seats:1:0.");
        assert_eq!(next(&again, 2, 0.0), Next::Delivered(Via::Duplicate400));
        for bad in [refused(400, "Timestamp too far in the past"), refused(404, "No such customer")] {
            assert!(matches!(next(&bad, 1, 0.0), Next::Rejected(_)), "{bad:?}");
        }
        let taken =
            Trouble::Refused { status: 400, code: "idempotency_error".to_owned(), message: String::new() };
        assert!(matches!(next(&Err(taken), 1, 0.0), Next::Unknown { salt: true, .. }));
        for status in [401, 403] {
            let answer = Err(Trouble::Key { status, message: "Invalid API Key".to_owned() });
            assert!(matches!(next(&answer, 1, 0.0), Next::Halt(_)));
        }
        for status in [409, 424, 429] {
            let answer = Err(Trouble::Later { status, after: None });
            assert!(matches!(next(&answer, 1, 0.0), Next::Again { .. }));
        }
        let unreached = Err(Trouble::Unreached("refused".to_owned()));
        assert!(matches!(next(&unreached, 1, 0.0), Next::Again { .. }));
        let silent = Err(Trouble::Silent("timeout".to_owned()));
        assert!(matches!(next(&silent, 1, 0.0), Next::Unknown { salt: false, .. }));
        for status in [200, 500, 502, 503] {
            let broken = Err(Trouble::Broken { status, what: "HTML".to_owned() });
            assert!(matches!(next(&broken, 1, 0.0), Next::Unknown { salt: true, .. }), "{status}");
        }
    }

    /// Shown to fail: with the answer alone, a batch that Stripe has is rejected, sent by hand and counted twice; and one that
    /// it lost is delivered for good.
    #[test]
    fn an_answer_is_read_by_what_was_tried_before() {
        let maybe = Before { maybe: true, ..Before::default() };
        let requeued = Before { requeued: true, ..Before::default() };
        let moved = Before { maybe: true, moved: true, ..Before::default() };
        let rejected = || Next::Rejected("no such customer".to_owned());
        assert_eq!(in_view_of(rejected(), Before::default()), rejected());
        assert!(matches!(in_view_of(rejected(), maybe), Next::Doubtful(_)));
        let duplicate = Next::Delivered(Via::Duplicate400);
        assert_eq!(in_view_of(duplicate.clone(), maybe), duplicate);
        assert!(matches!(in_view_of(duplicate.clone(), requeued), Next::Doubtful(_)));
        assert!(matches!(in_view_of(duplicate, moved), Next::Doubtful(_)));
        assert_eq!(in_view_of(Next::Delivered(Via::Http200), moved), Next::Delivered(Via::Http200));
        assert_eq!(in_view_of(Next::Delivered(Via::Http200), requeued), Next::Delivered(Via::Http200));
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept() {
        for jitter in [0.0, 0.5, 1.0] {
            let answer = Err(Trouble::Later { status: 429, after: Some(Duration::from_secs(30)) });
            let Next::Again { wait, .. } = next(&answer, 1, jitter) else { panic!("not now") };
            assert!((30..=60).contains(&wait.as_secs()), "{wait:?}");
        }
        assert!(backoff(1, 0.0) >= FIRST_WAIT / 2 && backoff(1, 1.0) <= FIRST_WAIT);
        assert_eq!(backoff(i32::MAX, 1.0), LONGEST_WAIT);
        assert!(backoff(0, 0.0) > Duration::ZERO);
    }

    #[test]
    fn what_stripe_would_refuse_or_forget_is_not_sent() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let fit =
            |at, since: Option<TimeDelta>| fitness(now + at, since.map(|ago| now - ago), now) == Fitness::Fit;
        assert!(fit(TimeDelta::minutes(-5), None));
        assert!(fit(TimeDelta::days(-33), None) && !fit(TimeDelta::days(-36), None));
        assert!(fit(TimeDelta::minutes(3), None) && !fit(TimeDelta::minutes(6), None));
        assert!(fit(TimeDelta::hours(-19), Some(TimeDelta::hours(19))));
        assert!(!fit(TimeDelta::hours(-21), Some(TimeDelta::hours(21))), "never blindly resent");
    }

    #[test]
    fn a_clock_off_by_six_minutes_is_refused_either_way() {
        assert!(clock_is_off(Some(360)) && clock_is_off(Some(-360)));
        assert!(!clock_is_off(Some(200)) && !clock_is_off(None));
    }

    #[test]
    fn another_salt_is_another_header_for_the_same_identifier() {
        assert_ne!(idempotency_key("ub:a", 0), idempotency_key("ub:a", 1));
    }
}
