//! Checkout sessions: a page on which somebody pays, or does not.

use serde_json::{Value, json};

use super::super::Card;
use super::super::errors::{Answer, Refusal};
use super::super::lists::{held, matches, page};
use super::super::state::{DAY, HOUR, State, copy, int, merge_metadata, text};
use super::prorations::{boundary_after, length_before};
use super::totals::amount_of;
use super::{Call, promotions, subscriptions, unknown};

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    let (id, params) = (call.id(), call.params);
    match call.operation {
        "Checkout.Sessions.create" => create(state, params),
        "Checkout.Sessions.retrieve" => state.get("checkout.session", id),
        "Checkout.Sessions.update" => {
            let mut session = state.get("checkout.session", id)?;
            merge_metadata(&mut session, params);
            state.put("checkout.session", session.clone());
            Ok(session)
        }
        "Checkout.Sessions.expire" => expire(state, id),
        "Checkout.Sessions.listLineItems" => {
            let session = state.get("checkout.session", id)?;
            let rows = session["_items"].as_array().cloned().unwrap_or_default();
            page(rows, params, &format!("/v1/checkout/sessions/{id}/line_items"))
        }
        "Checkout.Sessions.list" => {
            let fits = |one: &&&Value| matches(one, params, &["customer", "status", "subscription"]);
            page(
                state.all("checkout.session").iter().filter(fits).map(|one| (*one).clone()).collect(),
                params,
                "/v1/checkout/sessions",
            )
        }
        _ => Err(unknown(call)),
    }
}

fn create(state: &mut State, params: &Value) -> Answer {
    if params["mode"] != "subscription" {
        return Err(Refusal::not_here("Checkout in another mode than subscription"));
    }
    if params["success_url"].is_null() {
        return Err(Refusal::invalid("Missing required param: success_url.")
            .code("parameter_missing")
            .at("success_url"));
    }
    for name in ["success_url", "cancel_url"] {
        if params[name].as_str().is_some_and(|url| reqwest::Url::parse(url).is_err()) {
            return Err(Refusal::invalid("Not a valid URL").code("url_invalid").at(name));
        }
    }
    let customer = params["customer"].as_str();
    if let Some(customer) = customer {
        state.named("customer", customer, "customer")?;
    }
    if customer.is_some() && params["customer_email"].is_string() {
        return Err(Refusal::invalid(
            "You may only specify one of these parameters: customer, customer_email.",
        ));
    }
    let asked = params["line_items"].as_array().cloned().unwrap_or_default();
    if asked.is_empty() {
        return Err(Refusal::invalid("Missing required param: line_items.")
            .code("parameter_missing")
            .at("line_items"));
    }
    let (mut items, mut total, mut currency) = (Vec::new(), 0, Value::Null);
    for (at, one) in asked.iter().enumerate() {
        let name = format!("line_items[{at}]");
        let price = state.named("price", text(one, "price"), &format!("{name}[price]"))?;
        let metered = super::totals::is_metered(&price);
        if metered && one["quantity"].is_number() {
            return Err(Refusal::invalid("Quantity should not be specified where usage_type is `metered`.")
                .at(format!("{name}[quantity]")));
        }
        if !metered && !one["quantity"].is_number() {
            return Err(Refusal::invalid("Quantity is required.").at(format!("{name}[quantity]")));
        }
        if !currency.is_null() && currency != price["currency"] {
            return Err(
                Refusal::invalid("All prices on a Checkout Session must have the same currency.").at(name)
            );
        }
        currency = price["currency"].clone();
        let amount = if metered { 0 } else { amount_of(int(one, "quantity"), &price) };
        total += amount;
        let id = state.id("li");
        items.push(json!({
            "id": id, "object": "item", "price": price, "quantity": one["quantity"], "currency": currency,
            "description": super::totals::product_name(state, &price), "amount_total": amount, "amount_subtotal": amount,
            "amount_discount": 0, "amount_tax": 0,
        }));
    }
    let trial = params["subscription_data"]["trial_period_days"].as_i64().unwrap_or(0) > 0
        || params["subscription_data"]["trial_end"].is_number();
    let part = anchored(state, params, trial, &items)?;
    let soonest = state.now + 2 * DAY;
    if params["subscription_data"]["trial_end"].as_i64().is_some_and(|end| end < soonest) {
        let why = "The `trial_end` date has to be at least 2 days in the future.";
        return Err(Refusal::invalid(why).at("subscription_data[trial_end]"));
    }
    if params["allow_promotion_codes"] == true && params["discounts"].is_array() {
        let why = "You may only specify one of these parameters: allow_promotion_codes, discounts.";
        return Err(Refusal::invalid(why));
    }
    for one in params["discounts"].as_array().into_iter().flatten() {
        if let Some(coupon) = one["coupon"].as_str() {
            state.named("coupon", coupon, "discounts[0][coupon]")?;
        }
        if let Some(code) = one["promotion_code"].as_str() {
            promotions::usable(state, code, customer)?;
        }
    }
    let expires = params["expires_at"].as_i64().unwrap_or(state.now + DAY);
    if expires < state.now + HOUR / 2 || expires > state.now + DAY {
        return Err(
            Refusal::invalid("expires_at must be between 30 minutes and 24 hours from now.").at("expires_at")
        );
    }
    let mut session = state.new_object("checkout.session", "cs_test");
    let due = if trial { 0 } else { part.map_or(total, |part| (total as f64 * part).round() as i64) };
    copy(
        &mut session,
        params,
        &[
            "success_url",
            "cancel_url",
            "client_reference_id",
            "customer",
            "customer_email",
            "locale",
            "allow_promotion_codes",
            "billing_address_collection",
            "payment_method_collection",
        ],
    );
    merge_metadata(&mut session, params);
    session["mode"] = json!("subscription");
    session["amount_subtotal"] = json!(due);
    session["amount_total"] = json!(due);
    session["currency"] = currency;
    session["expires_at"] = json!(expires);
    session["url"] = json!(format!("{}/c/pay/{}", state.base_url, text(&session, "id")));
    session["_items"] = json!(items);
    session["_subscription"] = params["subscription_data"].clone();
    session["_discounts"] = params["discounts"].clone();
    state.put("checkout.session", session.clone());
    Ok(session)
}

/// Which part of a period's price is due at once, where the first whole period begins later.
fn anchored(state: &State, params: &Value, on_trial: bool, items: &[Value]) -> Answer<Option<f64>> {
    let data = &params["subscription_data"];
    let Some(anchor) = data["billing_cycle_anchor"].as_i64() else { return Ok(None) };
    let at = "subscription_data[billing_cycle_anchor]";
    if on_trial {
        return Err(Refusal::invalid("You may not combine a trial and `billing_cycle_anchor`.").at(at));
    }
    let recurring = &items[0]["price"]["recurring"];
    if anchor <= state.now || anchor > boundary_after(state.now, recurring, state.now) {
        let why = "`billing_cycle_anchor` has to be in the future, and before the next natural billing date.";
        return Err(Refusal::invalid(why).at(at));
    }
    if data["proration_behavior"] == "none" {
        return Ok(Some(0.0));
    }
    Ok(Some((anchor - state.now) as f64 / length_before(recurring, anchor) as f64))
}

fn open(state: &State, id: &str) -> Answer {
    let session = state.get("checkout.session", id)?;
    if text(&session, "status") != "open" {
        return Err(Refusal::invalid(format!("This Checkout Session is {}.", text(&session, "status"))));
    }
    Ok(session)
}

fn expire(state: &mut State, id: &str) -> Answer {
    let mut session = open(state, id)?;
    session["status"] = json!("expired");
    session["url"] = Value::Null;
    state.put("checkout.session", session.clone());
    state.emit("checkout.session.expired", &session);
    Ok(session)
}

/// Somebody has filled in the page. With a card that is declined, the page stays open and nothing is made.
///
/// # Errors
/// 402 for a card that is declined.
pub fn complete(state: &mut State, id: &str, card: Card) -> Answer {
    let mut session = open(state, id)?;
    if card == Card::Declined {
        return Err(Refusal::new(402, "card_error", "Your card was declined.").code("card_declined"));
    }
    let customer = match session["customer"].as_str() {
        Some(customer) => text(&state.named("customer", customer, "customer")?, "id").to_owned(),
        None => {
            let email = session["customer_email"].as_str().unwrap_or("someone@example.com");
            let params = json!({ "email": email });
            let made =
                super::call(state, &Call { operation: "Customers.create", ids: &[], params: &params })?;
            text(&made, "id").to_owned()
        }
    };
    // One that fails later pays now: what Stripe's card 4000 0000 0000 0341 is for.
    state.card_put(&customer, true)?;
    let items: Vec<Value> = session["_items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| {
            let mut asked = json!({ "price": item["price"]["id"] });
            if item["quantity"].is_number() {
                asked["quantity"] = item["quantity"].clone();
            }
            asked
        })
        .collect();
    let mut params = session["_subscription"].as_object().cloned().unwrap_or_default();
    params.insert("customer".to_owned(), json!(customer));
    params.insert("items".to_owned(), json!(items));
    // Whoever pays after the anchor has passed pays for the whole period that began with it.
    if let Some(passed) =
        params.get("billing_cycle_anchor").filter(|at| at.as_i64().unwrap_or(0) <= state.now)
    {
        let began = passed.clone();
        params.remove("billing_cycle_anchor");
        params.insert("_began".to_owned(), began);
    }
    if session["_discounts"].is_array() {
        params.insert("discounts".to_owned(), session["_discounts"].clone());
    }
    let subscription = subscriptions::create(state, &Value::Object(params))?;
    if card == Card::FailsLater {
        state.card_put(&customer, false)?;
    }
    let owner = state.get("customer", &customer)?;
    session["customer"] = json!(customer);
    session["customer_details"] = json!({
        "address": null, "email": owner["email"], "name": owner["name"], "phone": null, "tax_exempt": "none",
        "tax_ids": [], "business_name": null, "individual_name": null,
    });
    session["status"] = json!("complete");
    session["url"] = Value::Null;
    let free = int(&session, "amount_total") == 0;
    session["payment_status"] = json!(if free { "no_payment_required" } else { "paid" });
    session["subscription"] = subscription["id"].clone();
    session["invoice"] = subscription["latest_invoice"].clone();
    state.put("checkout.session", session.clone());
    state.emit("checkout.session.completed", &session);
    Ok(session)
}

/// Where the browser goes afterwards.
pub fn success_url(session: &Value) -> String {
    text(session, "success_url").replace("{CHECKOUT_SESSION_ID}", text(session, "id"))
}

/// For `expand[]=line_items`: the list is not part of a session unless it is asked for.
pub fn with_line_items(session: &mut Value) {
    if session["object"] == "checkout.session" && session.get("line_items").is_none() {
        let items = session["_items"].as_array().cloned().unwrap_or_default();
        session["line_items"] =
            held(items, format!("/v1/checkout/sessions/{}/line_items", text(session, "id")));
    }
}
