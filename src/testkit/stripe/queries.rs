//! What tests ask the stand-in and plant in it, and how its state is kept in a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::errors::Answer;
use super::operations::{checkout, invoices, meters, payments, totals};
use super::state::{AfterRetries, State, Uncounted, Usage, data, int, public, text};
use super::webhooks::{Delivery, Held, Manner};
use super::{Asked, Card, Inside, StripeStandIn};
use crate::kernel::Clock;

/// Questions. None of them counts as a request.
impl StripeStandIn {
    /// The sum of what was counted for a customer under an event name, whatever its meter makes of it.
    pub fn event_sum(&self, customer: &str, event_name: &str) -> i64 {
        self.usage(customer, event_name).iter().map(|usage| usage.value).sum()
    }

    /// What was counted for a customer under an event name, in the order it came.
    pub fn usage(&self, customer: &str, event_name: &str) -> Vec<Usage> {
        let state = self.inside.state.lock();
        let own =
            |usage: &&Usage| usage.customer == customer && usage.event_name == event_name && !usage.cancelled;
        state.usage.iter().filter(own).cloned().collect()
    }

    /// All that was counted, for everybody.
    pub fn all_usage(&self) -> Vec<Usage> {
        self.inside.state.lock().usage.iter().filter(|usage| !usage.cancelled).cloned().collect()
    }

    /// All objects of a kind (`subscription`, `invoice`, `price`, …), newest first.
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        let mut state = self.inside.state.lock();
        if kind == "invoice" {
            let all: Vec<String> = state.all(kind).iter().map(|one| text(one, "id").to_owned()).collect();
            all.iter().for_each(|id| invoices::refresh(&mut state, id));
        }
        state.all(kind).into_iter().map(public).collect()
    }

    /// An object by its id, of whatever kind.
    pub fn object(&self, id: &str) -> Option<Value> {
        self.inside.state.lock().objects.values().find_map(|kind| kind.get(id)).map(public)
    }

    /// A customer's invoices, newest first.
    pub fn invoices(&self, customer: &str) -> Vec<Value> {
        self.objects("invoice").into_iter().filter(|invoice| text(invoice, "customer") == customer).collect()
    }

    /// A customer's subscriptions, newest first, ended ones too.
    pub fn subscriptions(&self, customer: &str) -> Vec<Value> {
        self.objects("subscription").into_iter().filter(|one| text(one, "customer") == customer).collect()
    }

    /// Snapshot events, oldest first.
    pub fn events(&self) -> Vec<Value> {
        self.inside.state.lock().events.iter().map(public).collect()
    }

    /// Thin events with their data, oldest first.
    pub fn thin_events(&self) -> Vec<Value> {
        self.inside.state.lock().thin_events.iter().map(public).collect()
    }

    /// Every delivery so far, with what became of it.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.inside.state.lock().deliveries.clone()
    }

    /// Whether nothing is on its way any more.
    pub fn is_all_delivered(&self) -> bool {
        self.inside.state.lock().deliveries.iter().all(|delivery| delivery.done || delivery.gave_up)
    }

    /// The requests so far, by operation (`Billing.MeterEvents.create`, or the beginning of one).
    pub fn asked(&self, operation: &str) -> Vec<Asked> {
        self.inside
            .asked
            .lock()
            .iter()
            .filter(|asked| asked.operation.starts_with(operation))
            .cloned()
            .collect()
    }

    /// Requests that were none of Stripe's, or that this cannot do. A test that asks for their absence finds mistakes.
    pub fn refused(&self) -> Vec<Asked> {
        self.inside.asked.lock().iter().filter(|asked| asked.refused.is_some()).cloned().collect()
    }
}

/// What happens at Stripe without a request of ours.
impl StripeStandIn {
    /// How webhooks are delivered from now on.
    pub fn deliver(&self, manner: Manner) {
        self.inside.state.lock().manner = manner;
    }

    /// What [`Manner::held`] keeps back, signed now, for a test to deliver as it likes.
    pub fn take_held(&self) -> Vec<Held> {
        let now = self.inside.now();
        self.inside.state.lock().take_held(now)
    }

    /// Sends an event of the past again, under the same id.
    ///
    /// # Panics
    /// When there is none.
    pub fn deliver_again(&self, event: &str) {
        let mut state = self.inside.state.lock();
        let found = state.events.iter().find(|one| text(one, "id") == event).cloned();
        let thin = state.thin_events.iter().find(|one| text(one, "id") == event).cloned();
        match (found, thin) {
            (Some(event), _) => state.queue(&event, super::Shape::Snapshot),
            (_, Some(event)) => state.queue(&event, super::Shape::Thin),
            _ => panic!("no event {event}"),
        }
    }

    /// What happens when an invoice's last attempt has failed.
    pub fn after_retries(&self, then: AfterRetries) {
        self.inside.state.lock().after_retries = then;
    }

    /// How long usage takes to show in summaries.
    pub fn summary_lag(&self, lag: Duration) {
        self.inside.state.lock().summary_lag = i64::try_from(lag.as_secs()).unwrap_or(i64::MAX);
    }

    /// Pays, or fails to pay, a Checkout page without a browser. Gives the session.
    ///
    /// # Panics
    /// When it is not open, and for a card that is declined.
    pub fn checkout_complete(&self, session: &str, card: Card) -> Value {
        self.doing(|state| checkout::complete(state, session, card))
    }

    /// Gives a customer another card.
    ///
    /// # Panics
    /// When there is no such customer.
    pub fn card(&self, customer: &str, works: bool) {
        self.doing(|state| state.card_put(customer, works));
    }

    /// Pays an open invoice with the customer's card, as on its page. Gives whether that worked.
    ///
    /// # Panics
    /// When there is no such invoice.
    pub fn invoice_pay(&self, invoice: &str) -> bool {
        self.doing(|state| payments::collect(state, invoice, false))
    }

    /// Makes a draft final now, and collects it.
    ///
    /// # Panics
    /// When it is no draft.
    pub fn invoice_finalize(&self, invoice: &str) {
        self.doing(|state| {
            invoices::finalize(state, invoice)?;
            invoices::advance(state, invoice)
        });
    }

    /// Plants usage that we never sent: extra at Stripe.
    pub fn plant_usage(&self, customer: &str, event_name: &str, value: i64, timestamp: i64) -> String {
        let mut state = self.inside.state.lock();
        let (identifier, accepted) = (state.id("planted"), state.now);
        state.usage.push(Usage {
            event_name: event_name.to_owned(),
            customer: customer.to_owned(),
            value,
            identifier: identifier.clone(),
            timestamp,
            accepted,
            cancelled: false,
        });
        identifier
    }

    /// Accepts what was sent under an identifier and does not count it: missing at Stripe, and known there for a day. Gives
    /// whether there was any.
    pub fn lose_count(&self, identifier: &str) -> bool {
        let mut state = self.inside.state.lock();
        let before = state.usage.len();
        state.usage.retain(|usage| usage.identifier != identifier);
        state.changes += 1;
        state.usage.len() < before
    }

    /// Says that what was sent under these identifiers could not be counted, and does not count it: a thin event, now.
    ///
    /// # Panics
    /// When no meter has that event name.
    pub fn report_uncounted(&self, event_name: &str, identifiers: &[&str]) {
        let mut state = self.inside.state.lock();
        let meter = meters::by_event_name(&state, event_name).expect("a meter");
        let at = self.inside.now();
        state.now = state.now.max(at);
        for identifier in identifiers {
            state.usage.retain(|usage| usage.identifier != *identifier);
            state.uncounted.push(Uncounted {
                at,
                meter: Some(text(&meter, "id").to_owned()),
                code: "meter_event_customer_not_found".to_owned(),
                message: "There is no such customer.".to_owned(),
                identifier: (*identifier).to_owned(),
            });
        }
        meters::report(&mut state);
    }

    /// Loses what was sent under an identifier, as if it had never come: missing at Stripe, and not known. Gives whether there
    /// was any.
    pub fn lose_usage(&self, identifier: &str) -> bool {
        let mut state = self.inside.state.lock();
        state.identifiers.remove(identifier);
        let before = state.usage.len();
        state.usage.retain(|usage| usage.identifier != identifier);
        state.usage.len() < before
    }

    /// Somebody changes a line's quantity by hand, in the dashboard.
    ///
    /// # Panics
    /// When there is no such invoice or line.
    pub fn edit_line(&self, invoice: &str, line: usize, quantity: i64) {
        self.doing(|state| {
            let mut found = state.get("invoice", invoice)?;
            let mut lines = data(&found, "lines");
            let price = text(&lines[line]["pricing"]["price_details"], "price").to_owned();
            let price = state.get("price", &price)?;
            let amount = totals::amount_of(quantity, &price);
            lines[line]["quantity"] = json!(quantity);
            lines[line]["amount"] = json!(amount);
            lines[line]["subtotal"] = json!(amount);
            found["lines"]["data"] = Value::Array(lines);
            found["_edited"] = json!(true);
            totals::total_up(state, &mut found);
            state.put("invoice", found.clone());
            state.emit("invoice.updated", &found);
            Ok(())
        });
    }

    /// Changes fields of an object behind everybody's back: no event.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn edit(&self, id: &str, fields: &Value) {
        let mut state = self.inside.state.lock();
        let object = state.objects.values_mut().find_map(|kind| kind.get_mut(id)).expect("an object");
        for (name, value) in fields.as_object().into_iter().flatten() {
            object[name.as_str()] = value.clone();
        }
        state.changes += 1;
    }

    /// Records an event about an object as it is, of any type.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn emit(&self, kind: &str, id: &str) {
        let mut state = self.inside.state.lock();
        let object = state.objects.values().find_map(|kind| kind.get(id)).cloned().expect("an object");
        state.emit(kind, &object);
    }

    /// What a meter has for a customer in `from..to`, as an invoice would say it.
    ///
    /// # Panics
    /// When there is no such meter.
    pub fn metered(&self, event_name: &str, customer: &str, from: i64, to: i64) -> i64 {
        let state = self.inside.state.lock();
        let meter = meters::by_event_name(&state, event_name).expect("a meter");
        meters::aggregate(&state, &meter, customer, from, to).unwrap_or(0)
    }

    /// What is still owed by a customer, over all open invoices.
    pub fn owed(&self, customer: &str) -> i64 {
        let open = |invoice: &&Value| text(invoice, "status") == "open";
        self.invoices(customer).iter().filter(open).map(|invoice| int(invoice, "amount_remaining")).sum()
    }

    fn doing<T>(&self, what: impl FnOnce(&mut State) -> Answer<T>) -> T {
        self.settle();
        let mut state = self.inside.state.lock();
        match what(&mut state) {
            Ok(done) => done,
            Err(refusal) => panic!("the stand-in: {}", refusal.body("")),
        }
    }
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct File {
    /// How far the clock was ahead of the machine's.
    ahead_ms: i64,
    base_url: String,
    state: Value,
}

/// The state of last time, with its addresses moved to where it listens now, and the clock as far ahead as it was.
///
/// # Panics
/// When the file is not one of its own.
pub fn read_file(file: &Path, base_url: &str, clock: &Clock) -> Option<State> {
    let text = std::fs::read_to_string(file).ok()?;
    let kept: File = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{} is not the stand-in's: {error}", file.display()));
    let moved = kept.state.to_string().replace(&kept.base_url, base_url);
    let state = serde_json::from_str(&moved)
        .unwrap_or_else(|error| panic!("{} is of another version: {error}; throw it away", file.display()));
    clock.advance(chrono::Duration::milliseconds(kept.ahead_ms));
    Some(state)
}

/// Where it listened when the file was written.
pub fn address_in(file: &Path) -> Option<std::net::SocketAddr> {
    let kept: File = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    kept.base_url.trim_start_matches("http://").parse().ok()
}

/// Writes the state whenever it has changed, at most once a second, and once more at the end.
pub async fn keep(inside: Arc<Inside>, file: PathBuf, stop: CancellationToken) {
    let mut written = (0, 0);
    loop {
        let on = stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await.is_some();
        let changed = {
            let state = inside.state.lock();
            let ahead = inside.clock.lock().now() - Clock::System.now();
            // The clock alone is worth writing down, too; in seconds, for it is never quite the same.
            let present = (state.changes, ahead.num_seconds());
            let differs = present != written;
            written = present;
            differs.then(|| File {
                ahead_ms: ahead.num_milliseconds(),
                base_url: state.base_url.clone(),
                state: serde_json::to_value(&*state).unwrap_or_default(),
            })
        };
        if let Some(kept) = changed {
            write(&file, &kept);
        }
        if !on {
            return;
        }
    }
}

fn write(file: &Path, kept: &File) {
    let next = file.with_extension("new");
    let text = serde_json::to_string(kept).unwrap_or_default();
    let done = std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, file));
    if let Err(error) = done {
        tracing::warn!(%error, file = %file.display(), "the stand-in's state could not be kept");
    }
}
