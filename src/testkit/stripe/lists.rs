//! Pages of a list, and objects put in the place of their ids.

use serde_json::{Value, json};

use super::errors::{Answer, Refusal};
use super::operations::checkout;
use super::state::{State, int};

const DEFAULT: i64 = 10;
const MOST: i64 = 100;

/// One page of `all`, which is newest first.
pub fn page(all: Vec<Value>, params: &Value, url: &str) -> Answer {
    let limit = params["limit"].as_i64().unwrap_or(DEFAULT);
    if !(1..=MOST).contains(&limit) {
        return Err(Refusal::invalid("Invalid limit: must be between 1 and 100").at("limit"));
    }
    let limit = usize::try_from(limit).unwrap_or(1);
    let place = |param: &str| -> Answer<Option<usize>> {
        let Some(id) = params[param].as_str() else { return Ok(None) };
        let at = all.iter().position(|object| object["id"] == id);
        at.map(Some).ok_or_else(|| Refusal::no_such("object", id, param))
    };
    let (after, before) = (place("starting_after")?, place("ending_before")?);
    let (rows, more): (Vec<Value>, bool) = match (after, before) {
        (Some(_), Some(_)) => {
            return Err(Refusal::invalid(
                "You may only provide one of these parameters: ending_before, starting_after.",
            ));
        }
        (None, Some(end)) => {
            let start = end.saturating_sub(limit);
            (all[start..end].to_vec(), start > 0)
        }
        (after, None) => {
            let start = after.map_or(0, |at| at + 1);
            let end = all.len().min(start + limit);
            (all[start..end].to_vec(), end < all.len())
        }
    };
    Ok(json!({ "object": "list", "data": rows, "has_more": more, "url": url }))
}

/// Whether an object's time is inside what `created` asks: a number, or bounds.
pub fn within(created: i64, asked: &Value) -> bool {
    if let Some(exactly) = asked.as_i64() {
        return created == exactly;
    }
    let bound = |name: &str| asked[name].as_i64();
    bound("gt").is_none_or(|at| created > at)
        && bound("gte").is_none_or(|at| created >= at)
        && bound("lt").is_none_or(|at| created < at)
        && bound("lte").is_none_or(|at| created <= at)
}

/// Whether an object has what the parameters of these names ask for.
pub fn matches(object: &Value, params: &Value, names: &[&str]) -> bool {
    names.iter().all(|name| params.get(*name).is_none_or(|asked| object[*name] == *asked))
        && within(int(object, "created"), &params["created"])
}

/// Follows the paths of `expand`.
pub fn expand(state: &State, answer: &mut Value, params: &Value) -> Answer<()> {
    for path in params["expand"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let parts: Vec<&str> = path.split('.').collect();
        if parts.len() > 4 {
            return Err(
                Refusal::invalid(format!("You cannot expand more than 4 levels ({path}).")).at("expand")
            );
        }
        follow(state, answer, &parts, path)?;
    }
    Ok(())
}

fn follow(state: &State, at: &mut Value, parts: &[&str], path: &str) -> Answer<()> {
    let Some((first, rest)) = parts.split_first() else { return Ok(()) };
    if let Value::Array(items) = at {
        return items.iter_mut().try_for_each(|item| follow(state, item, parts, path));
    }
    if *first == "tiers" && at.get("_tiers").is_some() {
        at["tiers"] = at["_tiers"].clone();
        return Ok(());
    }
    if *first == "line_items" {
        checkout::with_line_items(at);
    }
    let cannot = || Refusal::invalid(format!("This property cannot be expanded ({path}).")).at("expand");
    let field = at.get_mut(*first).ok_or_else(cannot)?;
    put_object(state, field);
    match field {
        Value::Null => Ok(()),
        Value::Array(items) if rest.is_empty() => {
            items.iter_mut().for_each(|item| put_object(state, item));
            Ok(())
        }
        Value::Object(_) | Value::Array(_) => follow(state, field, rest, path),
        _ => Err(cannot()),
    }
}

/// Replaces an id by what it names, when that is known.
fn put_object(state: &State, field: &mut Value) {
    let Some(id) = field.as_str() else { return };
    let found = state.objects.values().find_map(|kind| kind.get(id));
    if let Some(object) = found {
        *field = object.clone();
    }
}

/// The list that an object holds of its parts.
pub fn held(rows: Vec<Value>, url: String) -> Value {
    let total = rows.len();
    json!({ "object": "list", "data": rows, "has_more": false, "url": url, "total_count": total })
}
