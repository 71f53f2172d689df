//! Invoices: made as drafts, final an hour later, then collected.

use serde_json::{Value, json};

use super::super::errors::{Answer, Refusal};
use super::super::lists::{held, matches, page};
use super::super::state::{HOUR, State, copy, data, int, merge_metadata, text};
use super::totals::{Line, amount_of, is_metered, line, metered_lines, product_name, total_up};
use super::{Call, payments, prorations, subscriptions, unknown};

/// From a draft to its end.
pub const DRAFT_FOR: i64 = HOUR;

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    let (id, params) = (call.id(), call.params);
    match call.operation {
        "Invoices.retrieve" => {
            refresh(state, id);
            state.get("invoice", id)
        }
        "Invoices.list" => list(state, params),
        "Invoices.listLineItems" => {
            refresh(state, id);
            page(data(&state.get("invoice", id)?, "lines"), params, &format!("/v1/invoices/{id}/lines"))
        }
        "Invoices.update" => update(state, id, params),
        "Invoices.del" => {
            require(state, id, "draft", "deleted")?;
            let invoice = state.get("invoice", id)?;
            state.emit("invoice.deleted", &invoice);
            Ok(state.delete("invoice", id))
        }
        "Invoices.finalizeInvoice" => {
            require(state, id, "draft", "finalized")?;
            finalize(state, id)?;
            if params["auto_advance"] == true {
                advance(state, id)?;
            }
            state.get("invoice", id)
        }
        "Invoices.pay" => payments::pay(state, id, params),
        "Invoices.voidInvoice" => close(state, id, "void", "voided_at", "invoice.voided"),
        "Invoices.markUncollectible" => {
            close(state, id, "uncollectible", "marked_uncollectible_at", "invoice.marked_uncollectible")
        }
        "Invoices.createPreview" => preview(state, params),
        _ => Err(unknown(call)),
    }
}

fn list(state: &mut State, params: &Value) -> Answer {
    let drafts: Vec<String> = state
        .all("invoice")
        .iter()
        .filter(|invoice| text(invoice, "status") == "draft")
        .map(|invoice| text(invoice, "id").to_owned())
        .collect();
    drafts.iter().for_each(|id| refresh(state, id));
    let fits = |invoice: &&&Value| {
        let subscription = params["subscription"].as_str();
        subscription.is_none_or(|wanted| text(invoice, "_subscription") == wanted)
            && matches(invoice, params, &["customer", "status", "collection_method"])
    };
    page(state.all("invoice").iter().filter(fits).map(|one| (*one).clone()).collect(), params, "/v1/invoices")
}

fn require(state: &State, id: &str, status: &str, verb: &str) -> Answer<()> {
    let is = state.get("invoice", id)?;
    if text(&is, "status") == status {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "Only {status} invoices can be {verb}: this one is {}.",
        text(&is, "status")
    ))
    .code("invoice_not_editable"))
}

/// What a new invoice is made of.
pub struct New<'a> {
    pub subscription: &'a str,
    pub reason: &'a str,
    /// Metered items are charged for what was used in this time.
    pub past: Option<(i64, i64)>,
    /// Licensed items are charged for this time, in full unless `whole` says that it is a part.
    pub next: Option<(i64, i64)>,
    /// Nothing is charged for it: a trial.
    pub free: bool,
    /// Seconds of a full period, when `next` is shorter and is charged by its part.
    pub whole: Option<i64>,
    /// What the document says its period is.
    pub period: (i64, i64),
}

/// Makes a draft. `kept`: it becomes an object with an event; otherwise it is a preview.
pub fn draft(state: &mut State, new: &New<'_>, kept: bool) -> Answer {
    let mut subscription = state.get("subscription", new.subscription)?;
    let mut invoice = state.new_object("invoice", if kept { "in" } else { "upcoming_in" });
    let mut lines: Vec<Value> = subscription["_pending"].as_array().cloned().unwrap_or_default();
    for item in data(&subscription, "items") {
        if is_metered(&item["price"]) {
            if let Some((from, to)) = new.past {
                lines.extend(metered_lines(state, &subscription, &item, from, to));
            }
        } else if let Some(period) = new.next {
            lines.push(licensed_line(state, &subscription, &item, period, new));
        }
    }
    let id = text(&invoice, "id").to_owned();
    lines.iter_mut().for_each(|line| line["invoice"] = json!(id));
    let customer = state.find("customer", text(&subscription, "customer")).cloned().unwrap_or_default();
    invoice["customer"] = subscription["customer"].clone();
    invoice["customer_email"] = customer["email"].clone();
    invoice["customer_name"] = customer["name"].clone();
    invoice["currency"] = subscription["currency"].clone();
    invoice["collection_method"] = subscription["collection_method"].clone();
    invoice["billing_reason"] = json!(new.reason);
    invoice["discounts"] = subscription["discounts"].clone();
    invoice["default_payment_method"] = subscription["default_payment_method"].clone();
    invoice["period_start"] = json!(new.period.0);
    invoice["period_end"] = json!(new.period.1);
    invoice["lines"] = held(lines, String::new());
    invoice["_subscription"] = json!(new.subscription);
    invoice["_past"] = json!(new.past.map(|(from, to)| [from, to]));
    invoice["parent"] = json!({
        "type": "subscription_details", "quote_details": null,
        "subscription_details": { "subscription": new.subscription, "metadata": subscription["metadata"] },
    });
    // An unpaid subscription's invoices wait for somebody.
    let advances = text(&subscription, "status") != "unpaid";
    invoice["auto_advance"] = json!(advances);
    invoice["automatically_finalizes_at"] = if advances { json!(state.now + DRAFT_FOR) } else { Value::Null };
    total_up(state, &mut invoice);
    if kept {
        subscription["_pending"] = json!([]);
        subscription["latest_invoice"] = json!(id);
        // A coupon for once is spent.
        let once = |id: &Value| {
            let coupon =
                state.find("discount", id.as_str().unwrap_or_default()).map(|one| &one["source"]["coupon"]);
            let coupon = coupon.and_then(|id| state.find("coupon", id.as_str().unwrap_or_default()));
            coupon.is_some_and(|coupon| text(coupon, "duration") == "once")
        };
        let left: Vec<Value> = subscription["discounts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|id| !once(id))
            .cloned()
            .collect();
        if int(&invoice, "total") > 0 || int(&invoice, "subtotal") > 0 {
            subscription["discounts"] = Value::Array(left);
        }
        state.put("subscription", subscription);
        state.put("invoice", invoice.clone());
        state.emit("invoice.created", &invoice);
    }
    Ok(invoice)
}

fn licensed_line(
    state: &mut State,
    subscription: &Value,
    item: &Value,
    period: (i64, i64),
    new: &New<'_>,
) -> Value {
    let price = item["price"].clone();
    let quantity = item["quantity"].as_i64().unwrap_or(1);
    let full = amount_of(quantity, &price);
    let name = product_name(state, &price);
    let (amount, description) = match (new.free, new.whole) {
        (true, _) => (0, format!("Trial period for {name}")),
        (false, Some(whole)) => {
            let part = (period.1 - period.0) as f64 / whole.max(1) as f64;
            ((full as f64 * part).round() as i64, format!("{quantity} × {name} (part of a period)"))
        }
        (false, None) => (full, format!("{quantity} × {name}")),
    };
    let (subscription, item) = (text(subscription, "id"), text(item, "id"));
    let quantity = Some(quantity);
    line(
        state,
        Line { price: &price, quantity, amount, period, description, subscription, item, proration: false },
    )
}

/// A draft goes on counting until it is final.
pub fn refresh(state: &mut State, id: &str) {
    let Some(mut invoice) = state.find("invoice", id).cloned() else { return };
    let (Some(from), Some(to)) = (invoice["_past"][0].as_i64(), invoice["_past"][1].as_i64()) else { return };
    let subscription = state.find("subscription", text(&invoice, "_subscription")).cloned();
    let (Some(subscription), "draft") = (subscription, text(&invoice, "status")) else { return };
    let (old, mut lines): (Vec<_>, Vec<_>) =
        data(&invoice, "lines").into_iter().partition(|line| line["_metered"] == true);
    let mut fresh = Vec::new();
    for item in data(&subscription, "items").iter().filter(|item| is_metered(&item["price"])) {
        fresh.extend(metered_lines(state, &subscription, item, from, to));
    }
    let essence = |lines: &[Value]| -> Vec<(Value, Value)> {
        lines
            .iter()
            .map(|line| (line["pricing"]["price_details"].clone(), line["quantity"].clone()))
            .collect()
    };
    // Lines that somebody edited on purpose, and those that say the same, stay.
    if invoice["_edited"] == true || essence(&old) == essence(&fresh) {
        return;
    }
    fresh.iter_mut().for_each(|line| line["invoice"] = json!(id));
    lines.extend(fresh);
    invoice["lines"] = held(lines, String::new());
    total_up(state, &mut invoice);
    state.put("invoice", invoice);
}

/// Makes a draft final: it gets a number, uses the customer's balance, and is open; or paid, when nothing is due.
pub fn finalize(state: &mut State, id: &str) -> Answer<()> {
    refresh(state, id);
    let mut invoice = state.get("invoice", id)?;
    let mut customer = state.find("customer", text(&invoice, "customer")).cloned().unwrap_or_default();
    let (balance, total) = (int(&customer, "balance"), int(&invoice, "total"));
    // A balance below zero is the customer's credit. A total below zero becomes one.
    let used = if total > 0 { balance.max(-total) } else { 0 };
    let ending = if total > 0 { balance - used } else { balance + total };
    invoice["starting_balance"] = json!(balance);
    invoice["ending_balance"] = json!(ending);
    invoice["_balance_used"] = json!(used);
    if ending != balance && customer["id"].is_string() && customer["deleted"] != true {
        customer["balance"] = json!(ending);
        state.put("customer", customer.clone());
        state.emit("customer.updated", &customer);
    }
    let number = int(&customer, "next_invoice_sequence").max(1);
    if customer["id"].is_string() && customer["deleted"] != true {
        customer["next_invoice_sequence"] = json!(number + 1);
        state.put("customer", customer.clone());
    }
    invoice["number"] = json!(format!("{}-{number:04}", text(&customer, "invoice_prefix")));
    invoice["status"] = json!("open");
    invoice["status_transitions"]["finalized_at"] = json!(state.now);
    invoice["effective_at"] = json!(state.now);
    invoice["automatically_finalizes_at"] = Value::Null;
    invoice["hosted_invoice_url"] = json!(format!("{}/i/{id}", state.base_url));
    invoice["invoice_pdf"] = json!(format!("{}/i/{id}?pdf", state.base_url));
    if text(&invoice, "collection_method") == "send_invoice" {
        let days = state
            .find("subscription", text(&invoice, "_subscription"))
            .map_or(30, |one| int(one, "days_until_due"));
        invoice["due_date"] = json!(state.now + days * super::super::state::DAY);
    }
    total_up(state, &mut invoice);
    state.put("invoice", invoice.clone());
    state.emit("invoice.finalized", &invoice);
    if int(&invoice, "amount_due") == 0 {
        payments::paid(state, id)?;
    }
    Ok(())
}

/// After it is final, an invoice that is charged automatically is collected.
pub fn advance(state: &mut State, id: &str) -> Answer<()> {
    let invoice = state.get("invoice", id)?;
    if text(&invoice, "status") == "open" && text(&invoice, "collection_method") == "charge_automatically" {
        payments::collect(state, id, true)?;
    }
    Ok(())
}

fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    let mut invoice = state.get("invoice", id)?;
    let status = text(&invoice, "status").to_owned();
    if matches!(status.as_str(), "paid" | "void") && params.get("auto_advance").is_some() {
        return Err(
            Refusal::invalid("Finalized invoices can't be updated in this way.").code("invoice_not_editable")
        );
    }
    copy(&mut invoice, params, &["auto_advance", "description", "footer", "days_until_due"]);
    merge_metadata(&mut invoice, params);
    if status == "draft" && params["auto_advance"].is_boolean() {
        let at = (int(&invoice, "created") + DRAFT_FOR).max(state.now);
        invoice["automatically_finalizes_at"] =
            if params["auto_advance"] == true { json!(at) } else { Value::Null };
    }
    state.put("invoice", invoice.clone());
    state.emit("invoice.updated", &invoice);
    Ok(invoice)
}

fn close(state: &mut State, id: &str, status: &str, when: &str, event: &str) -> Answer {
    let mut invoice = state.get("invoice", id)?;
    if !matches!(text(&invoice, "status"), "open" | "uncollectible") {
        return Err(Refusal::invalid(format!(
            "An invoice that is {} cannot become {status}.",
            text(&invoice, "status")
        )));
    }
    invoice["status"] = json!(status);
    invoice["next_payment_attempt"] = Value::Null;
    invoice["status_transitions"][when] = json!(state.now);
    state.put("invoice", invoice.clone());
    state.emit("invoice.updated", &invoice);
    state.emit(event, &invoice);
    Ok(invoice)
}

/// What the next invoice of a subscription would say if the period ended with what was used so far.
fn preview(state: &mut State, params: &Value) -> Answer {
    let id = match (params["subscription"].as_str(), params["customer"].as_str()) {
        (Some(id), _) => id.to_owned(),
        (None, Some(customer)) => {
            let live = |one: &&&Value| text(one, "customer") == customer && text(one, "status") != "canceled";
            let all = state.all("subscription");
            let found = all.iter().find(live).map(|one| text(one, "id").to_owned());
            found.ok_or_else(|| {
                Refusal::invalid("No upcoming invoices for customer").code("invoice_upcoming_none")
            })?
        }
        _ => return Err(Refusal::invalid("You must specify `customer` or `subscription`.")),
    };
    if params["subscription_details"].is_object() {
        return Err(Refusal::not_here("previews of changes (subscription_details)"));
    }
    let subscription = state.named("subscription", &id, "subscription")?;
    if text(&subscription, "status") == "canceled" {
        return Err(
            Refusal::invalid("No upcoming invoices for this subscription").code("invoice_upcoming_none")
        );
    }
    let (from, to) = prorations::period(&subscription);
    let ends = subscriptions::ends_with_period(&subscription);
    let anchor = int(&subscription, "billing_cycle_anchor");
    let recurring = subscription["items"]["data"][0]["price"]["recurring"].clone();
    let new = New {
        subscription: &id,
        reason: "upcoming",
        past: (text(&subscription, "status") != "trialing").then_some((from, to)),
        next: (!ends).then(|| (to, prorations::boundary_after(anchor, &recurring, to))),
        free: false,
        whole: None,
        period: (from, to),
    };
    draft(state, &new, false)
}
