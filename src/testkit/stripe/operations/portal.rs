//! The Billing Portal: a page for one customer, good for some minutes.

use serde_json::{Value, json};

use super::super::errors::{Answer, Refusal};
use super::super::state::{MINUTE, State, copy, int, text};
use super::{Call, unknown};

const GOOD_FOR: i64 = 60 * MINUTE;

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    match call.operation {
        "BillingPortal.Sessions.create" => create(state, call.params),
        _ => Err(unknown(call)),
    }
}

fn create(state: &mut State, params: &Value) -> Answer {
    let Some(customer) = params["customer"].as_str() else {
        return Err(Refusal::invalid("Missing required param: customer.")
            .code("parameter_missing")
            .at("customer"));
    };
    state.named("customer", customer, "customer")?;
    let mut session = state.new_object("billing_portal.session", "bps");
    copy(&mut session, params, &["customer", "return_url", "configuration", "locale"]);
    session["url"] = json!(format!("{}/p/session/{}", state.base_url, text(&session, "id")));
    state.put("billing_portal.session", session.clone());
    Ok(session)
}

/// The session of a page that is open.
pub fn open(state: &State, id: &str) -> Answer {
    let session = state.get("billing_portal.session", id)?;
    if int(&session, "created") + GOOD_FOR < state.now {
        return Err(Refusal::missing("billing_portal.session", id));
    }
    Ok(session)
}
