//! What the events of one object lead to. Each thing is asked of Stripe once, however many events name it; what is stored
//! is the answer, never the event.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::about::{About, about};
use super::meters;
use super::work::Taken;
use crate::billing::access::letters::{self, Letter};
use crate::billing::customers;
use crate::billing::incidents::{self, kind};
use crate::billing::{Billing, access};
use crate::kernel::{Error, Result};

/// The API version that the typed requests were made for; events of another one are read all the same.
pub const API_VERSION: &str = "2026-09-30";

/// What is asked of Stripe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Customer(String),
    Checkout(String),
    Subscription(String),
    Invoice(String),
    /// The newest invoices of a customer.
    InvoicesOf(String),
}

/// Applies all of them, or says why not: then all are tried again, which does no harm.
pub(super) async fn apply(billing: &Billing, events: &[Taken]) -> Result<()> {
    let asks: BTreeSet<Ask> = events.iter().flat_map(asks).collect();
    for ask in asks {
        match ask {
            Ask::Customer(id) => customers::refresh_customer(billing, &id).await.map(drop)?,
            Ask::Checkout(id) => customers::refresh_checkout(billing, &id).await.map(drop)?,
            Ask::Subscription(id) => customers::refresh_subscription(billing, &id).await.map(drop)?,
            Ask::Invoice(id) => customers::refresh_invoice(billing, &id).await.map(drop)?,
            Ask::InvoicesOf(customer) => {
                customers::refresh_invoices_of(billing, &customer).await.map(drop)?
            }
        }
    }
    for event in events {
        beside(billing, event).await?;
    }
    Ok(())
}

fn object(event: &Taken) -> &Value {
    event.payload.as_ref().map_or(&Value::Null, |payload| &payload["data"]["object"])
}

/// An id in a field, which may hold the whole object in its place.
fn id_of(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["id"].as_str()).map(str::to_owned)
}

fn asks(event: &Taken) -> Vec<Ask> {
    let Some(about) = about(&event.kind) else { return Vec::new() };
    let of = |make: fn(String) -> Ask| event.object.clone().map(make).into_iter().collect();
    let object = object(event);
    match about {
        About::Checkout => of(Ask::Checkout),
        About::Customer => of(Ask::Customer),
        About::Subscription | About::TrialEnds => of(Ask::Subscription),
        About::Invoice | About::NotFinalized => of(Ask::Invoice),
        About::CreditNote => id_of(&object["invoice"]).map(Ask::Invoice).into_iter().collect(),
        About::Charge => id_of(&object["customer"]).map(Ask::InvoicesOf).into_iter().collect(),
        About::Upcoming | About::DisputeOpened | About::DisputeClosed | About::Alert | About::MeterErrors => {
            Vec::new()
        }
    }
}

/// What an event leads to beside the state of its object.
async fn beside(billing: &Billing, event: &Taken) -> Result<()> {
    let now = billing.cp.clock.now();
    let subject = event.object.as_deref().unwrap_or(&event.event_id);
    let open = async |kind: &str, detail: Value| {
        let mut conn = billing.cp.db.acquire().await?;
        incidents::open(&mut conn, kind, subject, None, detail, now).await.map(drop)
    };
    if let Some(version) = event.api_version.as_deref()
        && !version.starts_with(API_VERSION)
    {
        let mut conn = billing.cp.db.acquire().await?;
        let detail = json!({ "events": version, "expected": API_VERSION });
        incidents::open(&mut conn, kind::API_VERSION, version, None, detail, now).await?;
    }
    match about(&event.kind) {
        Some(About::TrialEnds) => trial_ends(billing, subject).await,
        Some(About::NotFinalized) => {
            let why = object(event)["last_finalization_error"]["message"].clone();
            open(kind::NOT_FINALIZED, json!({ "event": event.event_id, "why": why })).await
        }
        Some(About::DisputeOpened) => {
            let object = object(event);
            let (amount, reason) = (&object["amount"], &object["reason"]);
            open(
                kind::DISPUTE,
                json!({ "amount_minor": amount, "reason": reason, "charge": object["charge"] }),
            )
            .await
        }
        Some(About::DisputeClosed) => {
            let mut conn = billing.cp.db.acquire().await?;
            let how = format!("stripe: {}", object(event)["status"].as_str().unwrap_or("closed"));
            incidents::settle(&mut conn, kind::DISPUTE, subject, &how, now).await.map(drop)
        }
        Some(About::Alert) => open(kind::ALERT, json!({ "event": event.event_id })).await,
        Some(About::MeterErrors) => meters::report(billing, event).await,
        _ => Ok(()),
    }
}

/// A letter to the owners, once for a trial.
async fn trial_ends(billing: &Billing, subscription: &str) -> Result<()> {
    let mut tx = billing.cp.db.begin().await?;
    let Some((tenant, Some(end))) = customers::trial_of(&mut tx, subscription).await? else { return Ok(()) };
    let key = format!("trial_ends:{}", end.timestamp());
    if access::effect(&mut tx, subscription, &key, billing.cp.clock.now()).await? {
        letters::post(&mut tx, tenant, &Letter::TrialEnds { at: end }, billing.cp.clock.now()).await?;
    }
    tx.commit().await.map_err(Error::from)
}
