//! What was used: facts, how they arrive, and the sealed batches they become.
//!
//! | file | holds |
//! |---|---|
//! | `meters` | what is counted |
//! | `events` | one fact: recorded once, whoever says it again. The only file that writes `usage_event` rows |
//! | `dedupe` | what makes two facts one. Pure |
//! | `outbox` | what a row of a shard's outbox says. Pure |
//! | `relay` | carries facts from the shards' outboxes into the ledger |
//! | `months` | partitions, made ahead |
//! | `late` | too old, from the future: kept aside. Pure, and the list of them |
//! | `window` | windows, billing boundaries, identifiers, the time Stripe is told. Pure |
//! | `finals` | periods whose invoice takes nothing more |
//! | `sealer` | makes batches of facts |
//! | `api_calls`, `sampler` | facts that no transaction of a tenant makes |
//! | `corrections` | two people, one new signed fact |
//! | `books` | reading it all back: batches, their facts, totals |
//!
//! A fact's way: `freehold.outbox` on the shard, in the transaction of the business change → [`relay`] → `usage_event`, once
//! for each (tenant, source, key) → [`sealer`], five-minute windows → `usage_batch`, which `sender` tells Stripe.

pub mod api_calls;
pub mod books;
pub mod corrections;
pub mod dedupe;
pub mod events;
pub mod finals;
pub mod late;
pub mod meters;
pub mod months;
pub mod outbox;
pub mod relay;
pub mod sampler;
pub mod sealer;
pub mod window;

pub use books::{Batch, FactLine, Total, batch_by_id, batch_by_identifier, facts_of_batch, totals};
pub use corrections::{
    Correction, CorrectionState, NewCorrection, correction_ask, correction_decide, correction_list,
    correction_page,
};
pub use events::{Fact, Recorded, record, record_many};
pub use late::{Quarantined, quarantine_list};
pub use meters::{Aggregation, Meter, meter_list, meters_put};

crate::define_id!(FactId, "fct", "One fact of use.");
crate::define_id!(BatchId, "ubt", "One sealed total of a window, and one meter event at Stripe.");
crate::define_id!(CorrectionId, "cor", "A correction that somebody asked for.");
