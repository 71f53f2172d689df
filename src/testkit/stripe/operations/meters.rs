//! Meters, meter events, what takes them back, and their sums.

use serde_json::{Value, json};

use super::super::errors::{Answer, Refusal};
use super::super::lists::{matches, page};
use super::super::state::{DAY, HOUR, MINUTE, State, Uncounted, Usage, int, public, rfc3339, text};
use super::{Call, unknown};

/// How long an identifier is unique, and how long an event can be taken back.
pub const UNIQUE_FOR: i64 = DAY;
const OLDEST: i64 = 35 * DAY;
const AHEAD: i64 = 5 * MINUTE;
/// Uncounted events are told about this much later, together.
pub const REPORT_AFTER: i64 = 1;
const SAMPLES: usize = 10;

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    let params = call.params;
    match call.operation {
        "Billing.Meters.create" => create(state, params),
        "Billing.Meters.retrieve" => state.get("billing.meter", call.id()),
        "Billing.Meters.update" => {
            let mut meter = state.get("billing.meter", call.id())?;
            if let Some(name) = params["display_name"].as_str() {
                meter["display_name"] = json!(name);
            }
            changed(state, meter)
        }
        "Billing.Meters.deactivate" => set_status(state, call.id(), "inactive"),
        "Billing.Meters.reactivate" => set_status(state, call.id(), "active"),
        "Billing.Meters.list" => {
            let fits = |meter: &&&Value| matches(meter, params, &["status"]);
            let all = state.all("billing.meter").iter().filter(fits).map(|one| (*one).clone()).collect();
            page(all, params, "/v1/billing/meters")
        }
        "Billing.Meters.listEventSummaries" => summaries(state, call.id(), params),
        "Billing.MeterEvents.create" => event(state, params),
        "Billing.MeterEventAdjustments.create" => adjustment(state, params),
        _ => Err(unknown(call)),
    }
}

fn create(state: &mut State, params: &Value) -> Answer {
    let name = text(params, "event_name");
    if let Some(other) = by_event_name(state, name) {
        let why = format!("A meter with the event name {name} exists already: {}.", text(&other, "id"));
        return Err(Refusal::invalid(why).code("resource_already_exists").at("event_name"));
    }
    let mut meter = state.new_object("billing.meter", "mtr_test");
    meter["display_name"] = params["display_name"].clone();
    meter["event_name"] = params["event_name"].clone();
    meter["default_aggregation"] = params["default_aggregation"].clone();
    for given in ["customer_mapping", "value_settings", "event_time_window"] {
        if params[given].is_object() || params[given].is_string() {
            meter[given] = params[given].clone();
        }
    }
    meter["updated"] = json!(state.now);
    state.put("billing.meter", meter.clone());
    state.emit("billing.meter.created", &meter);
    Ok(meter)
}

fn changed(state: &mut State, mut meter: Value) -> Answer {
    meter["updated"] = json!(state.now);
    state.put("billing.meter", meter.clone());
    state.emit("billing.meter.updated", &meter);
    Ok(meter)
}

fn set_status(state: &mut State, id: &str, status: &str) -> Answer {
    let mut meter = state.get("billing.meter", id)?;
    if status == "active" && text(&meter, "status") != "active" {
        let name = text(&meter, "event_name");
        if by_event_name(state, name).is_some() {
            return Err(Refusal::invalid(format!("An active meter has the event name {name} already.")));
        }
    }
    meter["status"] = json!(status);
    meter["status_transitions"]["deactivated_at"] =
        if status == "inactive" { json!(state.now) } else { Value::Null };
    changed(state, meter)
}

/// The active meter of an event name.
pub fn by_event_name(state: &State, name: &str) -> Option<Value> {
    let named = |meter: &&Value| text(meter, "event_name") == name && text(meter, "status") == "active";
    state.all("billing.meter").into_iter().find(named).cloned()
}

/// The lane that an event needs: its customer and its name.
pub fn lane_of(state: &State, params: &Value) -> (String, String) {
    let name = text(params, "event_name").to_owned();
    let meter = by_event_name(state, &name);
    let key = meter
        .as_ref()
        .map_or("stripe_customer_id", |meter| text(&meter["customer_mapping"], "event_payload_key"));
    (text(&params["payload"], key).to_owned(), name)
}

/// Accepts an event, or says why not. Whether it can be counted is found out afterwards, as at Stripe: an unknown meter,
/// customer or value is answered with 200 and told about by a thin event.
fn event(state: &mut State, params: &Value) -> Answer {
    let timestamp = params["timestamp"].as_i64().unwrap_or(state.now);
    if params["timestamp"].is_f64() {
        return Err(Refusal::invalid("Invalid integer: timestamp")
            .code("parameter_invalid_integer")
            .at("timestamp"));
    }
    if timestamp < state.now - OLDEST {
        return Err(
            Refusal::invalid("The timestamp must be within the past 35 calendar days.").at("timestamp")
        );
    }
    if timestamp > state.now + AHEAD {
        return Err(
            Refusal::invalid("The timestamp must not be more than 5 minutes in the future.").at("timestamp")
        );
    }
    let identifier = match params["identifier"].as_str() {
        Some(identifier) => identifier.to_owned(),
        None => state.id("mtrevt"),
    };
    if state.identifiers.get(&identifier).is_some_and(|accepted| state.now - accepted < UNIQUE_FOR) {
        return Err(Refusal::invalid(format!("An event already exists with identifier {identifier}."))
            .at("identifier"));
    }
    state.identifiers.insert(identifier.clone(), state.now);
    state.changes += 1;
    let name = text(params, "event_name").to_owned();
    match counted(state, &name, &params["payload"]) {
        Ok((customer, value)) => {
            let accepted = state.now;
            let identifier = identifier.clone();
            state.usage.push(Usage {
                event_name: name,
                customer,
                value,
                identifier,
                timestamp,
                accepted,
                cancelled: false,
            });
        }
        Err((meter, code, message)) => {
            let (at, identifier, code) = (state.now, identifier.clone(), code.to_owned());
            state.uncounted.push(Uncounted { at, meter, code, message, identifier });
        }
    }
    let mut answer = super::super::facts::object("billing.meter_event");
    answer["created"] = json!(state.now);
    answer["event_name"] = params["event_name"].clone();
    answer["identifier"] = json!(identifier);
    answer["payload"] = params["payload"].clone();
    answer["timestamp"] = json!(timestamp);
    Ok(answer)
}

type NotCounted = (Option<String>, &'static str, String);

fn counted(state: &State, name: &str, payload: &Value) -> Result<(String, i64), NotCounted> {
    let named = |meter: &&Value| text(meter, "event_name") == name;
    let meter =
        by_event_name(state, name).or_else(|| state.all("billing.meter").into_iter().find(named).cloned());
    let Some(meter) = meter else {
        return Err((None, "no_meter", format!("There is no meter for the event name {name}.")));
    };
    let id = Some(text(&meter, "id").to_owned());
    if text(&meter, "status") != "active" {
        return Err((id, "archived_meter", format!("The meter of {name} is not active.")));
    }
    let Some(customer) = payload[text(&meter["customer_mapping"], "event_payload_key")].as_str() else {
        return Err((id, "meter_event_no_customer_defined", "The payload names no customer.".to_owned()));
    };
    if state.named("customer", customer, "").is_err() {
        return Err((id, "meter_event_customer_not_found", format!("There is no customer {customer}.")));
    }
    if text(&meter["default_aggregation"], "formula") == "count" {
        return Ok((customer.to_owned(), 1));
    }
    let Some(value) = payload[text(&meter["value_settings"], "event_payload_key")].as_str() else {
        return Err((id, "meter_event_value_not_found", "The payload has no value.".to_owned()));
    };
    match value.parse::<i64>() {
        Ok(value) => Ok((customer.to_owned(), value)),
        Err(_) => Err((id, "meter_event_invalid_value", format!("{value} is no whole number."))),
    }
}

/// Tells about the events that could not be counted: one thin event for each meter, with samples and not with a list.
pub fn report(state: &mut State) {
    let mut left = std::mem::take(&mut state.uncounted);
    while let Some(first) = left.first().cloned() {
        let (same, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|other| other.meter == first.meter);
        left = others;
        let mut types: Vec<Value> = Vec::new();
        for one in &same {
            let sample = json!({ "error_message": one.message, "request": { "identifier": one.identifier } });
            match types.iter_mut().find(|kind| kind["code"] == one.code) {
                Some(kind) => {
                    kind["error_count"] = json!(int(kind, "error_count") + 1);
                    let samples = kind["sample_errors"].as_array_mut().expect("a list of samples");
                    if samples.len() < SAMPLES {
                        samples.push(sample);
                    }
                }
                None => types.push(json!({ "code": one.code, "error_count": 1, "sample_errors": [sample] })),
            }
        }
        let (from, to) = (first.at, same.last().map_or(first.at, |last| last.at) + 1);
        let many = same.len();
        let data = json!({
            "developer_message_summary": format!("There is {many} invalid event(s)"),
            "reason": { "error_count": many, "error_types": types },
            "validation_start": rfc3339(from), "validation_end": rfc3339(to),
        });
        match &first.meter {
            Some(meter) => {
                let related = json!({ "id": meter, "type": "billing.meter", "url": format!("/v1/billing/meters/{meter}") });
                state.emit_thin("v1.billing.meter.error_report_triggered", Some(related), data);
            }
            None => state.emit_thin("v1.billing.meter.no_meter_found", None, data),
        }
    }
}

fn adjustment(state: &mut State, params: &Value) -> Answer {
    let identifier = text(&params["cancel"], "identifier").to_owned();
    if identifier.is_empty() {
        return Err(Refusal::invalid("Missing required param: cancel[identifier].")
            .code("parameter_missing")
            .at("cancel"));
    }
    let (now, name) = (state.now, text(params, "event_name").to_owned());
    let fits = |usage: &&mut Usage| usage.identifier == identifier && usage.event_name == name;
    let Some(usage) = state.usage.iter_mut().rev().find(fits) else {
        return Err(Refusal::invalid(format!("No meter event found with identifier {identifier}."))
            .at("cancel[identifier]"));
    };
    if now - usage.accepted > UNIQUE_FOR {
        return Err(
            Refusal::invalid("Meter events can only be canceled within 24 hours.").at("cancel[identifier]")
        );
    }
    usage.cancelled = true;
    state.changes += 1;
    let mut answer = super::super::facts::object("billing.meter_event_adjustment");
    answer["event_name"] = json!(name);
    answer["cancel"] = json!({ "identifier": identifier });
    answer["status"] = json!("pending");
    Ok(answer)
}

/// What a customer used of a meter in `from..to`; None when nothing was told.
pub fn aggregate(state: &State, meter: &Value, customer: &str, from: i64, to: i64) -> Option<i64> {
    let name = text(meter, "event_name");
    let visible = state.now - state.summary_lag;
    let inside = |usage: &&Usage| {
        !usage.cancelled
            && usage.event_name == name
            && usage.customer == customer
            && (from..to).contains(&usage.timestamp)
            && usage.accepted <= visible
    };
    let mut used = state.usage.iter().filter(inside).peekable();
    used.peek()?;
    Some(match text(&meter["default_aggregation"], "formula") {
        // The one that happened last; of two at the same second, the one that came last.
        "last" => used
            .enumerate()
            .max_by_key(|(at, usage)| (usage.timestamp, *at))
            .map_or(0, |(_, usage)| usage.value),
        "count" => i64::try_from(used.count()).unwrap_or(i64::MAX),
        _ => used.map(|usage| usage.value).sum(),
    })
}

/// Sums by hour, by day, or of the whole range. Stripe wants the bounds on whole minutes, hours or UTC days.
fn summaries(state: &State, id: &str, params: &Value) -> Answer {
    let meter = state.get("billing.meter", id)?;
    let customer = text(params, "customer");
    state.named("customer", customer, "customer")?;
    let (from, to) = (int(params, "start_time"), int(params, "end_time"));
    let (step, word) = match params["value_grouping_window"].as_str() {
        Some("hour") => (HOUR, "hour"),
        Some("day") => (DAY, "day"),
        _ => (MINUTE, "minute"),
    };
    for (name, at) in [("start_time", from), ("end_time", to)] {
        if at.rem_euclid(step) != 0 {
            return Err(Refusal::invalid(format!("{name} must be aligned with {word} boundaries.")).at(name));
        }
    }
    if from >= to {
        return Err(Refusal::invalid("start_time must be before end_time.").at("start_time"));
    }
    let width = if step == MINUTE { to - from } else { step };
    if (to - from) / width > 10_000 {
        return Err(Refusal::invalid("The range is too long for this window.").at("start_time"));
    }
    let mut rows = Vec::new();
    let mut start = from;
    while start < to {
        if let Some(value) = aggregate(state, &meter, customer, start, start + width) {
            let mut row = super::super::facts::object("billing.meter_event_summary");
            row["id"] = json!(format!("mtrusg_test_{id}_{customer}_{start}"));
            row["aggregated_value"] = json!(value);
            row["meter"] = json!(id);
            row["start_time"] = json!(start);
            row["end_time"] = json!(start + width);
            rows.push(public(&row));
        }
        start += width;
    }
    rows.reverse();
    page(rows, params, &format!("/v1/billing/meters/{id}/event_summaries"))
}
