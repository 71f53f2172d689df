//! Money: what was used, what Stripe was told, what was invoiced, what was paid.

mod catalogue;
mod ledger;
mod quotas;
mod relay;
mod sender;
mod stripe_client;
mod till;
