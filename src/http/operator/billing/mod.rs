//! `/operator/v1/billing`: what finance reads and corrects. Changes here take the finance role; all others of the operators'
//! API take the operator's.
//!
//! | file | holds |
//! |---|---|
//! | `read` | reports, explanations, lists |
//! | `change` | corrections, settling, replaying, releasing |
//! | `reconcile` | comparisons |

mod change;
mod read;
mod reconcile;

use utoipa_axum::router::OpenApiRouter;

use super::Inside;

pub use change::{AskCorrection, Decide, OverrideAccess};
pub use read::DoneToo;

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().merge(read::routes()).merge(change::routes()).merge(reconcile::routes())
}
