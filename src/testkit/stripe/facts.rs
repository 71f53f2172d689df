//! What requests and answers look like at Stripe: see `facts/NOTICE.md` for where it is from and how it is written.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// The type of a parameter.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// At most so many characters.
    Text(Option<usize>),
    Number,
    Boolean,
    Decimal,
    OneOf(Vec<String>),
    List(Box<Kind>),
    Object(Fields),
    Either(Vec<Kind>),
    /// Known to Stripe, not modelled here.
    NotHere,
}

#[derive(Debug, PartialEq, Eq, Default)]
pub struct Fields {
    /// By name: whether it must be given, and its type.
    pub named: BTreeMap<String, (bool, Kind)>,
    /// The type of those that are not named, where any name will do.
    pub others: Option<Box<Kind>>,
}

#[derive(Debug)]
pub struct Operation {
    /// As Stripe's library names it: `Billing.MeterEvents.create`.
    pub name: String,
    pub parameters: Kind,
}

/// What a method and a path mean.
#[derive(Debug)]
pub enum Found<'a> {
    /// With the ids in its path.
    Operation(&'a Operation, Vec<String>),
    NotHere,
    Unknown,
}

struct Route {
    method: String,
    path: Vec<String>,
    /// None where the stand-in has nothing behind it.
    operation: Option<Operation>,
}

static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(routes);
static OBJECTS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("facts/objects.json")).expect("facts/objects.json is JSON")
});

/// An object as Stripe shows it, with nothing in it yet.
pub fn object(kind: &str) -> Value {
    OBJECTS.get(kind).unwrap_or_else(|| panic!("facts/objects.json has no {kind}")).clone()
}

/// Finds the operation. A path that is written out wins over one with an id in its place.
pub fn find(method: &str, path: &str) -> Found<'static> {
    let asked: Vec<&str> = path.trim_matches('/').split('/').collect();
    let fits = |route: &&Route| {
        let same = |(want, is): (&String, &&str)| is_id(want) && !is.is_empty() || want == is;
        route.method == method && route.path.len() == asked.len() && route.path.iter().zip(&asked).all(same)
    };
    let best =
        ROUTES.iter().filter(fits).min_by_key(|route| route.path.iter().filter(|part| is_id(part)).count());
    match best {
        None => Found::Unknown,
        Some(Route { operation: None, .. }) => Found::NotHere,
        Some(Route { operation: Some(operation), path, .. }) => {
            let ids = path.iter().zip(&asked).filter(|(part, _)| is_id(part));
            Found::Operation(operation, ids.map(|(_, is)| (*is).to_owned()).collect())
        }
    }
}

fn is_id(part: &str) -> bool {
    part.starts_with('{')
}

fn routes() -> Vec<Route> {
    let facts: Value =
        serde_json::from_str(include_str!("facts/requests.json")).expect("facts/requests.json is JSON");
    let split = |text: &str| {
        let (method, path) = text.split_once(' ').expect("a method and a path");
        (method.to_owned(), path.trim_matches('/').split('/').map(str::to_owned).collect())
    };
    let here = facts["operations"].as_object().expect("operations").iter().map(|(at, is)| {
        let (method, path) = split(at);
        let name = is[0].as_str().expect("a name").to_owned();
        Route { method, path, operation: Some(Operation { name, parameters: kind(&is[1]) }) }
    });
    let elsewhere = facts["not_here"].as_array().expect("not_here").iter().map(|at| {
        let (method, path) = split(at.as_str().expect("a method and a path"));
        Route { method, path, operation: None }
    });
    here.chain(elsewhere).collect()
}

fn kind(is: &Value) -> Kind {
    match is {
        Value::String(word) => match word.as_bytes().first() {
            Some(b's') => Kind::Text(word[1..].parse().ok()),
            Some(b'n') => Kind::Number,
            Some(b'b') => Kind::Boolean,
            Some(b'd') => Kind::Decimal,
            Some(b'=') => Kind::OneOf(word[1..].split('|').map(str::to_owned).collect()),
            _ => Kind::NotHere,
        },
        Value::Array(of) => Kind::List(Box::new(kind(&of[0]))),
        Value::Object(fields) => {
            if let Some(Value::Array(kinds)) = fields.get("|") {
                return Kind::Either(kinds.iter().map(kind).collect());
            }
            let mut object = Fields::default();
            for (name, is) in fields {
                if name == "*" {
                    object.others = Some(Box::new(kind(is)));
                } else {
                    object
                        .named
                        .insert(name.trim_end_matches('!').to_owned(), (name.ends_with('!'), kind(is)));
                }
            }
            Kind::Object(object)
        }
        _ => panic!("facts/requests.json: {is}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found() {
        let Found::Operation(operation, ids) = find("GET", "/v1/billing/meters/mtr_1/event_summaries") else {
            panic!("not found")
        };
        assert_eq!(
            (operation.name.as_str(), ids),
            ("Billing.Meters.listEventSummaries", vec!["mtr_1".to_owned()])
        );
        assert!(matches!(find("GET", "/v1/customers/search"), Found::NotHere), "not a customer named search");
        assert!(matches!(find("POST", "/v1/billing/meter_event"), Found::Unknown));
        assert!(matches!(find("PUT", "/v1/customers"), Found::Unknown));
    }
}
