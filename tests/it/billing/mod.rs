//! Money: what was used, what Stripe was told, what was invoiced, what was paid.

mod access;
mod bad_input;
mod catalogue;
mod closing;
mod customers;
mod finance;
mod horizon;
mod inbox;
mod journey;
mod journey_paid;
mod ledger;
mod meter_errors;
mod office;
mod once;
mod orders;
mod owed;
mod permutations;
mod quotas;
mod reconcile;
mod relay;
mod sender;
mod sender_processes;
mod shop;
mod stand_in;
mod stripe_client;
mod till;
