//! Quotas, metering and money: what a tenant may use, what it used, what Stripe was told, what was paid.
//!
//! | folder | holds |
//! |---|---|
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

pub mod stripe;
