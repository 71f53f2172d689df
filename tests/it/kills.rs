//! `kill -9` at every step of every kind of run, before its effect, after it, and after its record: another worker
//! finishes, nothing is left over (trust C1), and a worker that was only stopped does no harm when it wakes up (C4).

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use freehold::control_plane::access::{tenant_delete, tenant_suspend};
use freehold::control_plane::doctor;
use freehold::control_plane::runs::KINDS;
use freehold::control_plane::tenants::{TenantRef, TenantState};
use freehold::control_plane::worker;
use freehold::jobs::faults::Moment;
use freehold::testkit::{Cluster, World, eventually, tester};
use futures_util::StreamExt;
use std::os::unix::process::ExitStatusExt;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::provisioning::TABLES;

/// What no command carries out but a worker with a cloud.
const CLOUD: [&str; 2] = ["resources", "provision_dedicated"];

/// One death: which command dies, at which step and moment.
struct Scenario {
    kind: &'static str,
    step: &'static str,
    moment: Moment,
    /// The tenant or shard that it is about.
    name: String,
}

/// Every kind × step × moment, but for steps that the recording transaction does itself (nothing can die between) and for
/// what no command carries out but a worker with a cloud.
fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for kind in KINDS.iter().filter(|kind| !CLOUD.contains(&kind.name)) {
        for step in kind.steps.iter().filter(|step| step.name != "reserve") {
            for moment in Moment::ALL {
                let name = format!("k{}", all.len());
                all.push(Scenario { kind: kind.name, step: step.name, moment, name });
            }
        }
    }
    all
}

fn command(world: &World, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command
        .args(args)
        .env_clear()
        .env("FREEHOLD_CONTROL_URL", &world.control_url)
        .env("FREEHOLD_MASTER_KEY", &world.master_hex)
        .env("FREEHOLD_HOME", world.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Brings the tenant to where the command starts from.
async fn prepare(world: &World, scenario: &Scenario) -> Vec<String> {
    let named = TenantRef::Slug(scenario.name.clone());
    let cp = &world.hands.cp;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    match scenario.kind {
        "provision" => return words(&["tenant", "create", &scenario.name, "--plan", "free"]),
        "shard_prepare" => {
            let server = Cluster::shared().await.server(1);
            let url = server.admin_url(&server.create_database("late", None).await);
            let file = world.folder.path().join(&scenario.name);
            std::fs::write(&file, url).unwrap();
            let dsn = format!("file:{}", file.display());
            return words(&[
                "shard",
                "add",
                &scenario.name,
                "--pool",
                "default",
                "--dsn",
                &dsn,
                "--tenant-cap",
                "5",
                "--slots",
                "0",
            ]);
        }
        _ => {
            world.tenant_with(&scenario.name, "free").await;
        }
    }
    match scenario.kind {
        "resume" => {
            let run = tenant_suspend(cp, &tester(), &named, "first").await.unwrap();
            world.finish(run).await;
        }
        "undelete" | "purge" => {
            let run = tenant_delete(cp, &tester(), &named, "first").await.unwrap();
            world.finish(run).await;
        }
        _ => {}
    }
    match scenario.kind {
        "suspend" => words(&["tenant", "suspend", &scenario.name, "--reason", "test"]),
        "delete" => words(&["tenant", "delete", &scenario.name]),
        "purge" => words(&["tenant", "purge", &scenario.name, "--now"]),
        other => words(&["tenant", other, &scenario.name]),
    }
}

fn final_state(kind: &str) -> TenantState {
    match kind {
        "suspend" => TenantState::Suspended,
        "delete" => TenantState::Deleting,
        "purge" => TenantState::Deleted,
        _ => TenantState::Active,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_and_finished_by_another() {
    let world = World::new(&TABLES).await;
    let scenarios = scenarios();
    assert!(scenarios.len() >= 36, "{}", scenarios.len());
    let world = &world;
    let deaths: Vec<(String, ExitStatus, PathBuf)> = futures_util::stream::iter(&scenarios)
        .map(|scenario| async move {
            let args = prepare(world, scenario).await;
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let mark = world.folder.path().join(format!("{}.fired", scenario.name));
            let fault = format!("{}:{}:{}", scenario.kind, scenario.step, scenario.moment.as_str());
            let status = command(world, &args)
                .env("FREEHOLD_FAULT", &fault)
                .env("FREEHOLD_FAULT_MARK", &mark)
                .status()
                .await
                .unwrap();
            (fault, status, mark)
        })
        .buffer_unordered(4)
        .collect()
        .await;
    for (fault, status, mark) in &deaths {
        assert!(mark.exists(), "{fault} did not fire: {status}");
        assert_eq!(status.signal(), Some(9), "{fault}");
    }

    let stop = CancellationToken::new();
    let working = tokio::spawn(worker::work(world.hands.clone(), stop.clone()));
    eventually(Duration::from_secs(30), "every run is finished", async || {
        let open: Vec<String> =
            sqlx::query_scalar("SELECT kind || ' ' || state || ' ' || coalesce(error, '') FROM run WHERE state NOT IN ('done', 'undone')")
                .fetch_all(world.db())
                .await
                .unwrap();
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
    })
    .await;
    eventually(Duration::from_secs(30), "everything is as it should be", async || {
        let report = doctor::examine(&world.hands, |_| {}).await.unwrap();
        if report.healthy() { Ok(()) } else { Err(format!("{:#?}", report.findings)) }
    })
    .await;
    stop.cancel();
    working.await.unwrap();

    assert_eq!(world.orphans().await, Vec::<String>::new());
    for scenario in scenarios.iter().filter(|scenario| scenario.kind != "shard_prepare") {
        let state: TenantState = sqlx::query_scalar("SELECT state FROM tenant WHERE slug = $1")
            .bind(&scenario.name)
            .fetch_one(world.db())
            .await
            .unwrap();
        assert_eq!(
            state,
            final_state(scenario.kind),
            "{}:{} {:?}",
            scenario.kind,
            scenario.step,
            scenario.moment
        );
    }
    let ready: i64 = sqlx::query_scalar("SELECT count(*) FROM shard WHERE state = 'active'")
        .fetch_one(world.db())
        .await
        .unwrap();
    let late = scenarios.iter().filter(|scenario| scenario.kind == "shard_prepare").count();
    assert_eq!(usize::try_from(ready).unwrap(), 2 + late);
}

/// C4 with a real process: stopped before its effect, overtaken, woken up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_overtaken_and_woken() {
    let world = World::new(&TABLES).await;
    let mark = world.folder.path().join("stopped");
    let mut child: Child = command(&world, &["tenant", "create", "acme", "--plan", "free"])
        .env("FREEHOLD_FAULT", "provision:schema:before_effect")
        .env("FREEHOLD_FAULT_MARK", &mark)
        .env("FREEHOLD_FAULT_SIGNAL", "stop")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually(Duration::from_secs(20), "the process stops", async || {
        if mark.exists() { Ok(()) } else { Err("it has not got there") }
    })
    .await;
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker::work(world.hands.clone(), stop.clone()));
    eventually(Duration::from_secs(30), "the worker takes the run over", async || {
        let state = world.show("acme").await.tenant.state;
        if state == TenantState::Active { Ok(()) } else { Err(format!("{state}")) }
    })
    .await;
    let tenant = world.show("acme").await;
    let id = TenantRef::Id(tenant.tenant.id);
    let run = tenant_delete(&world.hands.cp, &tester(), &id, "gone").await.unwrap();
    world.finish(run).await;
    let run =
        freehold::control_plane::access::tenant_purge(&world.hands.cp, &tester(), &id, true).await.unwrap();
    world.finish(run).await;

    let pid = i32::try_from(child.id().expect("it is there")).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGCONT).unwrap();
    tokio::time::timeout(Duration::from_secs(20), child.wait()).await.expect("it ends").unwrap();
    stop.cancel();
    working.await.unwrap();
    assert_eq!(world.orphans().await, Vec::<String>::new(), "the woken process made the schema again");
}
