//! The real binary, against real databases: directly, and through the operators' API.

use std::path::Path;
use std::process::Stdio;

use freehold::control_plane::worker;
use freehold::db::migrations;
use freehold::http::operator;
use freehold::identity::keys::operator_key_create;
use freehold::product::{Current, Product};
use freehold::testkit::{Cluster, World, WorldOptions, tester};
use serde_json::Value;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// How the binary is told where the fleet is.
struct Cli {
    env: Vec<(&'static str, String)>,
    folder: std::path::PathBuf,
}

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    #[track_caller]
    fn failed(&self, code: i32, says: &str) {
        assert_eq!(self.code, code, "{} {}", self.stdout, self.stderr);
        assert!(self.stdout.is_empty(), "data with an error: {}", self.stdout);
        assert!(self.stderr.contains(says), "{says:?} is not in: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

impl Cli {
    fn direct(world: &World) -> Self {
        let env = vec![
            ("FREEHOLD_CONTROL_URL", world.control_url.clone()),
            ("FREEHOLD_MASTER_KEY", world.master_hex.clone()),
        ];
        Self { env, folder: world.folder.path().to_owned() }
    }

    fn with(folder: &Path, control_url: &str) -> Self {
        let env =
            vec![("FREEHOLD_CONTROL_URL", control_url.to_owned()), ("FREEHOLD_MASTER_KEY", "0".repeat(64))];
        Self { env, folder: folder.to_owned() }
    }

    async fn run(&self, args: &[&str]) -> Ended {
        self.feed(args, "").await
    }

    async fn feed(&self, args: &[&str], stdin: &str) -> Ended {
        use tokio::io::AsyncWriteExt;
        let mut child = Command::new(env!("CARGO_BIN_EXE_freehold"))
            .args(args)
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.ok();
        let output = child.wait_with_output().await.unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--output", "json"]].concat()).await.json()
    }
}

/// A world whose operators' API listens and whose worker works, and a command line that is told only of the API.
async fn served(world: &World) -> (Cli, CancellationToken) {
    let stop = CancellationToken::new();
    let (router, _) = operator::routes(world.hands.cp.clone()).split_for_parts();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    tokio::spawn(worker::work(world.hands.clone(), stop.clone()));
    let key = operator_key_create(&world.hands.cp, &tester(), "test", None).await.unwrap().key;
    let env = vec![("FREEHOLD_SERVER", format!("http://{address}")), ("FREEHOLD_OPERATOR_KEY", key)];
    (Cli { env, folder: world.folder.path().to_owned() }, stop)
}

async fn world(slots: i32) -> World {
    let tables = Current::migrations();
    World::with(WorldOptions { shards: 2, tenant_cap: 100, slots, tables }).await
}

async fn whole_life_of_a_tenant(cli: &Cli) {
    let made = cli.json(&["tenant", "create", "acme", "--name", "Acme Inc.", "--plan", "team"]).await;
    for field in ["id", "slug", "name", "state", "tier", "plan", "shard", "url", "run"] {
        assert!(made[field].is_string(), "{field}: {made}");
    }
    assert_eq!(
        (&made["slug"], &made["state"], &made["plan"]),
        (&"acme".into(), &"active".into(), &"team".into())
    );
    let mut shown = cli.json(&["tenant", "show", "acme"]).await;
    for field in ["schema", "role"] {
        assert!(shown[field].is_string(), "{field}: {shown}");
    }
    for field in ["epoch", "version"] {
        assert!(shown[field].is_i64(), "{field}: {shown}");
    }
    let mut by_id = cli.json(&["tenant", "show", made["id"].as_str().unwrap()]).await;
    // A worker may give its login the settings of its plan in between, which retires connections.
    for view in [&mut by_id, &mut shown] {
        view.as_object_mut().unwrap().remove("epoch");
    }
    assert_eq!(by_id, shown);

    cli.run(&["tenant", "create", "acme"]).await.failed(4, "taken");
    cli.run(&["tenant", "create", "Not A Slug"]).await.failed(2, "slug: a slug uses only");
    cli.run(&["tenant", "create", "other", "--plan", "gold"]).await.failed(2, "there is no plan");
    cli.run(&["tenant", "show", "nobody"]).await.failed(3, "there is no tenant nobody");
    cli.run(&["tenant", "resume", "acme"]).await.failed(4, "tenant acme is active");
    cli.run(&["tenant", "purge", "acme"]).await.failed(4, "hint: delete it first");

    cli.run(&["tenant", "suspend", "acme", "--reason", "unpaid"]).await.failed(2, "reason: `unpaid` alone");
    let suspended = cli.json(&["tenant", "suspend", "acme", "--reason", "invoice 4711 is unpaid"]).await;
    assert_eq!(suspended["state"], "suspended");
    assert_eq!(cli.json(&["tenant", "show", "acme"]).await["state_reason"], "invoice 4711 is unpaid");
    assert_eq!(cli.json(&["tenant", "resume", "acme"]).await["state"], "active");
    let renamed = cli.json(&["tenant", "rename", "acme", "--slug", "acme-int", "--name", "Acme"]).await;
    assert_eq!((&renamed["slug"], &renamed["id"]), (&"acme-int".into(), &made["id"]));
    cli.run(&["tenant", "show", "acme"]).await.failed(3, "hint: see them with: freehold tenant list");

    let deleted = cli.json(&["tenant", "delete", "acme-int", "--reason", "contract ended"]).await;
    assert_eq!(deleted["state"], "deleting");
    assert!(deleted["purge_after"].is_string(), "{deleted}");
    assert_eq!(cli.json(&["tenant", "undelete", "acme-int"]).await["state"], "active");
    cli.json(&["tenant", "delete", "acme-int"]).await;
    cli.run(&["tenant", "purge", "acme-int"]).await.failed(4, "--now");
    assert_eq!(cli.json(&["tenant", "purge", "acme-int", "--now"]).await["state"], "deleted");
    cli.run(&["tenant", "show", "acme-int"]).await.failed(3, "");
    assert_eq!(cli.json(&["tenant", "list"]).await["items"], Value::Array(Vec::new()));

    let id = made["id"].as_str().unwrap();
    let audit = cli.json(&["audit", "list", "--tenant", id, "--all"]).await;
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|line| line["action"].as_str().unwrap()).collect();
    for action in ["create", "suspend", "resume", "rename", "delete", "undelete", "purge"] {
        assert!(actions.contains(&format!("tenant.{action}").as_str()), "{action}: {actions:?}");
    }
}

#[tokio::test]
async fn the_whole_life_of_a_tenant_directly() {
    let world = world(0).await;
    whole_life_of_a_tenant(&Cli::direct(&world)).await;
    assert_eq!(world.orphans().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_whole_life_of_a_tenant_through_a_server() {
    let world = world(1).await;
    let (cli, stop) = served(&world).await;
    // Through a server it takes two to delete a tenant and to remove it at once.
    let direct = Cli::direct(&world);
    direct.json(&["operator", "add", "alice@example.com", "--name", "Alice"]).await;
    sqlx::query("UPDATE operator_key SET owner = (SELECT id FROM operator)")
        .execute(world.db())
        .await
        .unwrap();
    let give =
        ["approval", "give", "alice@example.com", "--action", "purge", "--tenants", "1", "--reason", "test"];
    cli.run(&give).await.failed(6, "nobody agrees to what they do themselves");
    assert_eq!(direct.json(&give).await["used"], 0);
    whole_life_of_a_tenant(&cli).await;
    assert_eq!(cli.json(&["approval", "list"]).await["items"][0]["used"], 1);
    stop.cancel();
}

#[tokio::test]
async fn keys_shards_plans_and_work_have_the_same_shapes_either_way() {
    let world = world(2).await;
    let direct = Cli::direct(&world);
    let (remote, stop) = served(&world).await;
    for (cli, tenant) in [(&direct, "one"), (&remote, "two")] {
        cli.json(&["tenant", "create", tenant]).await;
        let key =
            cli.json(&["api-key", "create", "--tenant", tenant, "--role", "owner", "--name", "first"]).await;
        assert!(key["id"].as_str().unwrap().starts_with("key_"), "{key}");
        assert!(key["key"].as_str().unwrap().starts_with("fhk_"), "{key}");
        let revoked = cli.json(&["api-key", "revoke", key["id"].as_str().unwrap()]).await;
        assert!(revoked["revoked_at"].is_string(), "{revoked}");
        assert_eq!(cli.json(&["api-key", "list", "--tenant", tenant]).await["items"][0]["id"], key["id"]);
        cli.run(&["api-key", "revoke", "key_nonsense"]).await.failed(2, "looks like key_");

        let operator = cli.json(&["operator-key", "create", "--name", tenant]).await;
        assert!(operator["key"].as_str().unwrap().starts_with("fho_"), "{operator}");
        cli.json(&["operator-key", "revoke", operator["id"].as_str().unwrap()]).await;

        let pool = format!("pool-{tenant}");
        assert_eq!(cli.json(&["pool", "add", &pool, "--region", "here"]).await["tier"], "pooled");
        cli.run(&["pool", "add", &pool, "--region", "here"]).await.failed(4, "taken");
        assert_eq!(cli.json(&["shard", "drain", "shard-1"]).await["state"], "draining");
        assert_eq!(cli.json(&["shard", "activate", "shard-1"]).await["state"], "active");
        cli.run(&["shard", "show", "shard-9"]).await.failed(3, "shard-9");
        let nowhere = ["shard", "add", "new", "--pool", "none", "--dsn", "env:NOWHERE"];
        cli.run(&nowhere)
            .await
            .failed(2, if tenant == "one" { "env:NOWHERE cannot be read" } else { "no pool" });
        assert_eq!(
            cli.json(&["slot", "fill", "--shard", "shard-1", "--target", "3"]).await["items"][0]["slot_target"],
            3
        );
        assert!(cli.json(&["slot", "list"]).await["items"].is_array());

        let changes = cli.json(&["plan", "apply", "--dry-run"]).await;
        assert_eq!(changes["unchanged"].as_array().unwrap().len(), 4, "{changes}");
        assert_eq!(cli.json(&["plan", "list"]).await["items"][0]["id"], "free");
        let runs = cli.json(&["run", "list", "--tenant", tenant]).await;
        let run = cli.json(&["run", "show", runs["items"][0]["id"].as_str().unwrap()]).await;
        assert_eq!((&run["state"], run["steps"].as_array().unwrap().len()), (&"done".into(), 4), "{run}");
        cli.run(&["run", "resume", run["id"].as_str().unwrap()]).await.failed(4, "is finished");
        assert!(cli.json(&["job", "list"]).await["items"].is_array());
        cli.run(&["job", "retry", "job_06fqv3k1s9t4m7b2n8c5v0r6e4"]).await.failed(3, "there is no dead job");
    }
    let page = direct.json(&["tenant", "list", "--limit", "1"]).await;
    let next = direct.json(&["tenant", "list", "--cursor", page["next_cursor"].as_str().unwrap()]).await;
    assert_eq!((&page["items"][0]["slug"], &next["items"][0]["slug"]), (&"one".into(), &"two".into()));
    direct.run(&["tenant", "list", "--limit", "101"]).await.failed(2, "between 1 and 100");
    stop.cancel();
}

#[tokio::test]
async fn many_tenants_from_a_file_and_what_failed_is_named() {
    let world = world(0).await;
    let cli = Cli::direct(&world);
    let lines = "{\"slug\":\"aa\"}\n{\"slug\":\"bb\",\"plan\":\"team\"}\n\n{\"slug\":\"cc\"}\n";
    let made = cli.feed(&["tenant", "create", "--from", "-", "--output", "json"], lines).await.json();
    let slugs: Vec<&str> =
        made["items"].as_array().unwrap().iter().map(|one| one["slug"].as_str().unwrap()).collect();
    assert_eq!(slugs, ["aa", "bb", "cc"]);
    let again =
        cli.feed(&["tenant", "create", "--from", "-"], "{\"slug\":\"dd\"}\n{\"slug\":\"aa\"}\n").await;
    assert_eq!(again.code, 4, "{}", again.stderr);
    assert!(again.stdout.contains("dd") && again.stderr.contains("aa:"), "{} {}", again.stdout, again.stderr);
    cli.feed(&["tenant", "create", "--from", "-"], "{\"slag\":\"x\"}").await.failed(2, "line 1");
    assert_eq!(cli.json(&["tenant", "list", "--all"]).await["items"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn psql_is_the_tenants_own_login_and_is_written_down() {
    let world = world(1).await;
    let cli = Cli::direct(&world);
    let tenant = world.tenant("acme").await;
    let asked = cli.run(&["tenant", "psql", "acme", "--", "-XAtc", "SELECT session_user"]).await;
    assert_eq!((asked.code, asked.stdout.trim()), (0, tenant.role.as_deref().unwrap()), "{}", asked.stderr);
    let wrong = cli.run(&["tenant", "psql", "acme", "--", "-Xc", "SELECT nonsense"]).await;
    assert_eq!(wrong.code, 1, "psql's own code");
    let audit = cli.json(&["audit", "list", "--action", "tenant.psql"]).await;
    assert_eq!(audit["items"][0]["detail"]["args"][1], "SELECT nonsense");
    cli.json(&["tenant", "suspend", "acme"]).await;
    cli.run(&["tenant", "psql", "acme"]).await.failed(4, "its login is shut");
    let (remote, stop) = served(&world).await;
    remote.run(&["tenant", "psql", "acme"]).await.failed(2, "not through a server");
    stop.cancel();
}

#[tokio::test]
async fn a_control_database_that_cannot_be_used_is_explained() {
    let server = Cluster::shared().await.server(0);
    let folder = tempfile::tempdir().unwrap();
    let list = ["tenant", "list"];
    let with = |url: &str| Cli::with(folder.path(), url);
    let no_settings = Cli { env: Vec::new(), folder: folder.path().to_owned() };
    no_settings.run(&list).await.failed(2, "hint: set FREEHOLD_CONTROL_URL");
    with("mysql://x").run(&list).await.failed(2, "is not a PostgreSQL address");
    with("postgres://postgres:hunter2@127.0.0.1:1/none").run(&list).await.failed(5, "refused");
    let missing = with(&server.admin_url("no_such_database")).run(&list).await;
    missing.failed(5, "no_such_database");
    let stranger = format!("postgres://nobody:hunter2@127.0.0.1:{}/postgres", server.port());
    let refused = with(&stranger).run(&list).await;
    refused.failed(5, "as nobody");
    assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);

    let empty = with(&server.admin_url(&server.create_database("empty", None).await));
    empty.run(&list).await.failed(4, "hint: run: freehold migrate control");
    let (one, two) = tokio::join!(empty.json(&["migrate", "control"]), empty.json(&["migrate", "control"]));
    let target = migrations::target(&migrations::CONTROL);
    assert_eq!((&one["control"]["to"], &two["control"]["to"]), (&target.into(), &target.into()));
    assert_eq!(empty.json(&list).await["items"], Value::Array(Vec::new()));
    let problem = empty.run(&["tenant", "create", "acme", "--output", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&problem.stderr).unwrap()["errors"][0]["field"], "plan");
    assert_eq!(problem.code, 2);
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_explained() {
    let world = world(0).await;
    let (mut cli, stop) = served(&world).await;
    cli.env[1].1 = "fho_wrong".to_owned();
    cli.run(&["tenant", "list"]).await.failed(6, "Send a valid key");
    cli.env[0].1 = "http://127.0.0.1:1".to_owned();
    cli.run(&["tenant", "list"]).await.failed(5, "cannot reach http://127.0.0.1:1");
    cli.env[0].1 = "not an address".to_owned();
    cli.run(&["tenant", "list"]).await.failed(2, "is not a server's address");
    cli.env.pop();
    cli.env[0].1 = "http://127.0.0.1:1".to_owned();
    cli.run(&["tenant", "list"]).await.failed(6, "set FREEHOLD_OPERATOR_KEY");
    stop.cancel();
}

#[tokio::test]
async fn help_completions_and_manual_pages() {
    let folder = tempfile::tempdir().unwrap();
    let cli = Cli { env: Vec::new(), folder: folder.path().to_owned() };
    let help = cli.run(&["--help"]).await;
    assert!(help.code == 0 && help.stdout.contains("Exit codes:"), "{}", help.stdout);
    cli.run(&["tenant", "frobnicate"]).await.failed(2, "unrecognized subcommand");
    let bash = cli.run(&["completions", "bash"]).await;
    assert!(bash.code == 0 && bash.stdout.contains("_freehold"));
    assert_eq!(cli.run(&["man", "pages"]).await.code, 0);
    assert!(folder.path().join("pages/freehold-tenant-create.1").exists());
}

#[tokio::test]
async fn a_broken_audit_chain_is_named_and_the_log_is_exported() {
    let world = world(0).await;
    let direct = Cli::direct(&world);
    world.tenant("acme").await;
    let (remote, stop) = served(&world).await;
    for cli in [&direct, &remote] {
        let whole = cli.run(&["audit", "verify"]).await;
        assert!(whole.code == 0 && whole.stdout.contains("every chain is whole"), "{}", whole.stderr);
        let exported = cli.run(&["audit", "export", "--tenant", "acme", "--format", "jsonl"]).await;
        assert_eq!(exported.code, 0, "{}", exported.stderr);
        let first: Value = serde_json::from_str(exported.stdout.lines().next_back().unwrap()).unwrap();
        assert_eq!(first["action"], "tenant.create");
        let csv = cli.run(&["audit", "export", "--action", "pool."]).await;
        assert!(
            csv.stdout.starts_with("id,at,actor,action") && csv.stdout.contains("\"pool.add\""),
            "{}",
            csv.stdout
        );
    }
    let heads = direct.run(&["audit", "heads", "--all", "--output", "json"]).await;
    std::fs::write(world.folder.path().join("heads.json"), &heads.stdout).unwrap();
    let compared = remote.run(&["audit", "verify", "--heads", "heads.json"]).await;
    assert_eq!(compared.code, 0, "{} {}", compared.stdout, compared.stderr);
    sqlx::raw_sql(
        "BEGIN; SET LOCAL session_replication_role = replica;
         UPDATE audit SET actor = 'mallory' WHERE action = 'tenant.create'; COMMIT",
    )
    .execute(world.db())
    .await
    .unwrap();
    for cli in [&direct, &remote] {
        let broken = cli.run(&["audit", "verify", "--tenant", "acme", "--output", "json"]).await;
        assert_eq!(broken.code, 1, "{}", broken.stderr);
        let report: Value = serde_json::from_str(&broken.stdout).unwrap();
        assert_eq!(
            (&report["broken"][0]["seq"], &report["broken"][0]["what"]),
            (&1.into(), &"changed".into())
        );
        assert!(broken.stderr.contains("a chain of the audit log is broken"), "{}", broken.stderr);
    }
    stop.cancel();
}
