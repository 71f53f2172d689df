//! What a killed Terraform had in hand: begun, and never reported as made. It has no id yet as far as anybody was told,
//! and it may be there: names are fixed and everything is tagged, so it is found again.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::allow::ResourceChange;

/// What the cloud says is there, by the root `inventory`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Inventory {
    /// Tags by ARN.
    pub tagged: BTreeMap<String, BTreeMap<String, String>>,
    pub roles: Vec<String>,
}

impl Inventory {
    /// ARNs that contain a text and are named so by their tag.
    fn named(&self, part: &str, name: &str) -> Option<&str> {
        let mut found = self.tagged.iter().filter(|(arn, tags)| {
            arn.contains(part) && tags.get("Name").is_some_and(|tagged| tagged == name)
        });
        found.next().map(|(arn, _)| arn.as_str())
    }
}

/// What to import for a resource that was begun and that a plan would make now. None when it is not there, and for what
/// may be made a second time without harm: settings of something else, which are written over.
pub fn import_id(planned: &ResourceChange, inventory: &Inventory) -> Option<String> {
    let after = &planned.change.after;
    let text = |name: &str| after[name].as_str().map(str::to_owned);
    match planned.kind.as_str() {
        // Its name is its id. Asking for it by name finds also what was not tagged yet.
        "aws_s3_bucket" => text("bucket"),
        "aws_db_instance" => text("identifier"),
        "aws_cloudwatch_log_group" | "aws_db_parameter_group" | "aws_db_subnet_group" | "aws_kms_alias" => {
            text("name")
        }
        "aws_iam_role" => text("name").filter(|name| inventory.roles.contains(name)),
        // The cloud adds a hyphen and six characters to its name.
        "aws_secretsmanager_secret" => {
            let name = text("name")?;
            let found = inventory.tagged.keys().find(|arn| {
                arn.split_once(":secret:").is_some_and(|(_, full)| {
                    full.strip_prefix(name.as_str())
                        .is_some_and(|rest| rest.len() == 7 && rest.starts_with('-'))
                })
            });
            found.cloned()
        }
        "aws_kms_key" => last(inventory.named(":key/", after["tags"]["Name"].as_str()?)?),
        "aws_vpc_security_group_ingress_rule" => {
            last(inventory.named(":security-group-rule/", after["tags"]["Name"].as_str()?)?)
        }
        "aws_security_group" => last(inventory.named(":security-group/", after["tags"]["Name"].as_str()?)?),
        _ => None,
    }
}

/// `…:key/1234` is known as `1234`.
fn last(arn: &str) -> Option<String> {
    arn.rsplit_once('/').map(|(_, id)| id.to_owned())
}

/// The server that a nightly backup is of: the cloud makes it, with the server's tags, and removes it with the server.
fn backed_up(arn: &str) -> Option<String> {
    let (before, name) = arn.split_once(":snapshot:rds:")?;
    let server = name.get(..name.len().checked_sub("-2026-01-02-03-04".len())?)?;
    Some(format!("{before}:db:{server}"))
}

/// What is there and in no state. `known` are the ARNs and the roles' names of all states.
pub fn orphans(inventory: &Inventory, known: &BTreeSet<String>) -> Vec<String> {
    let arns = inventory.tagged.keys().filter(|arn| {
        // Log groups are listed with and without the star at the end.
        !known.contains(*arn)
            && !known.contains(arn.trim_end_matches(":*"))
            && !backed_up(arn).is_some_and(|server| known.contains(&server))
    });
    let roles = inventory.roles.iter().filter(|name| !known.contains(*name));
    arns.chain(roles).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn planned(kind: &str, after: Value) -> ResourceChange {
        let json = json!({ "address": "x", "type": kind, "mode": "managed",
            "change": { "actions": ["create"], "after": after } });
        serde_json::from_value(json).expect("a change")
    }

    fn inventory() -> Inventory {
        let name = |name: &str| json!({ "Name": name, "freehold:environment": "dev" });
        let json = json!({
            "tagged": {
                "arn:aws:kms:us-east-1:1:key/k-1": name("dev-t-0"),
                "arn:aws:kms:us-east-1:1:key/k-2": name("dev-t-1"),
                "arn:aws:ec2:us-east-1:1:security-group/sg-1": name("dev-shard-a"),
                "arn:aws:ec2:us-east-1:1:security-group-rule/sgr-1": name("dev-shard-a-app"),
                "arn:aws:secretsmanager:us-east-1:1:secret:dev/tenant/ten_10-AbCdEf": {},
                "arn:aws:secretsmanager:us-east-1:1:secret:dev/tenant/ten_1-AbCdEf": {},
            },
            "roles": ["dev-t-1"],
        });
        serde_json::from_value(json).expect("an inventory")
    }

    #[test]
    fn what_is_there_is_found_again() {
        for (kind, after, id) in [
            ("aws_s3_bucket", json!({ "bucket": "dev-t-1" }), Some("dev-t-1")),
            ("aws_db_instance", json!({ "identifier": "dev-shard-a" }), Some("dev-shard-a")),
            ("aws_iam_role", json!({ "name": "dev-t-1" }), Some("dev-t-1")),
            ("aws_iam_role", json!({ "name": "dev-t-2" }), None),
            ("aws_kms_key", json!({ "tags": { "Name": "dev-t-1" } }), Some("k-2")),
            ("aws_kms_key", json!({ "tags": { "Name": "dev-t-3" } }), None),
            ("aws_kms_key", json!({ "tags": null }), None),
            ("aws_security_group", json!({ "tags": { "Name": "dev-shard-a" } }), Some("sg-1")),
            (
                "aws_vpc_security_group_ingress_rule",
                json!({ "tags": { "Name": "dev-shard-a-app" } }),
                Some("sgr-1"),
            ),
            ("aws_s3_bucket_versioning", json!({ "bucket": "dev-t-1" }), None),
        ] {
            assert_eq!(
                import_id(&planned(kind, after.clone()), &inventory()).as_deref(),
                id,
                "{kind} {after}"
            );
        }
    }

    /// Shown to fail: with `starts_with(name)` alone, which takes the secret of `ten_10` for that of `ten_1`.
    #[test]
    fn a_secret_is_found_by_its_whole_name() {
        let found = import_id(
            &planned("aws_secretsmanager_secret", json!({ "name": "dev/tenant/ten_1" })),
            &inventory(),
        );
        assert_eq!(
            found.as_deref(),
            Some("arn:aws:secretsmanager:us-east-1:1:secret:dev/tenant/ten_1-AbCdEf")
        );
        let none = planned("aws_secretsmanager_secret", json!({ "name": "dev/tenant/ten_" }));
        assert_eq!(import_id(&none, &inventory()), None);
    }

    #[test]
    fn what_no_state_knows_is_an_orphan() {
        let mut known: BTreeSet<String> = inventory().tagged.into_keys().collect();
        assert_eq!(orphans(&inventory(), &known), ["dev-t-1"]);
        known.insert("dev-t-1".to_owned());
        assert!(orphans(&inventory(), &known).is_empty());
        known.remove("arn:aws:kms:us-east-1:1:key/k-1");
        assert_eq!(orphans(&inventory(), &known), ["arn:aws:kms:us-east-1:1:key/k-1"]);
    }

    /// Found by `make chaos ARGS='--only cloud'`, which listed a backup of every living server.
    #[test]
    fn a_servers_backups_are_its_own() {
        let arn = |rest: &str| format!("arn:aws:rds:us-east-1:1:{rest}");
        let nightly = |server: &str| arn(&format!("snapshot:rds:{server}-2026-01-02-03-04"));
        let tagged = [nightly("dev-shard-a"), nightly("dev-shard-gone"), arn("snapshot:rds:short")];
        let tagged = tagged.map(|arn| (arn, BTreeMap::new())).into();
        let known = BTreeSet::from([arn("db:dev-shard-a")]);
        let found = orphans(&Inventory { tagged, roles: Vec::new() }, &known);
        assert_eq!(found, [nightly("dev-shard-gone"), arn("snapshot:rds:short")]);
    }
}
