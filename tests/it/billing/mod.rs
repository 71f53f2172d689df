//! Money: what was used, what Stripe was told, what was invoiced, what was paid.

mod access;
mod catalogue;
mod customers;
mod inbox;
mod ledger;
mod orders;
mod quotas;
mod relay;
mod sender;
mod shop;
mod stand_in;
mod stripe_client;
mod till;
