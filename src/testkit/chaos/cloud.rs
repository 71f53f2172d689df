//! Tenants with resources and servers of their own, by the real Terraform and the real provider against a stand-in for AWS;
//! then the same while worker and Terraform are killed again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;

use crate::app;
use crate::control_plane::access::{tenant_delete, tenant_purge};
use crate::control_plane::infra::Cloud;
use crate::control_plane::infra::resources::ResourcesState;
use crate::control_plane::infra::settings::InfraSettings;
use crate::control_plane::provisioning::NewTenant;
use crate::control_plane::tenants::{TenantRef, TenantState, tenant_show};
use crate::product::{Current, Product};
use crate::testkit::figures::{Goal, Spread};
use crate::testkit::process::{Launch, Process, Programs};
use crate::testkit::program::Outcome;
use crate::testkit::{Cluster, Inventory, Moto, World, WorldOptions, eventually, tester};

/// How large it is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub pooled: usize,
    pub dedicated: usize,
    /// Runs of Terraform at once.
    pub at_once: u16,
    /// Of the worker, and as many of Terraform.
    pub kills: usize,
}

/// A world with a cloud, a worker that provisions in it, and this program's own hands on the same.
struct Sky {
    world: World,
    moto: Moto,
    programs: Programs,
    binary: PathBuf,
    settings: PathBuf,
    environment: String,
}

impl Sky {
    async fn new(binary: &str, plan: &Plan) -> Self {
        let options = WorldOptions { shards: 2, tenant_cap: 1_000, slots: 2, tables: Current::migrations() };
        let mut world = World::with(options).await;
        let moto = Moto::shared().await;
        let cluster = Cluster::shared().await;
        let states = cluster.server(0).admin_url(&cluster.server(0).create_database("states", None).await);
        let folder = world.folder.path().to_owned();
        let id = crate::kernel::ids::TenantId::new().to_string();
        let environment = format!("e{}", &id[id.len() - 11..]);
        write(&folder.join("states.dsn"), &states);
        write(&folder.join("servers.dsn"), &cluster.server(1).admin_url("postgres"));
        let settings = folder.join("infra.toml");
        write(&settings, &settings_text(&folder, &environment, &moto, plan.at_once));
        world.hands.cloud = cloud(&settings);
        world.sell_dedicated().await;
        let programs = Programs::new(binary, &world).await;
        Self { world, moto, programs, binary: binary.into(), settings, environment }
    }

    async fn worker(&self) -> Process {
        self.programs.start(self.launch()).await
    }

    fn launch(&self) -> Launch {
        Launch::worker().env("FREEHOLD_INFRA", self.settings.display())
    }

    async fn create(&self, slug: &str, plan: &str) {
        let new = NewTenant { slug: slug.to_owned(), name: None, plan: Some(plan.to_owned()) };
        self.world.create(&new).await.expect("the tenant is accepted");
    }

    async fn create_all(&self, prefix: &str, plan: &Plan) -> Vec<String> {
        let mut slugs = Vec::new();
        // The slow ones first.
        for number in 0..plan.dedicated {
            slugs.push(format!("{prefix}d{number}"));
            self.create(&slugs[number], "dedicated").await;
        }
        for number in 0..plan.pooled {
            let slug = format!("{prefix}p{number}");
            self.create(&slug, "business").await;
            slugs.push(slug);
        }
        slugs
    }

    /// Whether the tenant is active and has all that it is to have.
    async fn is_ready(&self, slug: &str) -> Result<(), String> {
        let named = TenantRef::Slug(slug.to_owned());
        let tenant =
            tenant_show(&self.world.hands.cp, &named).await.map_err(|error| format!("{slug}: {error}"))?;
        if tenant.tenant.state == TenantState::Active && tenant.resources == Some(ResourcesState::Ready) {
            return Ok(());
        }
        let open: Vec<String> = sqlx::query_scalar(
            "SELECT kind || ' ' || state || ' ' || attempts || ' ' || coalesce(error, '') FROM run
              WHERE tenant = $1 AND state NOT IN ('done', 'undone')",
        )
        .bind(tenant.tenant.id)
        .fetch_all(self.world.db())
        .await
        .expect("the control database answers");
        Err(format!("{slug}: {} {:?} {open:?}", tenant.tenant.state, tenant.resources))
    }

    async fn all_ready(&self, slugs: &[String], within: Duration) {
        eventually(within, "every tenant is ready", async || {
            tokio::time::sleep(LOOK).await;
            for slug in slugs {
                self.is_ready(slug).await?;
            }
            Ok::<_, String>(())
        })
        .await;
    }

    /// Records that they are to go, and waits until they are gone.
    async fn purge_all(&self, slugs: &[String], within: Duration) {
        let cp = &self.world.hands.cp;
        for slug in slugs {
            tenant_delete(cp, &tester(), &TenantRef::Slug(slug.clone()), "chaos").await.expect("deleted");
        }
        eventually(within, "every deletion is recorded", async || {
            tokio::time::sleep(LOOK).await;
            let mut waiting = Vec::new();
            for slug in slugs {
                let named = TenantRef::Slug(slug.clone());
                // Gone, or on its way: asked again until it is under way.
                match tenant_purge(cp, &tester(), &named, true).await {
                    Ok(_) => {}
                    Err(error) if error.is(&crate::kernel::codes::TENANT_NOT_FOUND) => continue,
                    Err(error) => waiting.push(format!("{slug}: {error}")),
                }
            }
            let left: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM tenant WHERE slug = ANY ($1) AND state <> 'deleted'",
            )
            .bind(slugs)
            .fetch_one(self.world.db())
            .await
            .expect("the control database answers");
            if left == 0 { Ok(()) } else { Err(format!("{left} left: {waiting:?}")) }
        })
        .await;
        self.no_open_runs(within).await;
    }

    async fn no_open_runs(&self, within: Duration) {
        eventually(within, "every run is done or undone", async || {
            tokio::time::sleep(LOOK).await;
            let open: Vec<String> = sqlx::query_scalar(
                "SELECT kind || ' ' || state || ' ' || attempts || ' ' || coalesce(error, '') FROM run
                  WHERE state NOT IN ('done', 'undone')",
            )
            .fetch_all(self.world.db())
            .await
            .expect("the control database answers");
            if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
        })
        .await;
    }

    async fn inventory(&self) -> Inventory {
        self.moto.inventory(&self.environment).await
    }

    async fn orphans(&self) -> Vec<String> {
        self.world.hands.cloud.get().expect("a cloud").orphans().await.expect("the cloud answers")
    }

    /// `freehold infra …`: whether it ended well, and what it said.
    async fn infra(&self, args: &[&str]) -> (bool, String) {
        let done = Command::new(&self.binary)
            .arg("infra")
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("FREEHOLD_CONTROL_URL", &self.world.control_url)
            .env("FREEHOLD_MASTER_KEY", &self.world.master_hex)
            .env("FREEHOLD_HOME", self.world.folder.path())
            .env("FREEHOLD_INFRA", &self.settings)
            .envs(std::env::var_os("TF_PLUGIN_MIRROR").map(|mirror| ("TF_PLUGIN_MIRROR", mirror)))
            .output()
            .await
            .expect("the command runs");
        let text = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Changes a tenant's log group behind everybody's back.
    async fn meddle(&self, slug: &str) {
        let named = TenantRef::Slug(slug.to_owned());
        let id = tenant_show(&self.world.hands.cp, &named).await.expect("it is there").tenant.id;
        let group = format!("/{}/tenant/{id}", self.environment);
        let body = json!({ "logGroupName": group, "retentionInDays": 3 });
        self.moto.ask("logs", "Logs_20140328.PutRetentionPolicy", &body).await;
    }

    /// Terraforms at work in our folder.
    fn terraforms(&self) -> Vec<i32> {
        let work = work(self.world.folder.path());
        let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
        let ours = all.filter_map(Result::ok).filter_map(|one| {
            let pid: i32 = one.file_name().to_str()?.parse().ok()?;
            let here = std::fs::read_link(one.path().join("cwd")).ok()?;
            let program = std::fs::read_link(one.path().join("exe")).ok()?;
            let provider = program.file_name()?.to_string_lossy().starts_with("terraform-provider-");
            (here.starts_with(work.join("runs")) && !provider).then_some(pid)
        });
        ours.collect()
    }
}

fn work(folder: &Path) -> PathBuf {
    let work = folder.join("terraform");
    work.canonicalize().unwrap_or(work)
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn cloud(settings: &Path) -> Cloud {
    let settings = InfraSettings::of(Some(settings)).expect("the settings that were written");
    app::cloud(settings).expect("a cloud")
}

fn settings_text(folder: &Path, environment: &str, moto: &Moto, at_once: u16) -> String {
    let roots = Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform");
    let env: Vec<String> = moto.env().iter().map(|(name, value)| format!("{name} = \"{value}\"")).collect();
    let mirror =
        std::env::var("TF_PLUGIN_MIRROR").map_or(String::new(), |mirror| format!("mirror = \"{mirror}\""));
    let network: &Value = moto.network();
    format!(
        "provisioner = \"terraform\"\nenvironment = \"{environment}\"\nlock_timeout_seconds = 60\nat_once = {at_once}\n{mirror}
roots = \"{roots}\"\nwork = \"{folder}/terraform\"\nstate_url = \"file:{folder}/states.dsn\"
[env]\n{env}
[platform]\naccount_id = \"123456789012\"\nregion = \"us-east-1\"\nshared_bucket = \"shared\"\napp_task_role_id = \"app\"
[network]\nvpc_id = {vpc}\ndata_subnet_ids = {subnets}\nclient_security_group_ids = {{ app = {group} }}
[dedicated.inputs.shard]\nmulti_az = false
[stand_in]\nserver = \"file:{folder}/servers.dsn\"\n",
        roots = roots.display(),
        folder = folder.display(),
        env = env.join("\n"),
        vpc = network["vpc_id"],
        subnets = network["data_subnet_ids"],
        group = network["client_security_group_ids"]["app"],
    )
}

/// Minutes are waited for, with others at work: a look now and then will do.
const LOOK: Duration = Duration::from_millis(500);
/// A tenant takes seconds and a server minutes; on a machine with other things to do, more.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Makes tenants, plants drift and heals it, purges all; then the same under kills.
///
/// # Panics
/// When something does not come to an end.
pub async fn run(binary: &str, plan: &Plan) -> Outcome {
    let sky = Sky::new(binary, plan).await;
    let mut outcome = Outcome::default();
    calm(&sky, plan, &mut outcome).await;
    if plan.kills > 0 {
        storm(&sky, plan, &mut outcome).await;
    }
    outcome
}

async fn calm(sky: &Sky, plan: &Plan, outcome: &mut Outcome) {
    let mut worker = sky.worker().await;
    let begun = Instant::now();
    let slugs = sky.create_all("a", plan).await;
    let mut took = BTreeMap::new();
    eventually(PATIENCE, "every tenant is ready", async || {
        tokio::time::sleep(LOOK).await;
        let mut waiting = Vec::new();
        for slug in &slugs {
            match sky.is_ready(slug).await {
                Ok(()) => {
                    took.entry(slug.clone()).or_insert_with(|| begun.elapsed());
                }
                Err(why) => waiting.push(why),
            }
        }
        if waiting.is_empty() { Ok(()) } else { Err(waiting.join("; ")) }
    })
    .await;
    let made = sky.inventory().await;
    let tenants = plan.pooled + plan.dedicated;
    let expected = (tenants, plan.dedicated);
    let whole = (made.roles.len(), made.buckets.len()) == expected && made.servers.len() == plan.dedicated;

    let drifted = slugs.last().expect("a tenant");
    let what = format!("tenant/{drifted}");
    sky.meddle(drifted).await;
    let (clean, said) = sky.infra(&["drift", &what]).await;
    let named = !clean && said.contains("aws_cloudwatch_log_group");
    let (applied, _) = sky.infra(&["apply", &what]).await;
    let (healed, _) = sky.infra(&["drift", &what]).await;
    let lost = sky.orphans().await;
    let purging = Instant::now();
    sky.purge_all(&slugs, PATIENCE).await;
    let left = sky.inventory().await;
    let after = sky.orphans().await;
    worker.kill().await;

    let times = |kind: char| {
        let of_kind = took.iter().filter(|(slug, _)| slug.chars().nth(1) == Some(kind));
        Spread::of(&of_kind.map(|(_, took)| *took).collect::<Vec<_>>())
    };
    outcome.lines.push(format!(
        "{} pooled and {} dedicated tenants, {} runs of Terraform at once; removed in {:.0} s",
        plan.pooled,
        plan.dedicated,
        plan.at_once,
        purging.elapsed().as_secs_f64()
    ));
    if !named {
        outcome.lines.push(said);
    }
    if !left.is_empty() {
        outcome.lines.push(format!("{left:?}"));
    }
    outcome.series.push(("pooled: ready after (4 at a time)".to_owned(), times('p')));
    outcome.series.push(("dedicated: ready after".to_owned(), times('d')));
    outcome.goals.extend([
        Goal::never("tenants without what they were to get", usize::from(!whole)),
        Goal::never("drift that was not named", usize::from(!named)),
        Goal::never("drift that was not healed", usize::from(!applied || !healed)),
        Goal::never("in the cloud and in no state", lost.len() + after.len()),
        Goal::never("resources left by purges", usize::from(!left.is_empty())),
    ]);
    let seconds: BTreeMap<String, f64> =
        took.iter().map(|(slug, took)| (slug.clone(), took.as_secs_f64())).collect();
    outcome.facts = json!({ "ready_seconds": seconds });
}

async fn storm(sky: &Sky, plan: &Plan, outcome: &mut Outcome) {
    let launch = sky.launch();
    let mut worker = sky.programs.start(launch.clone()).await;
    let mut slugs = sky.create_all("b", plan).await;
    let mut numbers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut workers, mut terraforms, mut number) = (0, 0, 0_usize);
    let begun = Instant::now();
    while workers < plan.kills || terraforms < plan.kills {
        assert!(begun.elapsed() < PATIENCE, "{workers} kills of the worker and {terraforms} of Terraform");
        number += 1;
        // Not in step with anything that repeats: the golden ratio spreads the moments evenly.
        tokio::time::sleep(Duration::from_secs(4).mul_f64((number as f64 * 0.618_034).fract())).await;
        if workers < plan.kills && (number % 2 == 0 || terraforms >= plan.kills) {
            worker.kill().await;
            worker = sky.programs.start(launch.clone()).await;
            workers += 1;
        } else if terraforms < plan.kills {
            let there = sky.terraforms();
            if let Some(pid) = there.get(number % there.len().max(1)) {
                terraforms += usize::from(kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok());
            }
        }
        // There is always something to do, and an end to it.
        if sky.terraforms().len() < usize::from(plan.at_once)
            && slugs.len() < plan.pooled + plan.dedicated + plan.kills
        {
            let slug = format!("bx{number}");
            sky.create(&slug, "business").await;
            slugs.push(slug);
        }
        see(sky, &mut numbers).await;
    }
    let settling = Instant::now();
    sky.all_ready(&slugs, PATIENCE).await;
    sky.no_open_runs(PATIENCE).await;
    let settled = settling.elapsed();
    see(sky, &mut numbers).await;
    let (made, lost) = (sky.inventory().await, sky.orphans().await);
    let replaced = numbers.values().filter(|numbers| numbers.len() > 1).count();
    let whole = (made.roles.len(), made.buckets.len(), made.servers.len())
        == (slugs.len(), plan.dedicated, plan.dedicated);
    sky.purge_all(&slugs, PATIENCE).await;
    let left = sky.inventory().await;
    worker.kill().await;
    outcome.lines.push(format!(
        "{workers} kills of the worker, {terraforms} of Terraform; {} tenants ready {:.0} s after the last",
        slugs.len(),
        settled.as_secs_f64()
    ));
    outcome.lines.extend(lost.iter().take(10).cloned());
    if !whole || !left.is_empty() {
        outcome.lines.push(format!("then {made:?}, at the end {left:?}"));
    }
    outcome.goals.extend([
        Goal::never("under kills: tenants without what they were to get, or twice", usize::from(!whole)),
        Goal::never("under kills: in the cloud and in no state", lost.len()),
        Goal::never("under kills: replaced database servers", replaced),
        Goal::never("under kills: resources left by purges", usize::from(!left.is_empty())),
    ]);
}

/// Notes the number of each server that is there.
async fn see(sky: &Sky, numbers: &mut BTreeMap<String, Vec<String>>) {
    for (name, number) in sky.inventory().await.servers {
        let seen = numbers.entry(name).or_default();
        if !seen.contains(&number) {
            seen.push(number);
        }
    }
}
