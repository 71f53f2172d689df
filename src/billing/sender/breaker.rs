//! While Stripe is away, batches are left alone: each attempt without an answer makes one more batch unknown. One cheap
//! question at a time finds out when it is back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::billing::stripe::Trouble;

/// Answers in a row that were none.
const TROUBLES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A process's. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Breaker(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    troubles: u32,
    /// Set while Stripe is thought to be away: when to ask next, and how long the pause before was.
    away: Option<(Instant, Duration)>,
}

/// What may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// Ask one cheap question, and say here how it went.
    Probe,
    Shut,
}

impl Breaker {
    /// Of several callers, one is told to probe.
    pub fn gate(&self) -> Gate {
        self.gate_at(Instant::now())
    }

    /// Whether nothing speaks against asking. Takes no probe.
    pub fn is_open(&self) -> bool {
        self.0.lock().away.is_none()
    }

    /// Takes note of an answer, or of none.
    pub fn saw<T>(&self, answer: &Result<T, Trouble>) {
        self.saw_at(is_away(answer), Instant::now());
    }

    fn gate_at(&self, now: Instant) -> Gate {
        let mut state = self.0.lock();
        match state.away {
            None => Gate::Open,
            Some((at, _)) if now < at => Gate::Shut,
            Some((_, pause)) => {
                // Until the answer is in, nobody else asks.
                let pause = (pause * 2).min(LONGEST_PAUSE);
                state.away = Some((now + pause, pause));
                Gate::Probe
            }
        }
    }

    fn saw_at(&self, away: bool, now: Instant) {
        let mut state = self.0.lock();
        if !away {
            *state = State::default();
            return;
        }
        state.troubles = state.troubles.saturating_add(1);
        if state.troubles >= TROUBLES && state.away.is_none() {
            state.away = Some((now + FIRST_PAUSE, FIRST_PAUSE));
        }
    }
}

/// An answer that says no is an answer.
fn is_away<T>(answer: &Result<T, Trouble>) -> bool {
    match answer {
        Ok(_) => false,
        Err(Trouble::Unreached(_) | Trouble::Silent(_) | Trouble::Broken { .. }) => true,
        Err(Trouble::Refused { .. } | Trouble::Key { .. } | Trouble::Later { .. }) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_five_troubles_one_question_at_a_time() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..TROUBLES - 1 {
            breaker.saw_at(true, start);
        }
        assert_eq!(breaker.gate_at(start), Gate::Open);
        breaker.saw_at(true, start);
        assert_eq!(breaker.gate_at(start), Gate::Shut);
        let later = start + FIRST_PAUSE;
        assert_eq!(breaker.gate_at(later), Gate::Probe);
        assert_eq!(breaker.gate_at(later), Gate::Shut, "one asks");
        let much_later = later + LONGEST_PAUSE;
        assert_eq!(breaker.gate_at(much_later), Gate::Probe);
        breaker.saw_at(false, much_later);
        assert_eq!(breaker.gate_at(much_later), Gate::Open);
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..20 {
            breaker.saw_at(true, now);
            breaker.saw_at(false, now);
        }
        assert_eq!(breaker.gate_at(now), Gate::Open);
        assert!(!is_away::<()>(&Err(Trouble::Later { status: 429, after: None })), "it answers");
        assert!(is_away::<()>(&Err(Trouble::Silent(String::new()))));
    }
}
