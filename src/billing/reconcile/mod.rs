//! Five comparisons, each with an expected difference of 0, and the names of what differs.
//!
//! | file | holds |
//! |---|---|
//! | `class` | names: what differs is called what. Pure |
//! | `books` | L1 and L2: our own books, in one statement each |
//! | `usage` | L3: what was delivered for a day, and what Stripe counted for it |
//! | `invoices` | L4 and L5: what invoices say of a period, and what was paid |
//! | `prove` | which batch it is that Stripe does not have, by its minute; back into the queue, once |
//! | `settle` | one batch that a person asks about, settled by the same proof |
//! | `duties` | what is owed to a customer, or billed by nobody, until it is credited or finance decides |
//! | `round` | one tenant compared; a run goes from tenant to tenant and may be taken up by another process |
//! | `runs` | the record of runs and differences |
//! | `close` | at period close: a draft waits while something differs |
//! | `hold` | how a draft is held and let go: what we want is written down, then Stripe is brought to it |
//! | `regular` | what a worker does of this now and then |
//!
//! Two rules. What is put right is only what is proven absent at Stripe: nothing is ever reduced here, and nothing is sent
//! again on a guess. And a second run changes nothing: a batch goes back into the queue once in its life.

mod books;
pub mod class;
pub mod close;
pub mod duties;
mod hold;
mod invoices;
mod prove;
pub mod regular;
mod round;
pub mod runs;
pub mod settle;
pub mod usage;

use chrono::{DateTime, Duration, NaiveDate, NaiveTime, TimeDelta, Utc};

pub use class::{Class, Level};
pub use round::{DIFFERS, reconcile_begin, reconcile_go_on, reconcile_run, require_stripe};
pub use runs::{
    Ask, Difference, DifferenceFilter, ReconcileId, Run, RunDetail, RunState, RunsFilter, Why,
    difference_list, is_red, last_run, run_list, run_show,
};

use super::stripe::{Asked, Trouble};
use crate::kernel::{Error, Result, codes};

/// Stripe counts with a delay; what is younger than this is on its way, and its absence proves nothing.
pub const SETTLED: Duration = crate::billing::sender::decide::COUNTED_AFTER;
/// Stripe takes no meter event that is older. A day is kept back for what is under way.
pub const OLDEST_SENT: Duration = Duration::days(34);
/// Days that a run without other wishes looks at.
const DAYS: i64 = 35;

/// The beginning of a UTC day.
pub fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// The days that a run looks at when nobody says: the last 35, today included.
pub fn usual_days(now: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
    let tomorrow = midnight(now.date_naive()) + TimeDelta::days(1);
    (tomorrow - TimeDelta::days(DAYS), tomorrow)
}

/// Stripe's trouble, for people.
pub fn trouble(trouble: Trouble) -> Error {
    let error = match &trouble {
        Trouble::Refused { status: 404, .. } => Error::new(&codes::NOT_FOUND),
        Trouble::Refused { .. } => Error::new(&codes::CONFLICT),
        Trouble::Key { .. } => Error::new(&codes::PAYMENTS_UNAVAILABLE)
            .hint("see FREEHOLD_STRIPE: is the key there, of this mode, and allowed to do this?"),
        _ => Error::new(&codes::PAYMENTS_UNAVAILABLE),
    };
    error.detail(trouble.to_string()).source(trouble)
}

/// Asks Stripe, and again a few times for what passes.
///
/// # Errors
/// `payments_unavailable` when it still did not answer; what it refuses, else.
pub(super) async fn ask<'a, T>(question: impl Fn() -> Asked<'a, T>) -> Result<T> {
    for seconds in [1, 3] {
        match question().await {
            Err(passing) if passing.passes() => {
                let said = match passing {
                    Trouble::Later { after, .. } => after,
                    _ => None,
                };
                let wait = std::time::Duration::from_secs(seconds);
                tokio::time::sleep(said.unwrap_or(wait).min(3 * wait)).await;
            }
            answer => return answer.map_err(trouble),
        }
    }
    question().await.map_err(trouble)
}
