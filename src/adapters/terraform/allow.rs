//! What a plan may do. It is read as JSON (`terraform show -json`) before anything is changed, and a plan that removes
//! what it should not is refused as a whole.

use serde::Deserialize;

use crate::kernel::{Error, Result, codes};

/// What `terraform show -json` says of a plan, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub struct Plan {
    #[serde(default)]
    pub resource_changes: Vec<ResourceChange>,
    #[serde(default)]
    pub resource_drift: Vec<ResourceChange>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ResourceChange {
    pub address: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub mode: String,
    pub change: Change,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Change {
    #[serde(default)]
    pub actions: Vec<String>,
    /// What it will be, as far as that is known before.
    #[serde(default)]
    pub after: serde_json::Value,
}

impl ResourceChange {
    /// Whether it would be made, and there is none now.
    pub fn creates(&self) -> bool {
        self.mode != "data" && self.change.actions == ["create"]
    }

    /// Whether the resource that is there now will be gone, be it that another takes its place.
    fn removes(&self) -> bool {
        self.mode != "data"
            && self.change.actions.iter().any(|action| action == "delete" || action == "forget")
    }
}

/// What may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// An ordinary apply: what holds no data may be replaced.
    Apply,
    /// The tenant's resources go. Never a database server, which is not the tenant's to take along.
    DestroyTenant,
    /// The shard goes, the database server with it.
    DestroyShard,
}

/// What an ordinary change may replace. It holds nothing that a customer would miss, and it is not a list of what is
/// forbidden: a type that somebody adds is protected until it is named here.
const REPLACEABLE: &[&str] = &[
    "aws_cloudwatch_metric_alarm",
    "aws_iam_role_policy",
    "aws_secretsmanager_secret_version",
    "aws_vpc_security_group_ingress_rule",
    "aws_vpc_security_group_egress_rule",
    "aws_db_parameter_group",
    "terraform_data",
];

/// All that `modules/tenant` makes.
const TENANT: &[&str] = &[
    "aws_cloudwatch_log_group",
    "aws_iam_role",
    "aws_iam_role_policy",
    "aws_kms_alias",
    "aws_kms_key",
    "aws_s3_bucket",
    "aws_s3_bucket_policy",
    "aws_s3_bucket_public_access_block",
    "aws_s3_bucket_server_side_encryption_configuration",
    "aws_s3_bucket_versioning",
    "aws_secretsmanager_secret",
    "aws_secretsmanager_secret_version",
];

/// All that `modules/shard` makes.
const SHARD: &[&str] = &[
    "aws_cloudwatch_log_group",
    "aws_cloudwatch_metric_alarm",
    "aws_db_instance",
    "aws_db_parameter_group",
    "aws_db_subnet_group",
    "aws_kms_alias",
    "aws_kms_key",
    "aws_secretsmanager_secret",
    "aws_secretsmanager_secret_version",
    "aws_security_group",
    "aws_vpc_security_group_ingress_rule",
];

impl Allowed {
    const fn types(self) -> &'static [&'static str] {
        match self {
            Self::Apply => REPLACEABLE,
            Self::DestroyTenant => TENANT,
            Self::DestroyShard => SHARD,
        }
    }
}

/// Whether an ordinary change may replace it.
pub fn is_replaceable(kind: &str) -> bool {
    REPLACEABLE.contains(&kind)
}

/// Reads a plan.
///
/// # Errors
/// `infra_failed` when it is not what it should be: what cannot be read cannot be allowed.
pub fn read(json: &[u8]) -> Result<Plan> {
    serde_json::from_slice(json).map_err(|error| {
        Error::new(&codes::INFRA_FAILED).detail("Terraform's plan cannot be read").source(error)
    })
}

/// # Errors
/// `infra_refused` with the addresses of what the plan would remove and must not.
pub fn check(plan: &Plan, allowed: Allowed) -> Result<()> {
    let refused: Vec<&str> = plan
        .resource_changes
        .iter()
        .filter(|change| change.removes() && !allowed.types().contains(&change.kind.as_str()))
        .map(|change| change.address.as_str())
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(Error::new(&codes::INFRA_REFUSED)
        .detail(format!("the plan would remove or replace {}: nothing was changed", refused.join(", ")))
        .hint("see it whole with: freehold infra plan"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: &str, actions: &[&str]) -> Plan {
        let json = serde_json::json!({ "format_version": "1.2", "resource_changes": [
            { "address": format!("module.x.{kind}.this"), "type": kind, "mode": "managed",
              "change": { "actions": actions, "before": {}, "after": null } },
        ] });
        read(json.to_string().as_bytes()).expect("a plan")
    }

    /// Shown to fail: with `removes` looking at `["delete"]` alone.
    #[test]
    fn a_database_server_is_never_replaced() {
        for actions in [&["delete", "create"][..], &["create", "delete"], &["delete"], &["forget"]] {
            for allowed in [Allowed::Apply, Allowed::DestroyTenant] {
                let error = check(&plan("aws_db_instance", actions), allowed).expect_err("refused");
                assert!(error.is(&codes::INFRA_REFUSED));
                assert!(error.public_detail().expect("a detail").contains("module.x.aws_db_instance.this"));
            }
        }
        check(&plan("aws_db_instance", &["update"]), Allowed::Apply).expect("changed in place");
        check(&plan("aws_db_instance", &["create"]), Allowed::Apply).expect("made");
        check(&plan("aws_db_instance", &["delete"]), Allowed::DestroyShard).expect("the shard goes");
    }

    #[test]
    fn a_type_that_is_not_known_is_protected() {
        for allowed in [Allowed::Apply, Allowed::DestroyTenant, Allowed::DestroyShard] {
            check(&plan("aws_dynamodb_table", &["delete"]), allowed).expect_err("refused");
        }
    }

    #[test]
    fn data_is_only_read() {
        let json = r#"{"resource_changes":[{"address":"data.a.b","type":"aws_x","mode":"data","change":{"actions":["delete"]}}]}"#;
        check(&read(json.as_bytes()).expect("a plan"), Allowed::Apply).expect("nothing is removed");
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        assert!(read(b"panic: x").expect_err("no plan").is(&codes::INFRA_FAILED));
    }

    /// The lists follow the modules: what a module makes can be destroyed, or the purge of a tenant would be stuck.
    #[test]
    fn every_type_of_a_module_is_on_its_list() {
        for (module, allowed) in [("tenant", Allowed::DestroyTenant), ("shard", Allowed::DestroyShard)] {
            let folder =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform/modules").join(module);
            let mut seen = std::collections::BTreeSet::new();
            for file in
                std::fs::read_dir(folder).expect("the module").map(|file| file.expect("a file").path())
            {
                if file.extension().is_some_and(|end| end == "tf") {
                    let text = std::fs::read_to_string(&file).expect("its text");
                    let types = text.lines().filter_map(|line| line.strip_prefix("resource \""));
                    seen.extend(types.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
                }
            }
            let listed: std::collections::BTreeSet<String> =
                allowed.types().iter().map(|kind| (*kind).to_owned()).collect();
            assert_eq!(seen, listed, "modules/{module}");
        }
    }
}
