//! What happened, to be listed and fetched; and where it is to be sent.

use chrono::DateTime;
use serde_json::{Value, json};

use super::super::Shape;
use super::super::errors::{Answer, Refusal};
use super::super::lists::{page, within};
use super::super::state::{EVENTS_LISTED, State, copy, int, merge_metadata, public, text};
use super::super::webhooks::Endpoint;
use super::{Call, unknown};

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    let (id, params) = (call.id(), call.params);
    match call.operation {
        "Events.list" => list(state, params),
        "Events.retrieve" => {
            let listed = |event: &&Value| int(event, "created") >= state.now - EVENTS_LISTED;
            let found = state.events.iter().filter(listed).find(|event| text(event, "id") == id).cloned();
            found.ok_or_else(|| Refusal::missing("event", id))
        }
        "V2.Core.Events.list" => list_thin(state, params),
        "V2.Core.Events.retrieve" => {
            let listed = |event: &&Value| int(event, "_created") >= state.now - EVENTS_LISTED;
            let found =
                state.thin_events.iter().filter(listed).find(|event| text(event, "id") == id).cloned();
            found.ok_or_else(|| Refusal::missing("event", id))
        }
        "WebhookEndpoints.create" => endpoint_create(state, params),
        "WebhookEndpoints.retrieve" => state.get("webhook_endpoint", id),
        "WebhookEndpoints.list" => page(
            state.all("webhook_endpoint").into_iter().cloned().collect(),
            params,
            "/v1/webhook_endpoints",
        ),
        "WebhookEndpoints.del" => {
            state.get("webhook_endpoint", id)?;
            state.endpoints.retain(|endpoint| endpoint.id != id);
            Ok(state.delete("webhook_endpoint", id))
        }
        _ => Err(unknown(call)),
    }
}

fn list(state: &State, params: &Value) -> Answer {
    let oldest = state.now - EVENTS_LISTED;
    let types = params["types"].as_array();
    let fits = |event: &&Value| {
        let kind = text(event, "type");
        let wanted = params["type"].as_str().is_none_or(|wanted| match wanted.strip_suffix('*') {
            Some(beginning) => kind.starts_with(beginning),
            None => kind == wanted,
        });
        int(event, "created") >= oldest
            && wanted
            && types.is_none_or(|types| types.contains(&event["type"]))
            && within(int(event, "created"), &params["created"])
    };
    page(state.events.iter().rev().filter(fits).cloned().collect(), params, "/v1/events")
}

/// Pages of v2 are named by a text of Stripe's making; here it is the place to go on from.
fn list_thin(state: &State, params: &Value) -> Answer {
    let bound = |name: &str| -> Answer<Option<i64>> {
        let Some(asked) = params["created"][name].as_str() else { return Ok(None) };
        let at = DateTime::parse_from_rfc3339(asked)
            .map_err(|_| Refusal::invalid(format!("created.{name} is not a time: {asked}")).at("created"))?;
        Ok(Some(at.timestamp()))
    };
    let (gt, gte, lt, lte) = (bound("gt")?, bound("gte")?, bound("lt")?, bound("lte")?);
    let types = params["types"].as_array();
    let oldest = state.now - EVENTS_LISTED;
    let fits = |event: &&Value| {
        let at = int(event, "_created");
        at >= oldest
            && gt.is_none_or(|bound| at > bound)
            && gte.is_none_or(|bound| at >= bound)
            && lt.is_none_or(|bound| at < bound)
            && lte.is_none_or(|bound| at <= bound)
            && types.is_none_or(|types| types.contains(&event["type"]))
            && params["object_id"].as_str().is_none_or(|id| event["related_object"]["id"] == id)
    };
    let limit = params["limit"].as_u64().unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(Refusal::invalid("Invalid limit: must be between 1 and 100").at("limit"));
    }
    let from: usize = match params["page"].as_str() {
        None => 0,
        Some(page) => page
            .strip_prefix("page_")
            .and_then(|at| at.parse().ok())
            .ok_or_else(|| Refusal::invalid("Invalid page").at("page"))?,
    };
    let size = usize::try_from(limit).unwrap_or(20);
    let all: Vec<Value> = state.thin_events.iter().rev().filter(fits).map(without_data).collect();
    let end = all.len().min(from.saturating_add(size));
    let rows = all.get(from..end).unwrap_or_default().to_vec();
    let next = (end < all.len()).then(|| {
        let mut next = format!("/v2/core/events?limit={limit}&page=page_{end}");
        for (name, at) in [("gt", gt), ("gte", gte), ("lt", lt), ("lte", lte)] {
            if let Some(at) = at {
                next.push_str(&format!("&created[{name}]={}", super::super::state::rfc3339(at)));
            }
        }
        next
    });
    Ok(json!({ "data": rows, "next_page_url": next, "previous_page_url": null }))
}

fn without_data(event: &Value) -> Value {
    let mut event = public(event);
    event.as_object_mut().map(|fields| fields.remove("data"));
    event
}

fn endpoint_create(state: &mut State, params: &Value) -> Answer {
    let url = text(params, "url").to_owned();
    if reqwest::Url::parse(&url).is_err() {
        return Err(Refusal::invalid("Invalid URL: An explicit scheme (such as https) must be provided.")
            .code("url_invalid")
            .at("url"));
    }
    let mut made = state.new_object("webhook_endpoint", "we");
    copy(&mut made, params, &["url", "enabled_events", "description", "api_version"]);
    merge_metadata(&mut made, params);
    let id = text(&made, "id").to_owned();
    let secret = format!("whsec_{}", state.id("test"));
    let types = made["enabled_events"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    state.put("webhook_endpoint", made.clone());
    state.endpoints.push(Endpoint { id, url, shape: Shape::Snapshot, secrets: vec![secret.clone()], types });
    // Shown once, in this answer.
    made["secret"] = json!(secret);
    Ok(made)
}
