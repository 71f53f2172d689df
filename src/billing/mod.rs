//! Quotas, metering and money: what a tenant may use, what it used, what Stripe was told, what was paid.
//!
//! | folder | holds |
//! |---|---|
//! | `settings` | the file that `FREEHOLD_STRIPE` names |
//! | `regular` | what a worker does for billing now and then: each part's line |
//! | `stripe` | what is asked of Stripe, in our own words; `adapters::stripe` answers it |
//! | `ledger` | facts, how they arrive, and the sealed batches they become |
//! | `sender` | batches on their way to Stripe: decisions (pure), lanes, leases, the loop |
//! | `catalogue` | plans, prices and meters, brought to Stripe |
//! | `quotas` | the numeric limits of a plan that last longer than a second: counted, said, enforced |
//! | `customers` | a tenant's customer, subscription and invoices as Stripe has them |
//! | `inbox` | webhooks: stored, then worked off; the sweep that finds what never came |
//! | `access` | what a tenant may do while money is owed: a pure function, and the effects of its changes |
//! | `reconcile` | five levels of comparison, and the names of differences |
//! | `finance` | what finance asks: reports, explanations, corrections, exports |
//!
//! Two rules run through all of it. PostgreSQL is the truth: a number at Stripe or in Redis is compared with it, never
//! believed over it. And no transaction is open while Stripe is asked.

use std::sync::Arc;

use crate::control_plane::ControlPlane;
use crate::db::admin::ShardAdmins;
use crate::identity::letters::Carrier;
use sender::breaker::Breaker;
use settings::Settings;
use stripe::Stripe;

pub use regular::run;

pub mod access;
pub mod catalogue;
pub mod customers;
pub mod finance;
pub mod inbox;
pub mod incidents;
pub mod ledger;
pub mod quotas;
pub mod reconcile;
pub mod regular;
pub mod sender;
pub mod settings;
pub mod stripe;

/// What billing's work needs. Cheap to clone.
#[derive(Clone)]
pub struct Billing {
    pub cp: ControlPlane,
    /// The shards' admin sessions: a worker's. A server has no DSN of any.
    pub admins: ShardAdmins,
    /// Answers `Trouble::Key` to everything when the settings name no key: check `settings.enabled()` before long work.
    pub stripe: Stripe,
    pub settings: Arc<Settings>,
    /// Who carries mail; none where none is set up.
    pub mail: Option<Carrier>,
    /// Whether this process asks Stripe at all while it is away.
    pub breaker: Breaker,
}

impl Billing {
    pub fn new(
        cp: ControlPlane,
        admins: ShardAdmins,
        stripe: Stripe,
        settings: Settings,
        mail: Option<Carrier>,
    ) -> Self {
        Self { cp, admins, stripe, settings: Arc::new(settings), mail, breaker: Breaker::default() }
    }
}
