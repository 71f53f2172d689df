//! What the stand-in remembers: objects as Stripe would show them, usage, events. All of it can be written to a file.
//!
//! A field that begins with `_` is the stand-in's own and never leaves it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::errors::{Answer, Refusal};
use super::facts;
use super::idempotency::Saved;
use super::webhooks::{Delivery, Endpoint, Manner};

/// The version whose shapes are answered, in events too.
pub const API_VERSION: &str = "2026-09-30.endive";
/// How far back events are listed and fetched, as at Stripe.
pub const EVENTS_LISTED: i64 = 30 * DAY;
/// How long they are remembered for tests to look at.
const EVENTS_KEPT: i64 = 400 * DAY;
pub const MINUTE: i64 = 60;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// One meter event that was accepted.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Usage {
    pub event_name: String,
    pub customer: String,
    pub value: i64,
    pub identifier: String,
    /// When it happened, and when it was accepted; Unix seconds.
    pub timestamp: i64,
    pub accepted: i64,
    /// Taken back by an adjustment.
    pub cancelled: bool,
}

/// A meter event that was accepted and could not be counted: told later, by a thin event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Uncounted {
    pub at: i64,
    /// None when no meter has the event's name.
    pub meter: Option<String>,
    pub code: String,
    pub message: String,
    pub identifier: String,
}

/// What happens when the last attempt to collect an invoice has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterRetries {
    #[default]
    Unpaid,
    Cancel,
    LeavePastDue,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The moment everything up to which is done; Unix seconds.
    pub now: i64,
    sequence: u64,
    salt: String,
    pub base_url: String,
    /// By kind, then by id.
    pub objects: BTreeMap<String, BTreeMap<String, Value>>,
    pub usage: Vec<Usage>,
    /// When each identifier was accepted: unique for 24 hours.
    pub identifiers: BTreeMap<String, i64>,
    pub uncounted: Vec<Uncounted>,
    /// Oldest first.
    pub events: VecDeque<Value>,
    /// With their data, which a delivery does not carry.
    pub thin_events: VecDeque<Value>,
    pub saved: BTreeMap<String, Saved>,
    pub after_retries: AfterRetries,
    /// Seconds until usage shows in summaries.
    pub summary_lag: i64,
    #[serde(skip)]
    pub endpoints: Vec<Endpoint>,
    #[serde(skip)]
    pub deliveries: Vec<Delivery>,
    /// Deliveries before this one are over: they are not looked at again.
    #[serde(skip)]
    pub over: usize,
    #[serde(skip)]
    pub manner: Manner,
    /// Raised by each change that is worth writing down.
    #[serde(skip)]
    pub changes: u64,
}

impl State {
    pub fn new(now: i64, base_url: String, salt: String) -> Self {
        Self { now, base_url, salt, ..Self::default() }
    }

    /// A new id. Ids of one kind sort by age.
    pub fn id(&mut self, prefix: &str) -> String {
        self.sequence += 1;
        format!("{prefix}_{:08}{}", self.sequence, self.salt)
    }

    /// A new object of a kind, with id and time, not yet kept.
    pub fn new_object(&mut self, kind: &str, prefix: &str) -> Value {
        let id = self.id(prefix);
        let mut object = facts::object(kind);
        object["id"] = json!(id);
        if object.get("created").is_some() {
            object["created"] = json!(self.now);
        }
        object["_sequence"] = json!(self.sequence);
        object
    }

    /// Keeps an object, new or changed.
    pub fn put(&mut self, kind: &str, object: Value) {
        self.changes += 1;
        let id = text(&object, "id").to_owned();
        self.objects.entry(kind.to_owned()).or_default().insert(id, object);
    }

    pub fn find(&self, kind: &str, id: &str) -> Option<&Value> {
        self.objects.get(kind)?.get(id)
    }

    /// A copy of the object of a path. Of what was deleted, only customers can still be looked at.
    pub fn get(&self, kind: &str, id: &str) -> Answer {
        let found = self.find(kind, id).filter(|object| object["deleted"] != true || kind == "customer");
        found.cloned().ok_or_else(|| Refusal::missing(kind, id))
    }

    /// A copy of the object that a parameter names.
    pub fn named(&self, kind: &str, id: &str, param: &str) -> Answer {
        let found = self.find(kind, id).filter(|object| object["deleted"] != true);
        found.cloned().ok_or_else(|| Refusal::no_such(kind, id, param))
    }

    /// All of a kind, newest first, without those that were deleted.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        let kept = self.objects.get(kind).into_iter().flat_map(BTreeMap::values);
        let mut all: Vec<&Value> = kept.filter(|object| object["deleted"] != true).collect();
        all.sort_by_key(|object| std::cmp::Reverse(int(object, "_sequence")));
        all
    }

    /// Leaves `{id, object, deleted}` in the object's place.
    pub fn delete(&mut self, kind: &str, id: &str) -> Value {
        let gone = json!({ "id": id, "object": kind, "deleted": true });
        self.put(kind, gone.clone());
        gone
    }

    /// Records a snapshot event about an object and queues it for the endpoints.
    pub fn emit(&mut self, kind: &str, object: &Value) {
        self.emit_changed(kind, object, None);
    }

    pub fn emit_changed(&mut self, kind: &str, object: &Value, previous: Option<Value>) {
        let mut event = self.new_object("event", "evt");
        event["type"] = json!(kind);
        event["api_version"] = json!(API_VERSION);
        event["data"] = json!({ "object": public(object) });
        if let Some(previous) = previous {
            event["data"]["previous_attributes"] = previous;
        }
        self.changes += 1;
        self.queue(&event, super::Shape::Snapshot);
        self.events.push_back(event);
        let oldest = self.now - EVENTS_KEPT;
        while self.events.front().is_some_and(|event| int(event, "created") < oldest) {
            self.events.pop_front();
        }
    }

    /// Records a thin event. Only what it is about travels; its data is fetched.
    pub fn emit_thin(&mut self, kind: &str, related: Option<Value>, data: Value) {
        let id = self.id("evt_test");
        let created = rfc3339(self.now);
        let mut event = json!({
            "id": id, "object": "v2.core.event", "type": kind, "livemode": false, "created": created,
            "context": null, "reason": null, "related_object": related, "changes": null,
            "_created": self.now, "data": data,
        });
        if related.is_none() {
            event.as_object_mut().expect("an object").remove("related_object");
        }
        self.changes += 1;
        self.queue(&event, super::Shape::Thin);
        self.thin_events.push_back(event);
        let oldest = self.now - EVENTS_KEPT;
        while self.thin_events.front().is_some_and(|event| int(event, "_created") < oldest) {
            self.thin_events.pop_front();
        }
    }

    /// The customer's default payment method, if there is one.
    pub fn card_of(&self, customer: &str) -> Option<&Value> {
        let customer = self.find("customer", customer)?;
        self.find("payment_method", text(&customer["invoice_settings"], "default_payment_method"))
    }

    /// Gives the customer a card that is its default from now on.
    pub fn card_put(&mut self, customer: &str, works: bool) -> Answer<String> {
        let mut owner = self.get("customer", customer)?;
        let id = self.id("pm");
        let last4 = if works { "4242" } else { "0341" };
        let card = json!({
            "id": id, "object": "payment_method", "type": "card", "customer": customer, "created": self.now,
            "livemode": false, "metadata": {}, "_works": works,
            "card": { "brand": "visa", "last4": last4, "exp_month": 12, "exp_year": 2040 },
        });
        self.put("payment_method", card.clone());
        self.emit("payment_method.attached", &card);
        owner["invoice_settings"]["default_payment_method"] = json!(id);
        self.put("customer", owner.clone());
        self.emit("customer.updated", &owner);
        Ok(id)
    }
}

/// The object as it is shown: without what is the stand-in's own.
pub fn public(object: &Value) -> Value {
    match object {
        Value::Object(fields) => {
            let shown = fields.iter().filter(|(name, _)| !name.starts_with('_'));
            Value::Object(shown.map(|(name, value)| (name.clone(), public(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(public).collect()),
        other => other.clone(),
    }
}

/// A field's text; empty when it is none.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

/// A field's number; 0 when it is none.
pub fn int(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap_or_default()
}

pub fn some_int(object: &Value, field: &str) -> Option<i64> {
    object[field].as_i64()
}

/// The objects of a list field.
pub fn data(object: &Value, field: &str) -> Vec<Value> {
    object[field]["data"].as_array().cloned().unwrap_or_default()
}

pub fn rfc3339(at: i64) -> String {
    chrono::DateTime::from_timestamp(at, 0)
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// Copies what was given under these names.
pub fn copy(object: &mut Value, params: &Value, names: &[&str]) {
    for name in names {
        if let Some(given) = params.get(*name) {
            // An empty text unsets.
            object[*name] = if given == "" { Value::Null } else { given.clone() };
        }
    }
}

/// Metadata is merged; an empty text takes a key away, and empty metadata all keys.
pub fn merge_metadata(object: &mut Value, params: &Value) {
    match params.get("metadata") {
        None => {}
        Some(Value::Object(given)) => {
            let mut merged = object["metadata"].as_object().cloned().unwrap_or_default();
            for (key, value) in given {
                match value {
                    Value::String(text) if text.is_empty() => drop(merged.remove(key)),
                    Value::String(text) => drop(merged.insert(key.clone(), json!(text))),
                    other => drop(merged.insert(key.clone(), json!(other.to_string()))),
                }
            }
            object["metadata"] = Value::Object(merged);
        }
        Some(_) => object["metadata"] = Value::Object(Map::new()),
    }
}
