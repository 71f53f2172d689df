//! Parameters as they travel (`a[b][0]=c`), read and held against the facts: a request that is not Stripe's is refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::errors::{Answer, Refusal};
use super::facts::{Fields, Kind};

/// Parameters as they came: text, or named parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raw {
    Text(String),
    Parts(BTreeMap<String, Raw>),
}

/// Reads a query or a form.
pub fn read(encoded: &str) -> Answer<Raw> {
    // The one decoder of forms that is at hand is the one for addresses.
    let url = reqwest::Url::parse(&format!("http://form/?{encoded}"))
        .map_err(|_| Refusal::invalid("The parameters cannot be read."))?;
    let mut root = Raw::Parts(BTreeMap::new());
    for (name, value) in url.query_pairs() {
        if !name.is_empty() {
            put(&mut root, &path(&name)?, value.into_owned(), &name)?;
        }
    }
    Ok(root)
}

fn path(name: &str) -> Answer<Vec<String>> {
    let odd = || Refusal::invalid(format!("Invalid parameter name: {name}"));
    let Some((first, mut rest)) = name.split_once('[') else { return Ok(vec![name.to_owned()]) };
    let mut parts = vec![first.to_owned()];
    loop {
        let (part, after) = rest.split_once(']').ok_or_else(odd)?;
        parts.push(part.to_owned());
        if after.is_empty() {
            return Ok(parts);
        }
        rest = after.strip_prefix('[').ok_or_else(odd)?;
    }
}

fn put(at: &mut Raw, path: &[String], value: String, name: &str) -> Answer<()> {
    let twice = || Refusal::invalid(format!("The parameter {name} was given twice."));
    let Raw::Parts(parts) = at else { return Err(twice()) };
    let (first, rest) = path.split_first().ok_or_else(twice)?;
    // `a[]=x` appends.
    let key = if first.is_empty() { parts.len().to_string() } else { first.clone() };
    if rest.is_empty() {
        return match parts.insert(key, Raw::Text(value)) {
            None => Ok(()),
            Some(_) => Err(twice()),
        };
    }
    put(parts.entry(key).or_insert_with(|| Raw::Parts(BTreeMap::new())), rest, value, name)
}

/// Gives the parameters with their types, or Stripe's refusal.
pub fn check(raw: &Raw, kind: &Kind) -> Answer {
    typed(raw, kind, "")
}

fn typed(raw: &Raw, kind: &Kind, name: &str) -> Answer {
    let text = match raw {
        Raw::Text(text) => Some(text.as_str()),
        Raw::Parts(_) => None,
    };
    let invalid = |what: &str, code| {
        let shown = text.unwrap_or("an object");
        Err(Refusal::invalid(format!("Invalid {what}: {shown}")).code(code).at(name))
    };
    match (kind, text) {
        (Kind::NotHere, _) => Err(Refusal::not_here(&format!("the parameter {name}"))),
        (Kind::Text(_), Some("")) => {
            let why = format!(
                "You passed an empty string for '{name}'. We assume empty values are an attempt to unset a \
                 parameter; however '{name}' cannot be unset."
            );
            Err(Refusal::invalid(why).code("parameter_invalid_empty").at(name))
        }
        (Kind::Text(Some(most)), Some(text)) if text.chars().count() > *most => {
            let why = format!(
                "Invalid string: {name} must be at most {most} characters long, but it has {}.",
                text.chars().count()
            );
            Err(Refusal::invalid(why).at(name))
        }
        (Kind::Text(_), Some(text)) => Ok(json!(text)),
        (Kind::Number, Some(text)) => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(whole), _) => Ok(json!(whole)),
            (_, Ok(number)) if number.is_finite() => Ok(json!(number)),
            _ => invalid("integer", "parameter_invalid_integer"),
        },
        (Kind::Decimal, Some(text)) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(json!(text)),
            _ => invalid("decimal", "parameter_invalid_string_blank"),
        },
        (Kind::Boolean, Some("true")) => Ok(json!(true)),
        (Kind::Boolean, Some("false")) => Ok(json!(false)),
        (Kind::Boolean, _) => invalid("boolean", "parameter_unknown"),
        (Kind::OneOf(words), Some(text)) if words.iter().any(|word| word == text) => Ok(json!(text)),
        (Kind::OneOf(words), _) => {
            Err(Refusal::invalid(format!("Invalid {name}: must be one of {}", words.join(", "))).at(name))
        }
        (Kind::List(of), None) => list(raw, of, name),
        (Kind::List(_), Some(_)) => invalid("array", "parameter_invalid_empty"),
        (Kind::Object(fields), None) => object(raw, fields, name),
        (Kind::Object(_), Some(_)) => invalid("object", "parameter_invalid_empty"),
        (Kind::Either(kinds), _) => either(raw, kinds, name),
        (Kind::Text(_), None) => invalid("string", "parameter_invalid_string_blank"),
        (Kind::Number, None) => invalid("integer", "parameter_invalid_integer"),
        (Kind::Decimal, None) => invalid("decimal", "parameter_invalid_integer"),
    }
}

fn list(raw: &Raw, of: &Kind, name: &str) -> Answer {
    let Raw::Parts(parts) = raw else { return Err(Refusal::invalid(format!("Invalid array: {name}"))) };
    let mut numbered = Vec::new();
    for (key, part) in parts {
        let number: usize =
            key.parse().map_err(|_| Refusal::invalid(format!("Invalid array: {name}[{key}]")).at(name))?;
        numbered.push((number, part));
    }
    numbered.sort_by_key(|(number, _)| *number);
    let typed = numbered.into_iter().map(|(number, part)| typed(part, of, &format!("{name}[{number}]")));
    Ok(Value::Array(typed.collect::<Answer<_>>()?))
}

fn object(raw: &Raw, fields: &Fields, name: &str) -> Answer {
    let Raw::Parts(parts) = raw else { return Err(Refusal::invalid(format!("Invalid object: {name}"))) };
    let full = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}[{key}]") };
    let mut given = Map::new();
    for (key, part) in parts {
        let kind = fields.named.get(key).map(|(_, kind)| kind).or(fields.others.as_deref());
        let Some(kind) = kind else {
            return Err(Refusal::invalid(format!("Received unknown parameter: {}", full(key)))
                .code("parameter_unknown")
                .at(full(key)));
        };
        given.insert(key.clone(), typed(part, kind, &full(key))?);
    }
    let absent = fields.named.iter().find(|(key, (must, _))| *must && !given.contains_key(*key));
    match absent {
        Some((key, _)) => Err(Refusal::invalid(format!("Missing required param: {}.", full(key)))
            .code("parameter_missing")
            .at(full(key))),
        None => Ok(Value::Object(given)),
    }
}

/// The first type that fits. Words come before free text; when none fits, what the last one says is said.
fn either(raw: &Raw, kinds: &[Kind], name: &str) -> Answer {
    let mut refused = Refusal::invalid(format!("Invalid {name}")).at(name);
    let (words, others): (Vec<_>, Vec<_>) = kinds.iter().partition(|kind| matches!(kind, Kind::OneOf(_)));
    let (texts, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|kind| matches!(kind, Kind::Text(_)));
    for kind in words.into_iter().chain(others).chain(texts) {
        match typed(raw, kind, name) {
            Ok(value) => return Ok(value),
            Err(refusal) => refused = refusal,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Found, find};
    use super::*;

    fn asked(method: &str, path: &str, parameters: &str) -> Result<Value, Value> {
        let Found::Operation(operation, _) = find(method, path) else { panic!("{path}") };
        read(parameters)
            .and_then(|raw| check(&raw, &operation.parameters))
            .map_err(|refusal| refusal.body("req_1")["error"].clone())
    }

    #[test]
    fn parameters_get_their_types() {
        let event = "event_name=tasks&payload[value]=7&payload%5Bstripe_customer_id%5D=cus_1&identifier=a+b&timestamp=12";
        let typed = asked("POST", "/v1/billing/meter_events", event).unwrap();
        assert_eq!(
            typed,
            json!({ "event_name": "tasks", "payload": { "value": "7", "stripe_customer_id": "cus_1" },
                    "identifier": "a b", "timestamp": 12 })
        );
        let subscription = "customer=cus_1&items[0][price]=price_1&items[0][quantity]=2&items[1][price]=price_2&trial_end=now";
        let typed = asked("POST", "/v1/subscriptions", subscription).unwrap();
        assert_eq!(typed["items"], json!([{ "price": "price_1", "quantity": 2 }, { "price": "price_2" }]));
        assert_eq!(
            asked("GET", "/v1/prices", "lookup_keys[]=a&lookup_keys[]=b&active=true").unwrap()["lookup_keys"]
                [1],
            "b"
        );
    }

    #[test]
    fn what_is_not_stripes_is_refused() {
        let long = format!("event_name=x&payload[value]=1&identifier={}", "x".repeat(101));
        for (method, path, parameters, code, param) in [
            ("POST", "/v1/billing/meter_events", "event_name=x", "parameter_missing", "payload"),
            (
                "POST",
                "/v1/billing/meter_events",
                "event_name=x&payload[value]=1&value=1",
                "parameter_unknown",
                "value",
            ),
            (
                "POST",
                "/v1/billing/meter_events",
                "event_name=x&payload[value]=1&timestamp=soon",
                "parameter_invalid_integer",
                "timestamp",
            ),
            ("POST", "/v1/billing/meter_events", long.as_str(), "", "identifier"),
            ("POST", "/v1/subscriptions", "items[0][prise]=p", "parameter_unknown", "items[0][prise]"),
            ("POST", "/v1/subscriptions", "proration_behavior=sometimes", "", "proration_behavior"),
            ("POST", "/v1/customers", "email=", "parameter_invalid_empty", "email"),
        ] {
            let error = asked(method, path, parameters).expect_err(parameters);
            assert_eq!(error["param"], param, "{parameters}: {error}");
            assert_eq!(error["code"].as_str().unwrap_or_default(), code, "{parameters}: {error}");
        }
    }
}
