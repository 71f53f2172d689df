//! The real binary signs in, says who is signed in, gives a token that opens the API, and signs out.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use freehold::identity::device::Approver;
use freehold::kernel::Role;
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp, eventually};
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::fixture::{identity, person, seat, sign_in};

const PATIENCE: Duration = Duration::from_secs(60);

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(home: &Path, args: &[&str]) -> Ended {
    let output =
        tokio::time::timeout(PATIENCE, command(home, args).output()).await.expect("it ends").unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Signs in, with the answer given by somebody in a browser.
async fn login(app: &TestApp, home: &Path, server: &str, who: Approver, yes: bool) -> Ended {
    let mut child = command(home, &["login", "--server", server, "--output", "json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    let code = loop {
        let line =
            tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it says something").unwrap();
        let line = line.unwrap_or_else(|| panic!("it ended without a code: {said}"));
        said += &line;
        if let Some((_, code)) = line.rsplit_once("this code: ") {
            break code.trim().to_owned();
        }
    };
    assert!(said.contains(&format!("http://localhost/device?user_code={code}")), "{said}");
    identity(&app.world).device_answer(who, &code, yes, None).await.unwrap();
    let rest = async {
        let mut rest = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            rest += &line;
        }
        rest
    };
    let (stderr, output) = tokio::join!(rest, tokio::time::timeout(PATIENCE, child.wait_with_output()));
    let output = output.expect("it ends").unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_whoami_token_api_logout() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let world = &app.world;
    let acme = world.tenant("acme").await;
    world.tenant("globex").await;
    let ada = person(world, "ada").await;
    seat(world, &acme, ada, Role::Owner).await;
    let who = Approver { account: ada, session: sign_in(world, ada).await.id };
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let server = format!("http://localhost:{}", app.replicas[0].addr.port());

    let nobody = run(home, &["whoami", "--server", &server]).await;
    assert_eq!(nobody.code, 6, "{}", nobody.stderr);
    assert!(nobody.stderr.contains("hint: run: freehold login"), "{}", nobody.stderr);
    let nowhere = run(home, &["whoami"]).await;
    assert!(nowhere.code == 2 && nowhere.stderr.contains("no server is given"), "{}", nowhere.stderr);
    let denied = login(&app, home, &server, who, false).await;
    assert!(denied.code == 6 && denied.stderr.contains("you said no"), "{} {}", denied.code, denied.stderr);
    assert!(!home.join("config/freehold/credentials.json").exists());

    let signed_in = login(&app, home, &server, who, true).await;
    assert_eq!(signed_in.code, 0, "{}", signed_in.stderr);
    let shown: Value = serde_json::from_str(&signed_in.stdout).unwrap();
    assert_eq!((&shown["name"], &shown["server"]), (&"ada".into(), &server.clone().into()));
    let file = home.join("config/freehold/credentials.json");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));

    // From here on the server need not be named.
    let me = run(home, &["whoami", "--output", "json"]).await;
    let me: Value = serde_json::from_str(&me.stdout).unwrap_or_else(|_| panic!("{}", me.stderr));
    assert_eq!(me["sub"], ada.to_string());
    assert_eq!((&me["tenants"][0]["slug"], &me["tenants"][0]["role"]), (&"acme".into(), &"owner".into()));
    assert_eq!(me["tenants"].as_array().unwrap().len(), 1);
    let table = run(home, &["whoami"]).await.stdout;
    assert!(table.contains("ada@example.com") && table.contains("owner"), "{table}");

    let token = run(home, &["token", "--tenant", "acme"]).await;
    assert_eq!(token.code, 0, "{}", token.stderr);
    let access = token.stdout.trim();
    assert_eq!(
        run(home, &["token", "--tenant", "acme"]).await.stdout.trim(),
        access,
        "kept while it is good"
    );
    let (status, me) = app.send(app.request(Method::GET, "acme", access, "/api/v1/me")).await;
    assert_eq!((status, &me["name"]), (200, &"ada".into()), "{me}");
    let other = run(home, &["token", "--tenant", "globex"]).await;
    assert!(other.code == 3 && other.stderr.contains("no tenant globex among yours"), "{}", other.stderr);

    // A second sign-in beside the first, in a folder that was named.
    let beside = home.join("beside");
    let mut elsewhere = command(home, &["whoami", "--server", &server]);
    let elsewhere = elsewhere.env("FREEHOLD_HOME", &beside).output().await.unwrap();
    assert_eq!(elsewhere.status.code(), Some(6), "another folder, nobody signed in");

    let out = run(home, &["logout"]).await;
    assert_eq!(out.code, 0, "{}", out.stderr);
    eventually(Duration::from_secs(1), "the token is refused", async || {
        match app.send(app.request(Method::GET, "acme", access, "/api/v1/me")).await.0 {
            401 => Ok(()),
            status => Err(status),
        }
    })
    .await;
    assert!(!std::fs::read_to_string(&file).unwrap().contains("fhr_"));
    assert_eq!(run(home, &["whoami", "--server", &server]).await.code, 6);

    // Ended elsewhere: the terminal finds out, says so and forgets.
    let again = login(&app, home, &server, who, true).await;
    assert_eq!(again.code, 0, "{}", again.stderr);
    let mut tx = world.db().begin().await.unwrap();
    let now = world.hands.cp.clock.now();
    freehold::identity::sessions::session_revoke_others(&mut tx, ada, None, now).await.unwrap();
    tx.commit().await.unwrap();
    let ended = run(home, &["token", "--tenant", "acme"]).await;
    assert!(ended.code == 6 && ended.stderr.contains("has ended"), "{} {}", ended.code, ended.stderr);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("fhr_"));
}
