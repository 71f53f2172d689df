//! What the control plane asks of a cloud, by Terraform: a tenant's resources, made and removed.

use serde_json::{Map, Value, json};

use super::allow::Allowed;
use super::progress::Progress;
use super::{Root, Task, Terraform};
use crate::control_plane::infra::settings::{InfraSettings, Provisioner};
use crate::control_plane::infra::{Cloud, TenantCloud};
use crate::jobs::run::RunProgress;
use crate::kernel::{Error, Result, codes};

/// Names that a report gives at most: the rest of a hundred in flight is told by the numbers.
const NAMED: usize = 5;

/// By these settings: nothing, or Terraform. Nothing is started yet.
///
/// # Errors
/// `bad_request` when the settings lack what tenants' resources are made of.
pub fn cloud(settings: InfraSettings) -> Result<Cloud> {
    if settings.provisioner == Provisioner::None {
        return Ok(Cloud::default());
    }
    if !settings.platform.is_object() {
        return Err(Error::new(&codes::BAD_REQUEST)
            .detail("the infrastructure settings: [platform] is missing")
            .hint("it is the platform root's output: account_id, region, shared_bucket, app_task_role_id"));
    }
    let terraform = Terraform::new(settings.clone())?;
    let (makes, removes) = ((terraform.clone(), settings.clone()), (terraform, settings));
    Ok(Cloud::new(
        move |whose, report| {
            let (terraform, settings) = makes.clone();
            Box::pin(async move {
                let task = tenant(&settings, &whose, Protection::On);
                terraform.apply(&task, &mut |progress| report(told(progress))).await
            })
        },
        move |whose, report| {
            let (terraform, settings) = removes.clone();
            Box::pin(async move {
                let task = tenant(&settings, &whose, Protection::Off);
                let allowed = Allowed::DestroyTenant;
                terraform.destroy(&task, allowed, &mut |progress| report(told(progress))).await
            })
        },
    ))
}

/// Whether what is made is kept from being removed by accident.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protection {
    On,
    Off,
}

fn tenant(settings: &InfraSettings, whose: &TenantCloud, protection: Protection) -> Task {
    let id = whose.tenant.to_string();
    let mut tenant = json!({ "id": id, "slug": whose.slug, "tier": whose.tier.as_str() });
    if protection == Protection::Off {
        // A secret in its recovery window blocks its own name, and a bucket that holds something stays.
        tenant["secret_recovery_days"] = json!(0);
        tenant["bucket_force_destroy"] = json!(true);
    }
    let mut inputs = Map::new();
    inputs.insert("environment".to_owned(), Value::from(settings.environment.as_str()));
    inputs.insert("tenant".to_owned(), tenant);
    inputs.insert("platform".to_owned(), settings.platform.clone());
    let secrets = vec![("tenant_secret".to_owned(), whose.secret.clone())];
    Task { root: Root::Tenant, workspace: id, inputs, secrets }
}

fn told(progress: &Progress) -> RunProgress {
    let (done, planned) = progress.count();
    let working = progress.working().iter().take(NAMED).cloned().collect();
    RunProgress { done, planned, working }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::plans::Tier;
    use crate::kernel::ids::TenantId;

    #[test]
    fn nothing_is_provisioned_unless_it_is_said() {
        assert!(!cloud(InfraSettings::default()).expect("nothing").is_there());
        let settings = InfraSettings { provisioner: Provisioner::Terraform, ..InfraSettings::default() };
        let error = cloud(settings).err().expect("no platform");
        assert!(error.public_detail().expect("a detail").contains("[platform]"));
    }

    #[test]
    fn a_secret_is_no_input() {
        let whose = TenantCloud {
            tenant: TenantId::new(),
            slug: "acme".to_owned(),
            tier: Tier::Pooled,
            secret: "canary".to_owned().into(),
        };
        for protection in [Protection::On, Protection::Off] {
            let task = tenant(&InfraSettings::default(), &whose, protection);
            assert!(!serde_json::to_string(&task.inputs).expect("JSON").contains("canary"));
            assert!(!format!("{task:?}").contains("canary"));
            assert_eq!(task.workspace, whose.tenant.to_string());
        }
    }
}
