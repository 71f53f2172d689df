//! Walks an OpenAPI document: which operations there are, and how to call one without knowing what it does.

use std::collections::BTreeSet;

use crate::kernel::Role;
use reqwest::Method;
use serde_json::{Map, Value, json};

/// One operation of the document.
pub struct Operation {
    pub method: Method,
    /// As documented: `/api/v1/tasks/{task}`.
    pub path: String,
    /// Names of the path's parameters.
    pub parameters: Vec<String>,
    description: Value,
    components: Value,
}

/// The operations below a path, in the document's order.
pub fn operations(document: &Value, below: &str) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, description) in item.as_object().expect("a path item") {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            if !path.starts_with(below) || !description.is_object() {
                continue;
            }
            let parameters = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .map(str::to_owned)
                .collect();
            found.push(Operation {
                method,
                path: path.clone(),
                parameters,
                description: description.clone(),
                components: document["components"].clone(),
            });
        }
    }
    assert!(found.len() >= 10, "only {} operations below {below}", found.len());
    found
}

impl Operation {
    /// The path with this id for every parameter.
    pub fn at(&self, id: &str) -> String {
        Self::fill(&self.path, id)
    }

    pub fn fill(path: &str, id: &str) -> String {
        let parts: Vec<&str> =
            path.split('/').map(|part| if part.starts_with('{') { id } else { part }).collect();
        parts.join("/")
    }

    /// The role the document says it needs.
    pub fn min_role(&self) -> Role {
        let stated = self.description["x-min-role"].clone();
        serde_json::from_value(stated)
            .unwrap_or_else(|_| panic!("{} {} states no x-min-role", self.method, self.path))
    }

    /// Whether a key never reaches it, whatever its role.
    pub fn person_only(&self) -> bool {
        self.description.pointer("/security/0/person").is_some()
    }

    /// The scope that opens it to a key with scopes; none for what no key reaches.
    pub fn scope(&self) -> Option<String> {
        let stated = self.description.pointer("/security/0/tenant_key/0").and_then(Value::as_str);
        assert!(
            stated.is_some() != self.person_only(),
            "{} {} states no scope, or one for people",
            self.method,
            self.path
        );
        stated.map(str::to_owned)
    }

    /// A body that the operation accepts, with `id` wherever an id of its kind may stand. None when it takes no body.
    pub fn body_with(&self, id: &str) -> Option<Value> {
        let schema = self.description.pointer("/requestBody/content/application~1json/schema")?;
        let schema = self.resolve(schema);
        let properties = schema["properties"].as_object()?;
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut body = Map::new();
        for (name, property) in properties {
            let property = self.resolve(property);
            let is_id = property["pattern"].as_str().is_some_and(|pattern| pattern.contains("[0-9a-v]{26}"));
            if required.contains(&name.as_str()) || (is_id && self.same_kind(&property, id)) {
                body.insert(name.clone(), self.example(&property, id));
            }
        }
        if body.is_empty() {
            // All optional, as in a PATCH: the first plain text will do.
            let (name, property) = properties
                .iter()
                .map(|(name, property)| (name, self.resolve(property)))
                .find(|(_, property)| {
                is_text(property) && property.get("enum").is_none() && property.get("format").is_none()
            })?;
            body.insert(name.clone(), self.example(&property, id));
        }
        Some(Value::Object(body))
    }

    /// The query parameters that take an id of this one's kind.
    pub fn id_filters(&self, id: &str) -> Vec<String> {
        self.description["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "query")
            .filter(|parameter| {
                let schema = self.resolve(&parameter["schema"]);
                self.same_kind(&schema, id)
            })
            .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned))
            .collect()
    }

    fn same_kind(&self, schema: &Value, id: &str) -> bool {
        let prefix = id.split('_').next().unwrap_or_default();
        schema["pattern"].as_str().is_some_and(|pattern| pattern.starts_with(&format!("^{prefix}_")))
    }

    fn resolve(&self, schema: &Value) -> Value {
        if let Some(name) =
            schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/"))
        {
            return self.resolve(&self.components["schemas"][name]);
        }
        // A nullable reference is a choice between null and the real thing.
        for choice in ["oneOf", "anyOf", "allOf"] {
            if let Some(real) =
                schema[choice].as_array().and_then(|all| all.iter().find(|one| one["type"] != "null"))
            {
                return self.resolve(real);
            }
        }
        schema.clone()
    }

    fn example(&self, schema: &Value, id: &str) -> Value {
        if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
            return first.clone();
        }
        if self.same_kind(schema, id) {
            return json!(id);
        }
        if let Some(pattern) = schema["pattern"].as_str().filter(|pattern| pattern.contains("[0-9a-v]{26}")) {
            let prefix = pattern.trim_start_matches('^').split('_').next().unwrap_or_default();
            return json!(random_like(&format!("{prefix}_00000000000000000000000000")));
        }
        match (schema["format"].as_str(), is_text(schema)) {
            (Some("date-time"), _) => json!("2030-01-01T00:00:00Z"),
            (_, true) => json!("generated"),
            _ => json!(1),
        }
    }
}

fn is_text(schema: &Value) -> bool {
    schema["type"] == "string"
        || schema["type"].as_array().is_some_and(|types| types.contains(&json!("string")))
}

/// Every id in a JSON text, at any depth, the whole tenant's own id included.
pub fn ids_in(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if is_id(text) => {
            into.insert(text.clone());
        }
        Value::Array(all) => all.iter().for_each(|one| ids_in(one, into)),
        Value::Object(all) => all.values().for_each(|one| ids_in(one, into)),
        _ => {}
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 30
        && text.as_bytes()[3] == b'_'
        && text[4..].bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'v'))
}

/// A fresh id of the same kind.
pub fn random_like(id: &str) -> String {
    let prefix = id.split('_').next().unwrap_or_default();
    #[allow(clippy::disallowed_methods)]
    let id = crate::kernel::ids::TenantId::new().0;
    crate::kernel::ids::encode(prefix, id)
}
