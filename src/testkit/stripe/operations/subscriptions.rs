//! Subscriptions: begun, changed, ended. What time does to them is in `clock`.

use serde_json::{Value, json};

use super::super::errors::{Answer, Refusal};
use super::super::lists::{held, matches, page};
use super::super::state::{DAY, HOUR, State, copy, data, int, merge_metadata, public, some_int, text};
use super::invoices::{self, New};
use super::prorations::{Swap, anchor_of, boundary_after, length_before, period, set_period};
use super::totals::is_metered;
use super::{Call, payments, promotions, unknown};

/// A first invoice that is not paid by then ends the subscription.
pub const INCOMPLETE_FOR: i64 = 23 * HOUR;
/// `customer.subscription.trial_will_end` comes this long before.
pub const TOLD_BEFORE: i64 = 3 * DAY;

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    let (id, params) = (call.id(), call.params);
    match call.operation {
        "Subscriptions.create" => create(state, params),
        "Subscriptions.retrieve" => state.get("subscription", id),
        "Subscriptions.update" => update(state, id, params),
        "Subscriptions.cancel" => cancel(state, id, params),
        "Subscriptions.resume" => {
            if text(&state.get("subscription", id)?, "status") != "paused" {
                return Err(Refusal::invalid("Only paused subscriptions can be resumed."));
            }
            set_status(state, id, "active")?;
            state.get("subscription", id)
        }
        "Subscriptions.list" => {
            let fits = |one: &&&Value| {
                let status = match params["status"].as_str() {
                    Some("all") => true,
                    Some("ended") => matches!(text(one, "status"), "canceled" | "incomplete_expired"),
                    Some(wanted) => text(one, "status") == wanted,
                    None => text(one, "status") != "canceled",
                };
                let price = params["price"].as_str();
                let priced =
                    |wanted: &str| data(one, "items").iter().any(|item| text(&item["price"], "id") == wanted);
                status && price.is_none_or(priced) && matches(one, params, &["customer", "collection_method"])
            };
            page(
                state.all("subscription").iter().filter(fits).map(|one| (*one).clone()).collect(),
                params,
                "/v1/subscriptions",
            )
        }
        "SubscriptionItems.list" => {
            let subscription = text(params, "subscription");
            page(data(&state.get("subscription", subscription)?, "items"), params, "/v1/subscription_items")
        }
        "SubscriptionItems.retrieve" => {
            let all = state.all("subscription");
            let found = all.iter().flat_map(|one| data(one, "items")).find(|item| text(item, "id") == id);
            found.ok_or_else(|| Refusal::missing("subscription_item", id))
        }
        _ => Err(unknown(call)),
    }
}

/// What a new item may be made of: a recurring price in the subscription's currency.
fn item(state: &mut State, asked: &Value, at: usize) -> Answer {
    let name = |field: &str| format!("items[{at}][{field}]");
    let Some(id) = asked["price"].as_str() else {
        return Err(Refusal::invalid("Missing required param: items[0][price].")
            .code("parameter_missing")
            .at(name("price")));
    };
    let price = state.named("price", id, &name("price"))?;
    if price["active"] != true {
        return Err(Refusal::invalid(format!("The price specified is inactive: {id}.")).at(name("price")));
    }
    if !price["recurring"].is_object() {
        return Err(Refusal::invalid("The price specified is not recurring.").at(name("price")));
    }
    if is_metered(&price) && asked["quantity"].is_number() {
        return Err(Refusal::invalid("Quantity should not be specified where usage_type is `metered`.")
            .at(name("quantity")));
    }
    let mut item = state.new_object("subscription_item", "si");
    if is_metered(&price) {
        item.as_object_mut().map(|fields| fields.remove("quantity"));
    } else {
        item["quantity"] = json!(asked["quantity"].as_i64().unwrap_or(1));
    }
    item["plan"] = plan_of(&price);
    item["price"] = public(&price);
    // What a tier costs is the stand-in's own, as it is in the price.
    if price["_tiers"].is_array() {
        item["price"]["_tiers"] = price["_tiers"].clone();
    }
    merge_metadata(&mut item, asked);
    Ok(item)
}

fn plan_of(price: &Value) -> Value {
    let mut plan = super::super::facts::object("plan");
    for same in [
        "id",
        "active",
        "created",
        "currency",
        "metadata",
        "nickname",
        "product",
        "billing_scheme",
        "tiers_mode",
    ] {
        plan[same] = price[same].clone();
    }
    plan["amount"] = price["unit_amount"].clone();
    plan["amount_decimal"] = price["unit_amount_decimal"].clone();
    for same in ["interval", "interval_count", "meter", "usage_type"] {
        plan[same] = price["recurring"][same].clone();
    }
    plan
}

fn items(state: &mut State, asked: &Value) -> Answer<Vec<Value>> {
    let asked = asked.as_array().cloned().unwrap_or_default();
    if asked.is_empty() {
        return Err(Refusal::invalid("Missing required param: items.").code("parameter_missing").at("items"));
    }
    let made: Vec<Value> =
        asked.iter().enumerate().map(|(at, one)| item(state, one, at)).collect::<Answer<_>>()?;
    alike(&made)?;
    Ok(made)
}

fn alike(items: &[Value]) -> Answer<()> {
    let first = &items[0]["price"];
    let mut seen: Vec<&str> = Vec::new();
    for item in items {
        let price = &item["price"];
        if price["currency"] != first["currency"] {
            let why = "You cannot combine currencies on a single subscription.";
            return Err(Refusal::invalid(why).at("items"));
        }
        let interval =
            |of: &Value| (of["recurring"]["interval"].clone(), of["recurring"]["interval_count"].clone());
        if interval(price) != interval(first) {
            return Err(
                Refusal::invalid("All prices of a subscription must have the same interval.").at("items")
            );
        }
        if seen.contains(&text(price, "id")) {
            return Err(
                Refusal::invalid("Cannot add multiple subscription items with the same price.").at("items")
            );
        }
        seen.push(text(price, "id"));
    }
    Ok(())
}

fn discounts(state: &mut State, asked: &Value, customer: &str, subscription: &str) -> Answer {
    let mut made = Vec::new();
    for one in asked.as_array().into_iter().flatten() {
        let (id, code) = match (one["coupon"].as_str(), one["promotion_code"].as_str()) {
            (Some(id), _) => (id.to_owned(), Value::Null),
            (None, Some(code)) => (promotions::redeem(state, code, customer)?, json!(code)),
            _ => return Err(Refusal::not_here("discounts that are neither coupons nor promotion codes")),
        };
        let mut coupon = state.named("coupon", &id, "discounts[0][coupon]")?;
        coupon["times_redeemed"] = json!(int(&coupon, "times_redeemed") + 1);
        let months = some_int(&coupon, "duration_in_months");
        state.put("coupon", coupon);
        let mut discount = state.new_object("discount", "di");
        discount["customer"] = json!(customer);
        discount["subscription"] = json!(subscription);
        discount["source"] = json!({ "type": "coupon", "coupon": id });
        discount["promotion_code"] = code;
        discount["start"] = json!(state.now);
        let month = json!({ "interval": "month", "interval_count": months });
        discount["end"] =
            if months.is_some() { json!(boundary_after(state.now, &month, state.now)) } else { Value::Null };
        made.push(discount["id"].clone());
        state.put("discount", discount);
    }
    Ok(Value::Array(made))
}

fn trial_end(state: &State, params: &Value) -> Answer<Option<i64>> {
    if params["trial_end"] == "now" {
        return Ok(None);
    }
    let days = params["trial_period_days"].as_i64().filter(|days| *days > 0);
    let end = params["trial_end"].as_i64().or(days.map(|days| state.now + days * DAY));
    if end.is_some_and(|end| end <= state.now) {
        return Err(Refusal::invalid("Invalid timestamp: must be an integer Unix timestamp in the future.")
            .at("trial_end"));
    }
    Ok(end)
}

/// Begins a subscription and charges for its first period.
pub fn create(state: &mut State, params: &Value) -> Answer {
    let customer = text(params, "customer").to_owned();
    if customer.is_empty() {
        return Err(Refusal::invalid("Missing required param: customer.")
            .code("parameter_missing")
            .at("customer"));
    }
    state.named("customer", &customer, "customer")?;
    let items = items(state, &params["items"])?;
    let trial = trial_end(state, params)?;
    let recurring = items[0]["price"]["recurring"].clone();
    let now = state.now;
    let asked_anchor = params["billing_cycle_anchor"].as_i64().or_else(|| {
        params["billing_cycle_anchor_config"]
            .is_object()
            .then(|| anchor_of(&params["billing_cycle_anchor_config"], trial.unwrap_or(now)))
    });
    if asked_anchor.is_some_and(|anchor| {
        anchor < now || anchor > boundary_after(trial.unwrap_or(now), &recurring, trial.unwrap_or(now))
    }) {
        let why =
            "billing_cycle_anchor must be in the future and not later than the next natural billing date.";
        return Err(Refusal::invalid(why).at("billing_cycle_anchor"));
    }
    let behavior = params["payment_behavior"].as_str().unwrap_or("allow_incomplete");
    let sends = params["collection_method"] == "send_invoice";
    if sends && !params["days_until_due"].is_number() {
        return Err(Refusal::invalid("`days_until_due` goes with `collection_method=send_invoice`.")
            .at("days_until_due"));
    }
    let costs = items
        .iter()
        .any(|item| !is_metered(&item["price"]) && super::totals::amount_of(1, &item["price"]) > 0);
    let card = params["default_payment_method"].is_string() || state.card_of(&customer).is_some();
    let due_now = trial.is_none()
        && costs
        && !sends
        && !(params["proration_behavior"] == "none" && asked_anchor.is_some());
    if due_now && !card && behavior != "default_incomplete" {
        let why = "This customer has no attached payment source or default payment method. Please consider adding a \
                   default payment method.";
        return Err(Refusal::invalid(why).code("resource_missing"));
    }
    let mut subscription = state.new_object("subscription", "sub");
    let id = text(&subscription, "id").to_owned();
    // Paid for in Checkout after its anchor had passed: the period has begun already.
    let begin = some_int(params, "_began").unwrap_or(now);
    let first_end = trial.or(asked_anchor).unwrap_or_else(|| boundary_after(begin, &recurring, now));
    let anchor = asked_anchor.or(trial).unwrap_or(begin);
    subscription["customer"] = json!(customer);
    subscription["currency"] = items[0]["price"]["currency"].clone();
    subscription["billing_cycle_anchor"] = json!(anchor);
    subscription["start_date"] = json!(now);
    subscription["status"] = json!(if trial.is_some() { "trialing" } else { "active" });
    subscription["trial_start"] = trial.map_or(Value::Null, |_| json!(now));
    subscription["trial_end"] = json!(trial);
    subscription["discounts"] = discounts(state, &params["discounts"], &customer, &id)?;
    copy(
        &mut subscription,
        params,
        &[
            "cancel_at_period_end",
            "collection_method",
            "days_until_due",
            "default_payment_method",
            "description",
        ],
    );
    if params["cancel_at"].is_number() {
        subscription["cancel_at"] = params["cancel_at"].clone();
    }
    if params["trial_settings"].is_object() {
        subscription["trial_settings"] = params["trial_settings"].clone();
    }
    merge_metadata(&mut subscription, params);
    put_items(&mut subscription, items);
    set_period(&mut subscription, begin, first_end);
    subscription["_pending"] = json!([]);
    if behavior == "default_incomplete" && due_now {
        subscription["status"] = json!("incomplete");
    }
    state.put("subscription", subscription.clone());
    currency_of(state, &customer, &subscription["currency"]);
    state.emit("customer.subscription.created", &subscription);
    let part = asked_anchor.is_some() && trial.is_none();
    let free = trial.is_some() || part && params["proration_behavior"] == "none";
    let new = New {
        subscription: &id,
        reason: "subscription_create",
        past: None,
        next: Some((begin, first_end)),
        free,
        whole: part.then(|| length_before(&recurring, first_end)),
        period: (now, now),
    };
    let invoice = text(&invoices::draft(state, &new, true)?, "id").to_owned();
    // The first invoice does not wait for an hour.
    if !sends {
        invoices::finalize(state, &invoice)?;
        let open = text(&state.get("invoice", &invoice)?, "status") == "open";
        if open && behavior == "default_incomplete" {
            set_status(state, &id, "incomplete")?;
        } else if open && !payments::collect(state, &invoice, false)? {
            if behavior == "error_if_incomplete" {
                end(state, &id, "payment_failed")?;
                return Err(Refusal::new(402, "card_error", "Your card was declined.").code("card_declined"));
            }
            set_status(state, &id, "incomplete")?;
        }
    }
    state.get("subscription", &id)
}

fn currency_of(state: &mut State, customer: &str, currency: &Value) {
    if let Some(mut owner) =
        state.find("customer", customer).cloned().filter(|owner| owner["currency"].is_null())
    {
        owner["currency"] = currency.clone();
        state.put("customer", owner);
    }
}

fn put_items(subscription: &mut Value, mut items: Vec<Value>) {
    let id = subscription["id"].clone();
    let (start, end) = period(subscription);
    for item in &mut items {
        item["subscription"] = id.clone();
        item["current_period_start"] = json!(start);
        item["current_period_end"] = json!(end);
    }
    subscription["items"] =
        held(items, format!("/v1/subscription_items?subscription={}", text(subscription, "id")));
}

/// Whether the present period is the last one.
pub fn ends_with_period(subscription: &Value) -> bool {
    let (_, end) = period(subscription);
    subscription["cancel_at_period_end"] == true
        || some_int(subscription, "cancel_at").is_some_and(|at| at <= end)
}

/// Another status, with its event; none when it is the same.
pub fn set_status(state: &mut State, id: &str, status: &str) -> Answer<()> {
    let mut subscription = state.get("subscription", id)?;
    let before = text(&subscription, "status").to_owned();
    if before == status {
        return Ok(());
    }
    subscription["status"] = json!(status);
    if status == "incomplete_expired" {
        subscription["ended_at"] = json!(state.now);
    }
    state.put("subscription", subscription.clone());
    state.emit_changed("customer.subscription.updated", &subscription, Some(json!({ "status": before })));
    Ok(())
}

/// Ends it now.
pub fn end(state: &mut State, id: &str, reason: &str) -> Answer<()> {
    let mut subscription = state.get("subscription", id)?;
    subscription["status"] = json!("canceled");
    subscription["ended_at"] = json!(state.now);
    if subscription["canceled_at"].is_null() {
        subscription["canceled_at"] = json!(state.now);
    }
    subscription["cancellation_details"]["reason"] = json!(reason);
    state.put("subscription", subscription.clone());
    state.emit("customer.subscription.deleted", &subscription);
    Ok(())
}

fn cancel(state: &mut State, id: &str, params: &Value) -> Answer {
    let subscription = state.get("subscription", id)?;
    if text(&subscription, "status") == "canceled" {
        return Err(Refusal::missing("subscription", id));
    }
    let (from, to) = period(&subscription);
    let now = state.now;
    if params["prorate"] == true {
        let mut pending = subscription["_pending"].as_array().cloned().unwrap_or_default();
        for item in data(&subscription, "items").iter().filter(|item| !is_metered(&item["price"])) {
            let swap = Swap { subscription: &subscription, item, from: now, to, whole: to - from };
            pending.push(swap.line(state, -1));
        }
        let mut changed = subscription.clone();
        changed["_pending"] = Value::Array(pending);
        state.put("subscription", changed);
    }
    // Drafts and open invoices of it are not collected by themselves any more.
    let own: Vec<Value> =
        state.all("invoice").into_iter().filter(|one| text(one, "_subscription") == id).cloned().collect();
    for mut invoice in own.into_iter().filter(|one| matches!(text(one, "status"), "draft" | "open")) {
        invoice["auto_advance"] = json!(false);
        invoice["automatically_finalizes_at"] = Value::Null;
        invoice["next_payment_attempt"] = Value::Null;
        state.put("invoice", invoice.clone());
        state.emit("invoice.updated", &invoice);
    }
    if params["invoice_now"] == true && text(&subscription, "status") != "trialing" {
        let past = Some((from, now));
        let new = New {
            subscription: id,
            reason: "subscription_update",
            past,
            next: None,
            free: false,
            whole: None,
            period: (from, now),
        };
        invoices::draft(state, &new, true)?;
    }
    end(state, id, "cancellation_requested")?;
    state.get("subscription", id)
}

fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    let mut subscription = state.get("subscription", id)?;
    if matches!(text(&subscription, "status"), "canceled" | "incomplete_expired") {
        let why = "A canceled subscription can only update its cancellation_details and metadata.";
        return Err(Refusal::invalid(why));
    }
    if let Some(method) = params["default_payment_method"].as_str().filter(|id| !id.is_empty()) {
        state.named("payment_method", method, "default_payment_method")?;
    }
    let before = public(&subscription);
    let swaps = params["items"].is_array();
    if swaps {
        change_items(state, &mut subscription, params)?;
    }
    if params["cancel_at_period_end"].is_boolean() {
        let ends = params["cancel_at_period_end"] == true;
        let (_, end) = period(&subscription);
        subscription["cancel_at_period_end"] = json!(ends);
        subscription["cancel_at"] = if ends { json!(end) } else { Value::Null };
        subscription["canceled_at"] = if ends { json!(state.now) } else { Value::Null };
        subscription["cancellation_details"]["reason"] =
            if ends { json!("cancellation_requested") } else { Value::Null };
    } else if let Some(at) = params.get("cancel_at") {
        subscription["cancel_at"] = if at.is_number() { at.clone() } else { Value::Null };
        subscription["canceled_at"] = if at.is_number() { json!(state.now) } else { Value::Null };
    }
    if let Some(asked) = params.get("discounts") {
        let customer = text(&subscription, "customer").to_owned();
        subscription["discounts"] = discounts(state, asked, &customer, id)?;
    }
    let trial_ends = params["trial_end"] == "now" && text(&subscription, "status") == "trialing";
    if let Some(at) = params["trial_end"].as_i64() {
        subscription["trial_end"] = json!(at);
        subscription["status"] = json!("trialing");
        subscription["billing_cycle_anchor"] = json!(at);
        let (start, _) = period(&subscription);
        set_period(&mut subscription, start, at);
    }
    copy(
        &mut subscription,
        params,
        &[
            "collection_method",
            "days_until_due",
            "default_payment_method",
            "description",
            "pause_collection",
            "trial_settings",
        ],
    );
    merge_metadata(&mut subscription, params);
    state.put("subscription", subscription.clone());
    if trial_ends {
        subscription["trial_end"] = json!(state.now);
        let (start, _) = period(&subscription);
        let now = state.now;
        subscription["billing_cycle_anchor"] = json!(now);
        set_period(&mut subscription, start, now);
        state.put("subscription", subscription);
        super::super::clock::cycle(state, id)?;
        return state.get("subscription", id);
    }
    let previous: serde_json::Map<String, Value> = before
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| {
            subscription[name.as_str()] != **value && *name != "items" || swaps && *name == "items"
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    state.emit_changed("customer.subscription.updated", &subscription, Some(Value::Object(previous)));
    if swaps
        && params["proration_behavior"] == "always_invoice"
        && text(&subscription, "status") != "trialing"
    {
        let (from, _) = period(&subscription);
        let now = state.now;
        let new = New {
            subscription: id,
            reason: "subscription_update",
            past: None,
            next: None,
            free: false,
            whole: None,
            period: (from, now),
        };
        let invoice = text(&invoices::draft(state, &new, true)?, "id").to_owned();
        invoices::finalize(state, &invoice)?;
        invoices::advance(state, &invoice)?;
    }
    state.get("subscription", id)
}

/// Items are changed, added and taken away; what licensed ones cost for the rest of the period is settled on the next
/// invoice. Metered items are charged for the whole period at the price that is there when it ends.
fn change_items(state: &mut State, subscription: &mut Value, params: &Value) -> Answer<()> {
    let old = data(subscription, "items");
    let mut new = old.clone();
    for (at, asked) in params["items"].as_array().into_iter().flatten().enumerate() {
        let Some(id) = asked["id"].as_str() else {
            new.push(item(state, asked, at)?);
            continue;
        };
        let Some(place) = new.iter().position(|one| text(one, "id") == id) else {
            return Err(Refusal::no_such("subscription_item", id, &format!("items[{at}][id]")));
        };
        if asked["deleted"] == true {
            new.remove(place);
            continue;
        }
        let mut with = asked.clone();
        if with["price"].is_null() {
            with["price"] = new[place]["price"]["id"].clone();
        }
        if with["quantity"].is_null() && new[place]["quantity"].is_number() {
            let metered = state.find("price", text(&with, "price")).is_some_and(is_metered);
            if !metered {
                with["quantity"] = new[place]["quantity"].clone();
            }
        }
        let mut made = item(state, &with, at)?;
        made["id"] = json!(id);
        made["created"] = new[place]["created"].clone();
        new[place] = made;
    }
    if new.is_empty() {
        return Err(Refusal::invalid("A subscription must have at least one item.").at("items"));
    }
    alike(&new)?;
    let prorates = params["proration_behavior"] != "none" && text(subscription, "status") != "trialing";
    if prorates {
        let (start, end) = period(subscription);
        let from = params["proration_date"].as_i64().unwrap_or(state.now).clamp(start, end);
        let mut pending = subscription["_pending"].as_array().cloned().unwrap_or_default();
        let same = |one: &Value, others: &[Value]| {
            others.iter().any(|other| {
                other["price"]["id"] == one["price"]["id"] && other["quantity"] == one["quantity"]
            })
        };
        let (gone, come) =
            (old.iter().filter(|one| !same(one, &new)), new.iter().filter(|one| !same(one, &old)));
        for (one, sign) in gone.map(|one| (one, -1)).chain(come.map(|one| (one, 1))) {
            if !is_metered(&one["price"]) {
                let swap = Swap { subscription, item: one, from, to: end, whole: end - start };
                pending.push(swap.line(state, sign));
            }
        }
        subscription["_pending"] = Value::Array(pending);
    }
    put_items(subscription, new);
    Ok(())
}
