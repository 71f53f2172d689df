//! Windows, and what a sealed one is told to Stripe as. Pure.
//!
//! Windows are five minutes long and begin at multiples of it. Where a billing period ends inside of one, the window is cut
//! there: each part has a batch of its own, and no batch has facts of two periods.

use chrono::{DateTime, Duration, Utc};

use super::meters::Aggregation;
use crate::kernel::ids::TenantId;

/// Seconds of a window.
pub const WINDOW: i64 = 300;
/// Seconds after a window's end at which it is sealed: what is on its way has come by then.
pub const PATIENCE: i64 = 60;

/// The beginning of the window that a moment is in.
pub fn window_of(at: DateTime<Utc>) -> DateTime<Utc> {
    let seconds = at.timestamp();
    DateTime::from_timestamp(seconds - seconds.rem_euclid(WINDOW), 0).unwrap_or(at)
}

/// The end of the last window that is sealed by now: facts from before it are due.
pub fn due_before(now: DateTime<Utc>) -> DateTime<Utc> {
    window_of(now - Duration::seconds(PATIENCE))
}

/// A stretch of time: `from` is in it, `to` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

impl Span {
    pub fn holds(&self, at: DateTime<Utc>) -> bool {
        self.from <= at && at < self.to
    }
}

/// The parts of a window: cut at the ends of billing periods that lie inside of it.
pub fn parts(window: DateTime<Utc>, boundaries: &[DateTime<Utc>]) -> Vec<Span> {
    let end = window + Duration::seconds(WINDOW);
    let mut cuts: Vec<_> = boundaries.iter().copied().filter(|cut| window < *cut && *cut < end).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let begins = std::iter::once(window).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain(std::iter::once(end));
    begins.zip(ends).map(|(from, to)| Span { from, to }).collect()
}

/// The moment that Stripe is told for a batch, and whether the batch was carried forward.
///
/// It is the part's first whole second. A period whose invoice is final takes nothing more: what is late for it is told as of
/// the beginning of the period after it. Where the newest counts, a later batch of the same part is told as of a later
/// second, so that it is newer there too.
pub fn told_at(part: Span, finals: &[Span], aggregation: Aggregation, seq: i32) -> (DateTime<Utc>, bool) {
    let first = whole_second(part.from);
    let mut at = past(first, finals);
    let carried = at != first;
    if aggregation == Aggregation::Last {
        let room = if carried { WINDOW } else { (part.to - at).num_seconds() };
        at += Duration::seconds(i64::from(seq).clamp(0, (room - 1).max(0)));
    }
    (at, carried)
}

/// The same moment, or the beginning of the first period after it whose invoice takes more.
pub fn past(at: DateTime<Utc>, finals: &[Span]) -> DateTime<Utc> {
    let mut at = at;
    // Each step leaves one final period for good, so there are no more steps than periods.
    for _ in finals {
        match finals.iter().filter(|period| period.holds(at)).map(|period| period.to).max() {
            Some(end) => at = whole_second(end),
            None => break,
        }
    }
    at
}

/// Upwards.
fn whole_second(at: DateTime<Utc>) -> DateTime<Utc> {
    let down = DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at);
    if down == at { at } else { down + Duration::seconds(1) }
}

/// What Stripe tells copies of a batch by. At most 100 characters.
pub fn identifier(tenant: TenantId, meter: &str, window: DateTime<Utc>, seq: i32) -> String {
    format!("ub:{tenant}:{meter}:{}:{seq}", window.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn an_identifier_fits() {
        let longest = identifier(TenantId::new(), &"m".repeat(31), at(99_999_999_999), i32::MAX);
        assert!(longest.len() <= 100, "{longest}");
        let known = identifier(TenantId(uuid::Uuid::nil()), "seats", at(600), 2);
        assert_eq!(known, "ub:ten_00000000000000000000000000:seats:600:2");
    }

    #[test]
    fn a_window_is_due_a_minute_after_its_end() {
        assert_eq!(due_before(at(359)), at(0));
        assert_eq!(due_before(at(360)), at(300));
        assert_eq!(due_before(at(659)), at(300));
        assert_eq!(window_of(at(-1)), at(-300));
    }

    #[test]
    fn what_is_late_for_a_final_invoice_is_carried_forward() {
        let part = Span { from: at(300), to: at(600) };
        let finals = [Span { from: at(0), to: at(1_000) }, Span { from: at(1_000), to: at(2_000) }];
        assert_eq!(told_at(part, &[], Aggregation::Sum, 3), (at(300), false));
        assert_eq!(told_at(part, &finals[..1], Aggregation::Sum, 3), (at(1_000), true));
        assert_eq!(told_at(part, &finals, Aggregation::Sum, 3), (at(2_000), true));
        assert_eq!(told_at(part, &finals[1..], Aggregation::Sum, 3), (at(300), false));
        assert_eq!(told_at(part, &[], Aggregation::Last, 3), (at(303), false));
        assert_eq!(told_at(part, &[], Aggregation::Last, 1_000), (at(599), false));
    }

    proptest! {
        /// Whatever the boundaries: each moment of a window is in exactly one part, no part has a boundary inside, and what is
        /// told lies in the part, so in one period with all of its facts.
        ///
        /// Shown to fail: leave the boundaries out of `parts`; round `told_at` down.
        #[test]
        fn no_part_crosses_a_boundary(
            window in 0i64..10,
            boundaries in prop::collection::vec(-400i64..3_600_000, 0..6),
            moment in 0i64..300_000,
            seq in 0i32..1_000,
        ) {
            let window = at(window * WINDOW);
            let millis = |ms: i64| DateTime::from_timestamp_millis(ms).unwrap();
            let boundaries: Vec<_> = boundaries.into_iter().map(millis).collect();
            let parts = parts(window, &boundaries);
            let moment = window + Duration::milliseconds(moment);
            prop_assert_eq!(parts.iter().filter(|part| part.holds(moment)).count(), 1);
            prop_assert_eq!(parts[0].from, window);
            prop_assert_eq!(parts[parts.len() - 1].to, window + Duration::seconds(WINDOW));
            for part in &parts {
                prop_assert!(part.from < part.to);
                prop_assert!(!boundaries.iter().any(|cut| part.from < *cut && *cut < part.to));
                for aggregation in [Aggregation::Sum, Aggregation::Last] {
                    let (told, carried) = told_at(*part, &[], aggregation, seq);
                    prop_assert!(!carried && told.timestamp_subsec_nanos() == 0);
                    // A part of less than a second may have no whole one in it: then the next.
                    prop_assert!(part.holds(told) || part.to - part.from < Duration::seconds(1));
                }
            }
        }

        /// Nothing is told into a period whose invoice is final.
        #[test]
        fn nothing_is_told_into_a_final_period(from in 0i64..100, lengths in prop::collection::vec((0i64..50, 1i64..50), 0..6)) {
            let mut finals = Vec::new();
            let mut end = 0;
            for (gap, length) in lengths {
                finals.push(Span { from: at(end + gap), to: at(end + gap + length) });
                end += gap + length;
            }
            let part = Span { from: at(from), to: at(from + WINDOW) };
            let (told, carried) = told_at(part, &finals, Aggregation::Sum, 0);
            prop_assert!(!finals.iter().any(|period| period.holds(told)));
            prop_assert_eq!(carried, finals.iter().any(|period| period.holds(part.from)));
        }
    }
}
