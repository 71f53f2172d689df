//! Collecting an invoice: the card works or it does not, and then it is tried again.

use serde_json::{Value, json};

use super::super::errors::{Answer, Refusal};
use super::super::state::{AfterRetries, DAY, State, int, text};
use super::{invoices, subscriptions, totals};

/// Days from each failed attempt to the next one.
const RETRIES: [i64; 3] = [3, 5, 7];

/// Which card pays a subscription's or a customer's invoice.
fn card<'a>(state: &'a State, invoice: &Value) -> Option<&'a Value> {
    let subscription = state.find("subscription", text(invoice, "_subscription"));
    let own = subscription.and_then(|one| state.find("payment_method", text(one, "default_payment_method")));
    own.or_else(|| state.card_of(text(invoice, "customer")))
}

/// Tries to collect an open invoice. `automatic`: by the schedule of retries, and not because somebody asked.
pub fn collect(state: &mut State, id: &str, automatic: bool) -> Answer<bool> {
    let invoice = state.get("invoice", id)?;
    if int(&invoice, "amount_remaining") == 0 {
        paid(state, id)?;
        return Ok(true);
    }
    if card(state, &invoice).is_some_and(|card| card["_works"] == true) {
        paid(state, id)?;
        return Ok(true);
    }
    failed(state, invoice, automatic)?;
    Ok(false)
}

/// Marks an invoice paid, and its subscription active when nothing else is owed.
pub fn paid(state: &mut State, id: &str) -> Answer<()> {
    let mut invoice = state.get("invoice", id)?;
    let owed = int(&invoice, "amount_remaining");
    invoice["status"] = json!("paid");
    invoice["amount_paid"] = json!(int(&invoice, "amount_paid") + owed);
    invoice["attempted"] = json!(true);
    if owed > 0 {
        invoice["attempt_count"] = json!(int(&invoice, "attempt_count") + 1);
    }
    invoice["next_payment_attempt"] = Value::Null;
    invoice["status_transitions"]["paid_at"] = json!(state.now);
    totals::total_up(state, &mut invoice);
    state.put("invoice", invoice.clone());
    state.emit("invoice.updated", &invoice);
    state.emit("invoice.paid", &invoice);
    state.emit("invoice.payment_succeeded", &invoice);
    let customer = text(&invoice, "customer").to_owned();
    let owing = state
        .all("invoice")
        .iter()
        .any(|one| text(one, "customer") == customer && text(one, "status") == "open");
    if !owing {
        delinquent(state, &customer, false);
    }
    let subscription = text(&invoice, "_subscription").to_owned();
    let still = state
        .all("invoice")
        .iter()
        .any(|one| text(one, "_subscription") == subscription && text(one, "status") == "open");
    if let Some(found) = state.find("subscription", &subscription) {
        let waits = matches!(text(found, "status"), "incomplete" | "past_due" | "unpaid");
        if waits && !still {
            subscriptions::set_status(state, &subscription, "active")?;
        }
    }
    Ok(())
}

fn delinquent(state: &mut State, customer: &str, is: bool) {
    let Some(mut customer) = state.find("customer", customer).cloned() else { return };
    if customer["deleted"] != true && customer["delinquent"] != is {
        customer["delinquent"] = json!(is);
        state.put("customer", customer.clone());
        state.emit("customer.updated", &customer);
    }
}

fn failed(state: &mut State, mut invoice: Value, automatic: bool) -> Answer<()> {
    let first = int(&invoice, "attempt_count") == 0;
    if automatic || first {
        invoice["attempt_count"] = json!(int(&invoice, "attempt_count") + 1);
    }
    invoice["attempted"] = json!(true);
    let tries = usize::try_from(int(&invoice, "attempt_count")).unwrap_or(1);
    let again = RETRIES.get(tries - 1).map(|days| state.now + days * DAY);
    // The first invoice of a subscription is not tried again: the customer is there and pays, or does not.
    let begins = text(&invoice, "billing_reason") == "subscription_create";
    if automatic || first {
        invoice["next_payment_attempt"] = json!(again.filter(|_| !begins && invoice["auto_advance"] == true));
    }
    state.put("invoice", invoice.clone());
    state.emit("invoice.updated", &invoice);
    state.emit("invoice.payment_failed", &invoice);
    delinquent(state, text(&invoice, "customer"), true);
    let subscription = text(&invoice, "_subscription").to_owned();
    let Some(found) = state.find("subscription", &subscription) else { return Ok(()) };
    match (text(found, "status"), begins) {
        (_, true) | ("canceled" | "unpaid" | "incomplete_expired", _) => Ok(()),
        _ if automatic && again.is_none() => match state.after_retries {
            AfterRetries::Unpaid => subscriptions::set_status(state, &subscription, "unpaid"),
            AfterRetries::Cancel => subscriptions::end(state, &subscription, "payment_failed"),
            AfterRetries::LeavePastDue => subscriptions::set_status(state, &subscription, "past_due"),
        },
        _ => subscriptions::set_status(state, &subscription, "past_due"),
    }
}

/// `POST /v1/invoices/{id}/pay`.
pub fn pay(state: &mut State, id: &str, params: &Value) -> Answer {
    let invoice = state.get("invoice", id)?;
    match text(&invoice, "status") {
        "draft" => invoices::finalize(state, id)?,
        "open" | "uncollectible" => {}
        "paid" => return Err(Refusal::invalid("Invoice is already paid")),
        status => return Err(Refusal::invalid(format!("An invoice that is {status} cannot be paid."))),
    }
    if params["paid_out_of_band"] == true {
        paid(state, id)?;
        return state.get("invoice", id);
    }
    if let Some(method) = params["payment_method"].as_str() {
        let method = state.named("payment_method", method, "payment_method")?;
        if method["_works"] == true {
            paid(state, id)?;
            return state.get("invoice", id);
        }
    }
    let already = text(&state.get("invoice", id)?, "status") == "paid";
    if !already && !collect(state, id, false)? {
        return Err(Refusal::new(402, "card_error", "Your card was declined.").code("card_declined"));
    }
    state.get("invoice", id)
}
