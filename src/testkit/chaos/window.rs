//! What was answered between two moments. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::testkit::figures::Spread;

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number in its group.
    pub number: u64,
    /// When it was to be sent.
    pub due: Instant,
    /// From then until the answer was read.
    pub took: Duration,
    /// 0 for no answer.
    pub status: u16,
    /// The problem's code; of no answer, what was wrong. Empty for a success.
    pub code: String,
    pub retry_after: bool,
    /// The answer is an earlier one's, kept under its `Idempotency-Key`.
    pub replayed: bool,
    /// It bore an `Idempotency-Key`.
    pub once: bool,
}

impl Event {
    pub fn is_right(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Turned away as it should be: 503 with a time to come back, or 429 with one.
    pub fn is_orderly(&self) -> bool {
        matches!(self.status, 503 | 429) && self.retry_after
    }
}

/// Events of a time, in the order in which they were due.
#[derive(Clone, Debug, Default)]
pub struct Window {
    pub events: Vec<Event>,
}

impl Window {
    pub fn of(mut events: Vec<Event>) -> Self {
        events.sort_by_key(|event| event.due);
        Self { events }
    }

    pub fn requests(&self) -> usize {
        self.events.len()
    }

    /// Requests that did not succeed.
    pub fn wrong(&self) -> usize {
        self.events.iter().filter(|event| !event.is_right()).count()
    }

    /// Requests that neither succeeded nor were turned away in order.
    pub fn disorderly(&self) -> Vec<&Event> {
        self.events.iter().filter(|event| !event.is_right() && !event.is_orderly()).collect()
    }

    /// The part that succeeded; 1 of nothing.
    pub fn success(&self) -> f64 {
        1.0 - self.wrong() as f64 / self.requests().max(1) as f64
    }

    /// Of successes.
    pub fn latency(&self) -> Spread {
        Spread::of(&self.took(Event::is_right))
    }

    /// Of everything else.
    pub fn refusals(&self) -> Spread {
        Spread::of(&self.took(|event| !event.is_right()))
    }

    fn took(&self, which: impl Fn(&Event) -> bool) -> Vec<Duration> {
        self.events.iter().filter(|event| which(event)).map(|event| event.took).collect()
    }

    /// How often each answer was given: `200`, `503 shard_unavailable`.
    pub fn answers(&self) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        for event in &self.events {
            *answers.entry(format!("{} {}", event.status, event.code).trim_end().to_owned()).or_default() +=
                1;
        }
        answers
    }

    /// The first moment from which on at least this part of the requests succeeded, to the end of the window. `None`
    /// when there is no such moment with anything after it.
    pub fn succeeds_from(&self, part: f64) -> Option<Instant> {
        let (mut right, mut all, mut found) = (0.0, 0.0, None);
        for event in self.events.iter().rev() {
            all += 1.0;
            right += f64::from(u8::from(event.is_right()));
            if right / all >= part {
                found = Some(event.due);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(statuses: &[u16]) -> Window {
        let start = Instant::now();
        let event = |(number, status): (usize, &u16)| Event {
            number: number as u64,
            due: start + Duration::from_secs(number as u64),
            took: Duration::from_millis(1),
            status: *status,
            code: String::new(),
            retry_after: *status == 503,
            replayed: false,
            once: false,
        };
        Window::of(statuses.iter().enumerate().map(event).collect())
    }

    #[test]
    fn recovery_is_when_enough_succeed_from_then_on() {
        let since = |statuses: &[u16], part| {
            let window = events(statuses);
            let start = window.events[0].due;
            window.succeeds_from(part).map(|at| (at - start).as_secs())
        };
        assert_eq!(since(&[503, 503, 200, 200], 0.99), Some(2));
        assert_eq!(since(&[503, 200, 503, 200], 0.5), Some(0));
        assert_eq!(since(&[503, 503], 0.5), None);
        assert_eq!(since(&[200, 200], 1.0), Some(0));
    }

    #[test]
    fn a_window_knows_who_was_turned_away_in_order() {
        let window = events(&[200, 503, 500, 0]);
        assert_eq!((window.wrong(), window.disorderly().len(), window.success()), (3, 2, 0.25));
        assert_eq!(window.answers()["503"], 1);
    }
}
