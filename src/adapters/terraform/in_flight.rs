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

/// The server that a nightly backup is of, by its account and its name: the cloud makes it, with the server's tags, and
/// removes it with the server, or some weeks after that where there is a last snapshot.
fn backed_up(arn: &str) -> Option<(&str, &str)> {
    let (before, name) = arn.split_once(":snapshot:rds:")?;
    Some((before, name.get(..name.len().checked_sub("-2026-01-02-03-04".len())?)?))
}

/// What the module `shard` calls the last snapshots of a server.
fn last_of(server: &str) -> String {
    format!("{server}-final-")
}

/// A last snapshot of a shared server, kept on purpose. What was one tenant's alone is kept of nobody.
fn is_kept(arn: &str, tags: &BTreeMap<String, String>) -> bool {
    let name = arn.split_once(":snapshot:").map(|(_, name)| name);
    name.is_some_and(|name| !name.starts_with("rds:") && name.contains("-final-"))
        && !tags.contains_key("freehold:tenant")
}

/// Whether it is part of something known, made by the cloud itself with the tags of that.
fn is_part(arn: &str, inventory: &Inventory, known: &BTreeSet<String>) -> bool {
    // Of a service: its tasks, and former recipes for them.
    if let Some((before, rest)) = arn.split_once(":task/") {
        let cluster = rest.split('/').next().unwrap_or(rest);
        return known.contains(&format!("{before}:cluster/{cluster}"));
    }
    if let Some((family, _)) = arn.rsplit_once(':').filter(|_| arn.contains(":task-definition/")) {
        let recipe = format!("{family}:");
        return known.iter().any(|one| one.starts_with(&recipe));
    }
    // Of a cache: its nodes, `prod-cache-001`.
    if let Some((before, node)) = arn.split_once(":cluster:").filter(|_| arn.contains(":elasticache:")) {
        let group = node.rsplit_once('-').map_or(node, |(group, _)| group);
        return known.contains(&format!("{before}:replicationgroup:{group}"));
    }
    if let Some((_, gateway)) = arn.split_once(":natgateway/") {
        return known.contains(gateway);
    }
    backed_up(arn).is_some_and(|(before, server)| {
        let last = format!("{before}:snapshot:{}", last_of(server));
        known.contains(&format!("{before}:db:{server}"))
            || inventory.tagged.iter().any(|(arn, tags)| arn.starts_with(&last) && is_kept(arn, tags))
    })
}

/// Names of the roles that the modules make. Whatever else of a company's begins with the environment's name is none of ours.
pub fn roles_of(environment: &str) -> String {
    format!("^{environment}-(t|app|network)-")
}

/// What is there and in no state. `known` are the ARNs and the roles' names of all states.
pub fn orphans(inventory: &Inventory, known: &BTreeSet<String>) -> Vec<String> {
    let arns = inventory.tagged.iter().filter(|(arn, tags)| {
        // Log groups are listed with and without the star at the end.
        !known.contains(*arn)
            && !known.contains(arn.trim_end_matches(":*"))
            && !is_kept(arn, tags)
            && !is_part(arn, inventory, known)
    });
    let arns = arns.map(|(arn, _)| arn);
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
        let mut inventory = Inventory { tagged, roles: Vec::new() };
        assert_eq!(orphans(&inventory, &known), [nightly("dev-shard-gone"), arn("snapshot:rds:short")]);
        // A server that was removed, and whose last snapshot is kept.
        let last = arn("snapshot:dev-shard-gone-final-1a2b3c4d");
        inventory.tagged.insert(last.clone(), BTreeMap::new());
        assert_eq!(orphans(&inventory, &known), [arn("snapshot:rds:short")]);
        // Of a tenant's own server nothing is kept.
        let tags = BTreeMap::from([("freehold:tenant".to_owned(), "ten_1".to_owned())]);
        inventory.tagged.insert(last.clone(), tags);
        assert_eq!(orphans(&inventory, &known).len(), 3);
    }

    /// What AWS lists of a platform that is as it should be, by its documents: no test has seen the real one. Each line was an
    /// alarm every night.
    #[test]
    fn a_platform_has_no_orphans() {
        let arn = |rest: &str| format!("arn:aws:{rest}");
        let known = BTreeSet::from([
            arn("ecs:eu-central-1:1:cluster/prod-app"),
            arn("ecs:eu-central-1:1:service/prod-app/server"),
            arn("ecs:eu-central-1:1:task-definition/prod-app-server:7"),
            arn("elasticache:eu-central-1:1:replicationgroup:prod-cache"),
            "nat-1".to_owned(),
        ]);
        let ours = [
            arn("ecs:eu-central-1:1:service/prod-app/server"),
            arn("ecs:eu-central-1:1:task/prod-app/0123"),
            arn("ecs:eu-central-1:1:task-definition/prod-app-server:6"),
            arn("elasticache:eu-central-1:1:cluster:prod-cache-001"),
            arn("ec2:eu-central-1:1:natgateway/nat-1"),
        ];
        let inventory = |arns: &[String]| Inventory {
            tagged: arns.iter().map(|arn| (arn.clone(), BTreeMap::new())).collect(),
            roles: Vec::new(),
        };
        assert_eq!(orphans(&inventory(&ours), &known), [""; 0]);
        let others = [
            arn("ec2:eu-central-1:1:natgateway/nat-2"),
            arn("ecs:eu-central-1:1:task-definition/prod-app:6"),
            arn("ecs:eu-central-1:1:task/other/0123"),
            arn("elasticache:eu-central-1:1:cluster:prod-cache-old-001"),
        ];
        assert_eq!(orphans(&inventory(&others), &known), others);
    }

    /// A company's own roles begin with the environment's name as well.
    #[test]
    fn only_roles_that_the_modules_make_are_ours() {
        let ours = roles_of("prod");
        assert_eq!(ours, "^prod-(t|app|network)-");
        for (file, name) in [
            ("tenant/main.tf", "-t-"),
            ("app/main.tf", "${var.environment}-app\""),
            ("app/roles.tf", "${local.name}-task"),
            ("network/main.tf", "-network-flow-log"),
        ] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform/modules").join(file);
            assert!(std::fs::read_to_string(path).expect(file).contains(name), "{file}: {name}");
        }
    }
}
