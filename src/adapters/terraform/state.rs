//! What is in a state, read from the state itself: what it has, what is tainted, what the outputs are. Asking Terraform
//! takes seconds for each question.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::kernel::{Error, Result, codes};

/// The only layout there has been since Terraform 0.12.
const LAYOUT: u64 = 4;

/// A state, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub struct State {
    version: u64,
    #[serde(default)]
    outputs: serde_json::Map<String, Value>,
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    module: Option<String>,
    #[serde(default)]
    mode: String,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    instances: Vec<Instance>,
}

#[derive(Debug, Deserialize)]
struct Instance {
    index_key: Option<Value>,
    #[serde(default)]
    attributes: Value,
    status: Option<String>,
    /// An object that is on its way out, behind the one that took its place.
    deposed: Option<String>,
}

/// One resource of a state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instanced {
    pub address: String,
    pub kind: String,
    /// Terraform thinks it half-made and would replace it.
    pub tainted: bool,
}

/// A database server of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// None while it is being made.
    pub host: Option<String>,
    /// The ARN of the key that it is encrypted with.
    pub key: Option<String>,
    /// The snapshot that is made when it is removed. None when none is.
    pub snapshot: Option<String>,
}

impl State {
    /// # Errors
    /// `infra_failed` when it is of another layout.
    pub fn parse(text: &str) -> Result<Self> {
        let state: Self = serde_json::from_str(text).map_err(|error| {
            Error::new(&codes::INFRA_FAILED).detail("Terraform's state cannot be read").source(error)
        })?;
        if state.version == LAYOUT {
            return Ok(state);
        }
        Err(Error::new(&codes::INFRA_FAILED)
            .detail(format!("the state is of layout {}, and {LAYOUT} is known", state.version)))
    }

    /// What Terraform has made and keeps.
    pub fn resources(&self) -> Vec<Instanced> {
        let managed = self.resources.iter().filter(|resource| resource.mode == "managed");
        let instances = managed.flat_map(|resource| {
            resource.instances.iter().filter(|one| one.deposed.is_none()).map(move |one| Instanced {
                address: address(resource, one.index_key.as_ref()),
                kind: resource.kind.clone(),
                tainted: one.status.as_deref() == Some("tainted"),
            })
        });
        instances.collect()
    }

    pub fn addresses(&self) -> BTreeSet<String> {
        self.resources().into_iter().map(|one| one.address).collect()
    }

    /// The ARNs of all resources of a kind.
    pub fn arns(&self, kind: &str) -> Vec<String> {
        let of_kind = self.resources.iter().filter(|one| one.mode == "managed" && one.kind == kind);
        let attributes = of_kind.flat_map(|one| &one.instances).map(|one| &one.attributes);
        attributes.filter_map(|attributes| attributes["arn"].as_str().map(str::to_owned)).collect()
    }

    /// What an inventory knows its resources by: ARNs, the names of roles, the ids of NAT gateways.
    pub fn known(&self) -> BTreeSet<String> {
        let mut known = BTreeSet::new();
        for resource in self.resources.iter().filter(|resource| resource.mode == "managed") {
            for attributes in resource.instances.iter().map(|one| &one.attributes) {
                known.extend(attributes["arn"].as_str().map(str::to_owned));
                // Of some the ARN is the id, and is nowhere else; of one kind it is nowhere at all.
                let id = attributes["id"].as_str();
                let by_id = |id: &&str| id.starts_with("arn:") || resource.kind == "aws_nat_gateway";
                known.extend(id.filter(by_id).map(str::to_owned));
                if resource.kind == "aws_iam_role" {
                    known.extend(attributes["name"].as_str().map(str::to_owned));
                }
            }
        }
        known
    }

    /// The database servers.
    pub fn servers(&self) -> Vec<Server> {
        let servers =
            self.resources.iter().filter(|one| one.mode == "managed" && one.kind == "aws_db_instance");
        let attributes = servers.flat_map(|one| &one.instances).map(|one| &one.attributes);
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        attributes
            .map(|attributes| Server {
                host: text(&attributes["address"]),
                key: text(&attributes["kms_key_id"]),
                snapshot: text(&attributes["final_snapshot_identifier"])
                    .filter(|_| attributes["skip_final_snapshot"] == Value::Bool(false)),
            })
            .collect()
    }

    /// An output's value; null when there is none.
    pub fn output(&self, name: &str) -> Value {
        self.outputs.get(name).map_or(Value::Null, |output| output["value"].clone())
    }
}

/// As Terraform writes it: `module.tenant.aws_kms_key.own[0]`.
fn address(resource: &Resource, key: Option<&Value>) -> String {
    let module = resource.module.as_ref().map_or(String::new(), |module| format!("{module}."));
    let index = match key {
        None | Some(Value::Null) => String::new(),
        // A number stands bare and a text in quotation marks, in the same way as in JSON.
        Some(key) => format!("[{key}]"),
    };
    format!("{module}{}.{}{index}", resource.kind, resource.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = r#"{"version":4,"terraform_version":"1.11.4","serial":3,"lineage":"x",
      "outputs":{"tenant":{"value":{"id":"ten_1"},"type":"string"}},
      "resources":[
        {"mode":"data","type":"aws_region","name":"this","provider":"p","instances":[{}]},
        {"mode":"managed","type":"aws_kms_key","name":"own","module":"module.tenant","provider":"p","instances":[{"index_key":0,"attributes":{}}]},
        {"mode":"managed","type":"aws_iam_role","name":"this","provider":"p","instances":[{"status":"tainted","attributes":{}}]},
        {"mode":"managed","type":"aws_vpc_security_group_ingress_rule","name":"postgres","module":"module.shard","provider":"p",
         "instances":[{"index_key":"app","attributes":{}},{"index_key":"app","deposed":"ab12","attributes":{}}]}
      ]}"#;

    #[test]
    fn a_state_says_what_it_holds() {
        let state = State::parse(STATE).expect("a state");
        let found: Vec<(String, bool)> =
            state.resources().into_iter().map(|one| (one.address, one.tainted)).collect();
        assert_eq!(
            found,
            [
                ("module.tenant.aws_kms_key.own[0]".to_owned(), false),
                ("aws_iam_role.this".to_owned(), true),
                (r#"module.shard.aws_vpc_security_group_ingress_rule.postgres["app"]"#.to_owned(), false),
            ]
        );
        assert_eq!(state.output("tenant")["id"], "ten_1");
        assert_eq!(state.output("nothing"), Value::Null);
    }

    #[test]
    fn what_an_inventory_knows_them_by() {
        let state = State::parse(
            r#"{"version":4,"resources":[
              {"mode":"managed","type":"aws_iam_role","name":"this","instances":[{"attributes":{"arn":"arn:role","name":"dev-t-1"}}]},
              {"mode":"managed","type":"aws_s3_bucket_policy","name":"own","instances":[{"attributes":{"bucket":"b"}}]},
              {"mode":"data","type":"aws_x","name":"y","instances":[{"attributes":{"arn":"arn:else"}}]}]}"#,
        )
        .expect("a state");
        assert_eq!(state.known(), BTreeSet::from(["arn:role".to_owned(), "dev-t-1".to_owned()]));
        assert_eq!((state.arns("aws_iam_role"), state.arns("aws_x")), (vec!["arn:role".to_owned()], vec![]));
    }

    #[test]
    fn what_has_no_arn_is_known_by_its_id() {
        let state = State::parse(
            r#"{"version":4,"resources":[
              {"mode":"managed","type":"aws_ecs_service","name":"s","instances":[{"attributes":{"id":"arn:service"}}]},
              {"mode":"managed","type":"aws_nat_gateway","name":"n","instances":[{"attributes":{"id":"nat-1"}}]},
              {"mode":"managed","type":"aws_route","name":"r","instances":[{"attributes":{"id":"r-1"}}]}]}"#,
        )
        .expect("a state");
        assert_eq!(state.known(), BTreeSet::from(["arn:service".to_owned(), "nat-1".to_owned()]));
    }

    /// A snapshot is only promised where one is made.
    #[test]
    fn a_servers_last_snapshot_and_its_key() {
        let state = |skip: &str| {
            let text = format!(
                r#"{{"version":4,"resources":[{{"mode":"managed","type":"aws_db_instance","name":"this","instances":[{{"attributes":
                   {{"address":"h","kms_key_id":"arn:key","final_snapshot_identifier":"s-final","skip_final_snapshot":{skip}}}}}]}}]}}"#
            );
            State::parse(&text).expect("a state").servers()
        };
        let server = |snapshot: Option<&str>| Server {
            host: Some("h".to_owned()),
            key: Some("arn:key".to_owned()),
            snapshot: snapshot.map(str::to_owned),
        };
        assert_eq!(state("false"), [server(Some("s-final"))]);
        assert_eq!(state("true"), [server(None)]);
        assert_eq!(state("null"), [server(None)]);
    }

    #[test]
    fn another_layout_is_refused() {
        assert!(State::parse(r#"{"version":5}"#).expect_err("layout 5").is(&codes::INFRA_FAILED));
        State::parse("").expect_err("no state");
    }
}
