//! Customers.

use serde_json::{Value, json};

use super::super::errors::{Answer, Refusal};
use super::super::lists::{matches, page};
use super::super::state::{State, copy, merge_metadata, text};
use super::{Call, subscriptions, unknown};

const FIELDS: &[&str] =
    &["address", "description", "email", "name", "phone", "preferred_locales", "shipping", "tax_exempt"];

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    match call.operation {
        "Customers.create" => create(state, call.params),
        "Customers.retrieve" => state.get("customer", call.id()),
        "Customers.update" => update(state, call.id(), call.params),
        "Customers.del" => delete(state, call.id()),
        "Customers.list" => {
            let fits = |customer: &&&Value| matches(customer, call.params, &["email"]);
            let all = state.all("customer").iter().filter(fits).map(|one| (*one).clone()).collect();
            page(all, call.params, "/v1/customers")
        }
        _ => Err(unknown(call)),
    }
}

fn create(state: &mut State, params: &Value) -> Answer {
    email_check(params)?;
    let mut customer = state.new_object("customer", "cus");
    copy(&mut customer, params, FIELDS);
    merge_metadata(&mut customer, params);
    if params["balance"].is_number() {
        customer["balance"] = params["balance"].clone();
    }
    let prefix: String = text(&customer, "id").chars().rev().take(8).collect();
    customer["invoice_prefix"] = json!(prefix.to_uppercase());
    state.put("customer", customer.clone());
    state.emit("customer.created", &customer);
    Ok(customer)
}

fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    email_check(params)?;
    let mut customer = here(state, id)?;
    copy(&mut customer, params, FIELDS);
    copy(&mut customer, params, &["balance"]);
    merge_metadata(&mut customer, params);
    if let Some(method) = params["invoice_settings"]["default_payment_method"].as_str() {
        state.named("payment_method", method, "invoice_settings[default_payment_method]")?;
        customer["invoice_settings"]["default_payment_method"] = json!(method);
    }
    state.put("customer", customer.clone());
    state.emit("customer.updated", &customer);
    Ok(customer)
}

/// Its subscriptions end with it, at once.
fn delete(state: &mut State, id: &str) -> Answer {
    let customer = here(state, id)?;
    let held = |one: &&&Value| text(one, "customer") == id && text(one, "status") != "canceled";
    let subscriptions: Vec<String> =
        state.all("subscription").iter().filter(held).map(|one| text(one, "id").to_owned()).collect();
    for subscription in subscriptions {
        subscriptions::end(state, &subscription, "cancellation_requested")?;
    }
    state.emit("customer.deleted", &customer);
    Ok(state.delete("customer", id))
}

/// One that was deleted can be looked at, and nothing else.
fn here(state: &State, id: &str) -> Answer {
    let customer = state.get("customer", id)?;
    if customer["deleted"] == true { Err(Refusal::missing("customer", id)) } else { Ok(customer) }
}

fn email_check(params: &Value) -> Answer<()> {
    match params["email"].as_str() {
        Some(email) if !email.contains('@') => {
            Err(Refusal::invalid(format!("Invalid email address: {email}")).code("email_invalid").at("email"))
        }
        _ => Ok(()),
    }
}
