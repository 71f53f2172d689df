//! Money: what was used, what Stripe was told, what was invoiced, what was paid.

mod access;
mod catalogue;
mod closing;
mod customers;
mod finance;
mod horizon;
mod inbox;
mod journey;
mod ledger;
mod orders;
mod quotas;
mod reconcile;
mod relay;
mod sender;
mod shop;
mod stand_in;
mod stripe_client;
mod till;
