//! `Idempotency-Key`: the answer of the first request is given again for 24 hours, a 500 too.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::errors::{Answer, Refusal};
use super::state::{DAY, State};

/// An answer that was given under a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// Method, path and parameters.
    pub asked: String,
    pub at: i64,
    pub status: u16,
    pub body: String,
    pub request: String,
}

const LONGEST: usize = 255;

/// Keys of requests that have no answer yet.
pub type Busy = Arc<Mutex<BTreeSet<String>>>;

/// Holds a key until the answer is there.
pub struct Hold {
    key: String,
    busy: Busy,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.key);
    }
}

/// Either the answer of last time, or the right to make one.
pub enum Turn {
    Again(Saved),
    New(Hold),
}

/// # Errors
/// 409 while the key is in use, 400 when it came with other parameters.
pub fn begin(state: &mut State, busy: &Busy, key: &str, asked: &str) -> Answer<Turn> {
    if key.is_empty() || key.len() > LONGEST {
        let why = format!("Idempotency keys must be 1 to {LONGEST} characters long.");
        return Err(Refusal::new(400, "idempotency_error", why));
    }
    let oldest = state.now - DAY;
    if state.saved.get(key).is_some_and(|saved| saved.at <= oldest) {
        state.saved.remove(key);
    }
    if let Some(saved) = state.saved.get(key) {
        if saved.asked != asked {
            let why = format!(
                "Keys for idempotent requests can only be used with the same parameters they were first used \
                 with. Try using a key other than '{key}' if you meant to execute a different request."
            );
            return Err(Refusal::new(400, "idempotency_error", why));
        }
        return Ok(Turn::Again(saved.clone()));
    }
    if !busy.lock().insert(key.to_owned()) {
        let why = format!(
            "There is currently another in-progress request using this Idempotent Key: {key}. Please try again later."
        );
        return Err(Refusal::new(409, "idempotency_error", why).code("idempotency_key_in_use"));
    }
    Ok(Turn::New(Hold { key: key.to_owned(), busy: busy.clone() }))
}

/// Keeps the answer under its key.
pub fn save(state: &mut State, key: &str, saved: Saved) {
    state.changes += 1;
    state.saved.insert(key.to_owned(), saved);
}
