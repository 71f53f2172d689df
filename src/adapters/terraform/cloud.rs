//! What the control plane asks of a cloud, by Terraform.

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use sqlx::postgres::PgConnectOptions;

use super::allow::Allowed;
use super::events::Action;
use super::progress::Progress;
use super::{Root, Task, Terraform};
use crate::control_plane::infra::settings::{InfraSettings, Provisioner, RootSettings};
use crate::control_plane::infra::targets::may_apply;
use crate::control_plane::infra::{
    Changed, Cloud, MadeFor, Planned, Provision, Recorded, Report, ShardCloud, Shown, Target, TenantCloud,
};
use crate::db::stand_in;
use crate::jobs::run::RunProgress;
use crate::kernel::{Error, Result, codes};

/// Names that a report gives at most: the rest of a hundred in flight is told by the numbers.
const NAMED: usize = 5;

/// By these settings: nothing, or Terraform. Nothing is started yet.
///
/// # Errors
/// `bad_request` when the settings lack the state database.
pub fn cloud(settings: InfraSettings) -> Result<Cloud> {
    match settings.provisioner {
        Provisioner::None => Ok(Cloud::default()),
        Provisioner::Terraform => {
            let stand_in = match &settings.stand_in {
                Some(given) => Some(stand_in::server(&given.server.read()?)?),
                None => None,
            };
            let terraform = Terraform::new(settings.clone())?;
            Ok(Cloud::new(ByTerraform { terraform, settings, stand_in }))
        }
    }
}

struct ByTerraform {
    terraform: Terraform,
    settings: InfraSettings,
    /// Where the databases of a stand-in's servers are.
    stand_in: Option<PgConnectOptions>,
}

impl ByTerraform {
    /// How the admin reaches a server that was made for a tenant, without the password.
    async fn address(&self, shard: &ShardCloud, made_for: &MadeFor, output: &Value) -> Result<String> {
        if let Some(server) = &self.stand_in {
            let made = stand_in::make(server, &shard.name, &made_for.admin_password).await?;
            let stand_in::Made { host, port, database, admin } = made;
            return Ok(format!("postgres://{admin}@{host}:{port}/{database}?sslmode=disable"));
        }
        let (host, database, admin) = (&output["host"], &output["database"], &output["admin_username"]);
        match (host.as_str(), output["port"].as_u64(), database.as_str(), admin.as_str()) {
            (Some(host), Some(port), Some(database), Some(admin)) => {
                Ok(format!("postgres://{admin}@{host}:{port}/{database}?sslmode=verify-full"))
            }
            _ => {
                Err(Error::new(&codes::INFRA_FAILED)
                    .detail("the server that was made does not say where it is"))
            }
        }
    }
}

impl Provision for ByTerraform {
    fn plan<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Planned>> {
        Box::pin(async move {
            let task = task(&self.settings, target, Protection::On)?;
            let found = self.terraform.plan(&task).await?;
            Ok(Planned { drift: changed(&found.put_right()), changes: changed(&found.changes) })
        })
    }

    fn apply<'a>(&'a self, target: &'a Target, report: Report) -> BoxFuture<'a, Result<Value>> {
        Box::pin(async move {
            may_apply(target)?;
            let task = task(&self.settings, target, Protection::On)?;
            let mut output = self.terraform.apply(&task, &mut |progress| report(told(progress))).await?;
            if let Target::Shard(shard @ ShardCloud { made_for: Some(made_for), .. }) = target {
                output["address"] = Value::from(self.address(shard, made_for, &output).await?);
            }
            Ok(output)
        })
    }

    fn destroy<'a>(&'a self, target: &'a Target, report: Report) -> BoxFuture<'a, Result<Vec<String>>> {
        Box::pin(async move {
            let allowed = match target {
                Target::Tenant(_) => Allowed::DestroyTenant,
                Target::Shard(_) => Allowed::DestroyShard,
                Target::Platform => {
                    return Err(Error::new(&codes::INFRA_REFUSED)
                        .detail("the platform is not destroyed by this program"));
                }
            };
            let task = task(&self.settings, target, Protection::Off)?;
            let kept = self.terraform.destroy(&task, allowed, &mut |progress| report(told(progress))).await?;
            if let (Target::Shard(ShardCloud { name, made_for: Some(_) }), Some(server)) =
                (target, &self.stand_in)
            {
                stand_in::remove(server, name).await?;
            }
            let kept = kept.into_iter();
            Ok(kept
                .flat_map(|one| [format!("snapshot {}", one.snapshot), format!("key {}", one.key)])
                .collect())
        })
    }

    fn show<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Shown>> {
        Box::pin(async move {
            let task = task(&self.settings, target, Protection::On)?;
            let state = self.terraform.state(&task).await?;
            let resources = state.resources().into_iter().map(|one| one.address).collect();
            let output = match task.root {
                // Both are what the settings repeat.
                Root::Platform if !state.output("platform").is_null() => {
                    json!({ "platform": state.output("platform"), "network": state.output("network") })
                }
                root => state.output(root.as_str()),
            };
            let servers = state.servers().into_iter().filter_map(|server| server.host).collect();
            Ok(Shown { resources, servers, output })
        })
    }

    fn makes_servers(&self) -> bool {
        self.settings.network.is_object()
    }

    fn standing(&self) -> Vec<Target> {
        let shards = self.settings.shard.keys();
        let shards = shards.map(|name| Target::Shard(ShardCloud { name: name.clone(), made_for: None }));
        // Who writes nothing about the platform has another make it.
        let platform = (!self.settings.platform_root.inputs.is_empty()).then_some(Target::Platform);
        platform.into_iter().chain(shards).collect()
    }

    fn orphans<'a>(&'a self, at_work: &'a [String]) -> BoxFuture<'a, Result<Vec<String>>> {
        Box::pin(self.terraform.orphans(at_work))
    }

    fn states(&self) -> BoxFuture<'_, Result<Vec<Recorded>>> {
        Box::pin(async move {
            let all = self.terraform.states().await?.into_iter();
            let named = |name: &String| self.settings.shard.contains_key(name);
            Ok(all
                .filter_map(|(root, name)| match root {
                    Root::Shard if !named(&name) => Some(Recorded::Shard(name)),
                    Root::Tenant => Some(Recorded::Tenant(name)),
                    Root::Shard | Root::Platform | Root::Inventory => None,
                })
                .collect())
        })
    }
}

/// Whether what is made is kept from being removed by accident.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protection {
    On,
    Off,
}

fn task(settings: &InfraSettings, target: &Target, protection: Protection) -> Result<Task> {
    match target {
        Target::Tenant(whose) => tenant(settings, whose, protection),
        Target::Shard(whose) => shard(settings, whose, protection),
        Target::Platform => {
            let root = &settings.platform_root;
            let mut inputs = root.inputs.clone();
            inputs.insert("environment".to_owned(), Value::from(settings.environment.as_str()));
            Ok(Task {
                root: Root::Platform,
                workspace: settings.environment.clone(),
                inputs,
                secrets: secrets(root)?,
                once: false,
            })
        }
    }
}

fn tenant(settings: &InfraSettings, whose: &TenantCloud, protection: Protection) -> Result<Task> {
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
    inputs.insert("platform".to_owned(), given(&settings.platform, "platform")?);
    let secrets = vec![("tenant_secret".to_owned(), whose.secret.clone())];
    Ok(Task { root: Root::Tenant, workspace: id, inputs, secrets, once: true })
}

fn shard(settings: &InfraSettings, whose: &ShardCloud, protection: Protection) -> Result<Task> {
    let name = whose.name.as_str();
    let (mut inputs, secrets) = match &whose.made_for {
        Some(made_for) => {
            let mut inputs = settings.dedicated.inputs.clone();
            inputs.insert("tenant_id".to_owned(), Value::from(made_for.tenant.to_string()));
            (inputs, vec![("admin_password".to_owned(), made_for.admin_password.clone())])
        }
        None => {
            let root = settings.shard.get(name).ok_or_else(|| {
                Error::new(&codes::NOT_FOUND)
                    .detail(format!("the infrastructure settings know no shard {name:?}"))
                    .hint("add [shard.<name>.inputs] and [shard.<name>.secrets] to them")
            })?;
            (root.inputs.clone(), secrets(root)?)
        }
    };
    let mut shard = inputs.remove("shard").unwrap_or_else(|| json!({}));
    let fields =
        shard.as_object_mut().ok_or_else(|| wrong(format!("shard.{name}.inputs.shard is no table")))?;
    fields.insert("name".to_owned(), Value::from(name));
    if protection == Protection::Off {
        // The last snapshot of a shared one stays: it is the only copy there will be.
        fields.insert("deletion_protection".to_owned(), json!(false));
        fields.insert("secret_recovery_days".to_owned(), json!(0));
        if whose.made_for.is_some() {
            // Its tenant was purged, or never was: nothing of it is kept.
            fields.insert("final_snapshot".to_owned(), json!(false));
        }
    }
    inputs.insert("shard".to_owned(), shard);
    inputs.insert("environment".to_owned(), Value::from(settings.environment.as_str()));
    inputs.insert("network".to_owned(), given(&settings.network, "network")?);
    Ok(Task {
        root: Root::Shard,
        workspace: name.to_owned(),
        inputs,
        secrets,
        once: whose.made_for.is_some(),
    })
}

/// What the platform root has said, and the settings must repeat.
fn given(table: &Value, name: &str) -> Result<Value> {
    if table.is_object() {
        return Ok(table.clone());
    }
    Err(wrong(format!("[{name}] is missing")).hint("it is an output of: freehold infra show platform"))
}

fn wrong(why: String) -> Error {
    Error::new(&codes::BAD_REQUEST).detail(format!("the infrastructure settings: {why}"))
}

fn secrets(root: &RootSettings) -> Result<Vec<(String, secrecy::SecretString)>> {
    root.secrets.iter().map(|(name, secret)| Ok((name.clone(), secret.read()?))).collect()
}

fn changed(all: &[(String, Action)]) -> Vec<Changed> {
    all.iter()
        .map(|(address, action)| Changed { address: address.clone(), action: action.to_string() })
        .collect()
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

    fn settings() -> InfraSettings {
        let text = r#"
            environment = "dev"
            [platform]
            region = "eu-central-1"
            [network]
            vpc_id = "vpc-1"
            [shard.eu-1.inputs.shard]
            storage_gib = 200
            [shard.eu-1.secrets]
            admin_password = "file:/nowhere"
        "#;
        InfraSettings::parse(text).expect("settings")
    }

    #[test]
    fn nothing_is_provisioned_unless_it_is_said() {
        assert!(!cloud(InfraSettings::default()).expect("nothing").is_there());
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
            let task = tenant(&settings(), &whose, protection).expect("a task");
            assert!(!serde_json::to_string(&task.inputs).expect("JSON").contains("canary"));
            assert!(!format!("{task:?}").contains("canary"));
            assert_eq!(task.workspace, whose.tenant.to_string());
        }
    }

    fn named(name: &str) -> ShardCloud {
        ShardCloud { name: name.to_owned(), made_for: None }
    }

    /// What is removed with a tenant leaves no snapshot of it; what is shared does.
    #[test]
    fn a_server_of_a_tenants_own_needs_no_settings_of_its_own() {
        let tenant = TenantId::new();
        let made_for = Some(MadeFor { tenant, admin_password: "canary".to_owned().into() });
        let whose = ShardCloud { name: "d-1".to_owned(), made_for };
        let on = shard(&settings(), &whose, Protection::On).expect("a task");
        assert_eq!(on.inputs["tenant_id"], tenant.to_string());
        assert_eq!(on.inputs["shard"], json!({ "name": "d-1" }));
        assert_eq!((on.workspace.as_str(), on.once), ("d-1", true));
        let off = shard(&settings(), &whose, Protection::Off).expect("a task");
        assert_eq!(off.inputs["shard"]["final_snapshot"], false);
        assert_eq!(off.inputs["shard"]["deletion_protection"], false);
        for task in [on, off] {
            assert!(!serde_json::to_string(&task.inputs).expect("JSON").contains("canary"));
            assert_eq!(task.secrets[0].0, "admin_password");
        }
    }

    #[test]
    fn what_the_settings_lack_is_named() {
        let error = shard(&settings(), &named("us-1"), Protection::On).expect_err("an unknown shard");
        assert!(error.is(&codes::NOT_FOUND));
        // Its password's file is not there.
        let error = shard(&settings(), &named("eu-1"), Protection::On).expect_err("no password");
        assert!(error.public_detail().expect("a detail").contains("file:/nowhere"));
        let bare = InfraSettings::default();
        let error = given(&bare.platform, "platform").expect_err("no platform");
        assert!(error.public_detail().expect("a detail").contains("[platform]"));
    }
}
