//! A world with a cloud: the real Terraform, the real provider, and a stand-in for AWS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection;
use tokio::process::Command;

use super::Plan;
use crate::app;
use crate::control_plane::access::{tenant_delete, tenant_purge};
use crate::control_plane::infra::Cloud;
use crate::control_plane::infra::owners;
use crate::control_plane::infra::resources::ResourcesState;
use crate::control_plane::infra::settings::InfraSettings;
use crate::control_plane::provisioning::NewTenant;
use crate::control_plane::tenants::{TenantDetail, TenantRef, TenantState, tenant_show};
use crate::kernel::ids::TenantId;
use crate::kernel::{Result, codes};
use crate::product::{Current, Product};
use crate::testkit::process::{Launch, Process, Programs};
use crate::testkit::{Cluster, Inventory, Moto, World, WorldOptions, eventually, plugin_mirror, tester};

/// Minutes are waited for, with others at work: a look now and then will do.
pub const LOOK: Duration = Duration::from_millis(500);
/// Longer than a machine takes that has nothing else to do: a server takes a minute and a half to be made, by its provider's
/// own clock, and longer to go.
pub const PATIENCE: Duration = Duration::from_secs(9 * 60);

/// The world, its cloud, and what a worker needs to provision there.
pub struct Sky {
    pub world: World,
    moto: Moto,
    programs: Programs,
    binary: PathBuf,
    settings: PathBuf,
    /// Where Terraform's runs have their folders. Others may work there, on environments of their own.
    work: PathBuf,
    environment: String,
}

/// A Terraform at work for this environment.
#[derive(Clone, Debug)]
pub struct AtWork {
    pub pid: i32,
    /// `plan`, `apply`, `import`, …
    pub command: String,
}

impl Sky {
    /// `binary` is `freehold`, `work` a folder where the provider is unpacked and stays.
    pub async fn new(binary: &str, work: &Path, plan: &Plan) -> Self {
        let options = WorldOptions { shards: 2, tenant_cap: 1_000, slots: 2, tables: Current::migrations() };
        let mut world = World::with(options).await;
        let moto = Moto::shared().await;
        let cluster = Cluster::shared().await;
        let states = cluster.server(0).admin_url(&cluster.server(0).create_database("states", None).await);
        let folder = world.folder.path().to_owned();
        // The end of an id is random.
        let id = TenantId::new().to_string();
        let environment = format!("e{}", &id[id.len() - 11..]);
        write(&folder.join("states.dsn"), &states);
        write(&folder.join("servers.dsn"), &cluster.server(1).admin_url("postgres"));
        std::fs::create_dir_all(work).expect("a folder for Terraform");
        let work = work.canonicalize().expect("its path");
        let settings = folder.join("infra.toml");
        write(&settings, &settings_text(&folder, &work, &environment, &moto, plan.at_once));
        world.hands.cloud = cloud(&settings);
        world.sell_dedicated().await;
        let programs = Programs::new(binary, &world).await;
        Self { world, moto, programs, binary: binary.into(), settings, work, environment }
    }

    /// A worker that provisions. Started again, it is the same one.
    pub fn launch(&self) -> Launch {
        Launch::worker().env("FREEHOLD_INFRA", self.settings.display())
    }

    pub async fn start(&self, launch: &Launch) -> Process {
        self.programs.start(launch.clone()).await
    }

    /// Asks for a tenant until it is accepted: while no worker looks, or a machine has too much to do, no shard counts as
    /// one that answers.
    pub async fn create(&self, slug: &str, plan: &str) {
        let new = NewTenant { slug: slug.to_owned(), name: None, plan: Some(plan.to_owned()) };
        eventually(Duration::from_secs(60), "the tenant is accepted", async || {
            self.world.create(&new).await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// The slow ones first.
    pub async fn create_all(&self, prefix: &str, plan: &Plan) -> Vec<String> {
        let dedicated = (0..plan.dedicated).map(|number| (format!("{prefix}d{number}"), "dedicated"));
        let pooled = (0..plan.pooled).map(|number| (format!("{prefix}p{number}"), "business"));
        let mut slugs = Vec::new();
        for (slug, plan) in dedicated.chain(pooled) {
            self.create(&slug, plan).await;
            slugs.push(slug);
        }
        slugs
    }

    /// The tenant; none when it is gone.
    async fn tenant(&self, slug: &str) -> Option<TenantDetail> {
        match tenant_show(&self.world.hands.cp, &named(slug)).await {
            Ok(tenant) => Some(tenant),
            Err(error) if error.is(&codes::TENANT_NOT_FOUND) => None,
            Err(error) => panic!("{slug}: {error:?}"),
        }
    }

    /// Whether the tenant is active and has all that it is to have; what is missing, if not.
    pub async fn is_ready(&self, slug: &str) -> Result<(), String> {
        let Some(tenant) = self.tenant(slug).await else { return Err(format!("{slug} is gone")) };
        if ready(&tenant) {
            return Ok(());
        }
        let open = self.open_runs(Some(tenant.tenant.id)).await;
        Err(format!("{slug}: {} {:?} {open:?}", tenant.tenant.state, tenant.resources))
    }

    /// Runs that are neither done nor undone, with what stands in their way.
    async fn open_runs(&self, tenant: Option<TenantId>) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT kind || ' ' || state || ' ' || attempts || ' ' || coalesce(error, '') FROM run
              WHERE state NOT IN ('done', 'undone') AND ($1::uuid IS NULL OR tenant = $1)",
        )
        .bind(tenant)
        .fetch_all(self.world.db())
        .await
        .expect("the control database answers")
    }

    /// Waits until every tenant is ready and nothing is left to do.
    pub async fn all_ready(&self, slugs: &[String]) {
        eventually(PATIENCE, "every tenant is ready", async || {
            tokio::time::sleep(LOOK).await;
            for slug in slugs {
                self.is_ready(slug).await?;
            }
            nothing_open(&self.open_runs(None).await)
        })
        .await;
    }

    /// Asks for the end of each that is not on its way out yet: first to be deleted, then, when that is done, to be purged.
    /// Gives those that are not gone.
    pub async fn send_off(&self, slugs: &[String]) -> Vec<String> {
        let cp = &self.world.hands.cp;
        let mut left = Vec::new();
        for slug in slugs {
            let Some(tenant) = self.tenant(slug).await else { continue };
            let named = TenantRef::Id(tenant.tenant.id);
            // Refused as long as another run of the tenant is open: asked again at the next look.
            let asked = match tenant.tenant.state {
                TenantState::Deleting => tenant_purge(cp, &tester(), &named, true).await,
                _ if ready(&tenant) => tenant_delete(cp, &tester(), &named, "chaos").await,
                state => {
                    left.push(format!("{slug}: {state}"));
                    continue;
                }
            };
            left.push(format!("{slug}: {:?}", asked.err().map(|error| error.to_string())));
        }
        left
    }

    /// Waits until all are gone.
    pub async fn all_gone(&self, slugs: &[String]) {
        eventually(PATIENCE, "every tenant is gone", async || {
            tokio::time::sleep(LOOK).await;
            let left = self.send_off(slugs).await;
            if !left.is_empty() {
                return Err(format!("{left:?}; {:?}", self.open_runs(None).await));
            }
            nothing_open(&self.open_runs(None).await)
        })
        .await;
    }

    /// What the cloud says is there.
    pub async fn inventory(&self) -> Inventory {
        self.moto.inventory(&self.environment).await
    }

    /// The servers in the cloud: the cloud's own number of each by its name.
    pub async fn servers(&self) -> std::collections::BTreeMap<String, String> {
        self.moto.servers(&self.environment).await
    }

    /// What is in the cloud and in no state, by the root `inventory`. A look that fails is made again.
    pub async fn orphans(&self) -> Vec<String> {
        eventually(Duration::from_secs(120), "the cloud says what is there", async || {
            owners::orphans(&self.world.hands).await.map_err(|error| format!("{error:?}"))
        })
        .await
    }

    /// Databases that stood for these servers, and are there still.
    pub async fn databases_of(&self, servers: impl Iterator<Item = &String>) -> i64 {
        let before = format!("{}-shard-", self.environment);
        let names: Vec<String> = servers
            .filter_map(|server| server.strip_prefix(&before))
            .map(|name| format!("made_{}", name.replace('-', "_")))
            .collect();
        let url = Cluster::shared().await.server(1).admin_url("postgres");
        let mut conn = sqlx::PgConnection::connect(&url).await.expect("a server of this machine");
        sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = ANY ($1)")
            .bind(names)
            .fetch_one(&mut conn)
            .await
            .expect("an answer")
    }

    /// `freehold infra …`: whether it ended well, and what it said.
    pub async fn infra(&self, args: &[&str]) -> (bool, String) {
        let done = Command::new(&self.binary)
            .arg("infra")
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("FREEHOLD_CONTROL_URL", &self.world.control_url)
            .env("FREEHOLD_MASTER_KEY", &self.world.master_hex)
            .env("FREEHOLD_HOME", self.world.folder.path())
            .env("FREEHOLD_INFRA", &self.settings)
            .output()
            .await
            .expect("the command runs");
        let text = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Changes a tenant's log group behind everybody's back.
    pub async fn meddle(&self, slug: &str) {
        let id = self.tenant(slug).await.expect("it is there").tenant.id;
        let group = format!("/{}/tenant/{id}", self.environment);
        let body = json!({ "logGroupName": group, "retentionInDays": 3 });
        self.moto.ask("logs", "Logs_20140328.PutRetentionPolicy", &body).await;
    }

    /// Terraforms at work for this environment.
    pub fn terraforms(&self) -> Vec<AtWork> {
        let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
        let ours = all.filter_map(std::result::Result::ok).filter_map(|one| {
            let pid: i32 = one.file_name().to_str()?.parse().ok()?;
            let here = std::fs::read_link(one.path().join("cwd")).ok()?;
            if !here.starts_with(self.work.join("runs")) {
                return None;
            }
            // Beside the root that it stands in.
            let inputs = std::fs::read_to_string(here.parent()?.join("inputs.tfvars.json")).ok()?;
            let said = std::fs::read(one.path().join("cmdline")).ok()?;
            let mut words = said.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            let (program, command) = (words.next()?, words.next()?);
            let ours = inputs.contains(&format!("\"environment\":\"{}\"", self.environment));
            let terraform = Path::new(&*program).file_name().is_some_and(|name| name == "terraform");
            (ours && terraform).then(|| AtWork { pid, command: command.into_owned() })
        });
        ours.collect()
    }
}

fn ready(tenant: &TenantDetail) -> bool {
    tenant.tenant.state == TenantState::Active && tenant.resources == Some(ResourcesState::Ready)
}

fn nothing_open(open: &[String]) -> Result<(), String> {
    if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
}

fn named(slug: &str) -> TenantRef {
    TenantRef::Slug(slug.to_owned())
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn cloud(settings: &Path) -> Cloud {
    let settings = InfraSettings::of(Some(settings)).expect("the settings that were written");
    app::cloud(settings).expect("a cloud")
}

fn settings_text(folder: &Path, work: &Path, environment: &str, moto: &Moto, at_once: u16) -> String {
    let roots = Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform");
    let env: Vec<String> = moto.env().iter().map(|(name, value)| format!("{name} = \"{value}\"")).collect();
    let mirror = plugin_mirror().map_or(String::new(), |mirror| format!("mirror = \"{}\"", mirror.display()));
    let network: &Value = moto.network();
    format!(
        "provisioner = \"terraform\"\nenvironment = \"{environment}\"\nlock_timeout_seconds = 60\nat_once = {at_once}\n{mirror}
roots = \"{roots}\"\nwork = \"{work}\"\nstate_url = \"file:{folder}/states.dsn\"
[env]\n{env}
[platform]\naccount_id = \"123456789012\"\nregion = \"us-east-1\"\nshared_bucket = \"shared\"\napp_task_role_id = \"app\"
[network]\nvpc_id = {vpc}\ndata_subnet_ids = {subnets}\nclient_security_group_ids = {{ app = {group} }}
[dedicated.inputs.shard]\nmulti_az = false
[stand_in]\nserver = \"file:{folder}/servers.dsn\"\n",
        roots = roots.display(),
        work = work.display(),
        folder = folder.display(),
        env = env.join("\n"),
        vpc = network["vpc_id"],
        subnets = network["data_subnet_ids"],
        group = network["client_security_group_ids"]["app"],
    )
}
