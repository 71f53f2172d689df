//! A person goes, and what is kept about them with them.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use chrono::TimeDelta;
use freehold::control_plane::access::{tenant_resume, tenant_suspend};
use freehold::control_plane::tenants::{TenantDetail, TenantRef};
use freehold::identity::arrive::Here;
use freehold::identity::erasure::{self, Forget, NOBODY};
use freehold::identity::invitations::{NewInvitation, invite};
use freehold::identity::members::{By, member_change};
use freehold::jobs::faults::Moment;
use freehold::kernel::ids::AccountId;
use freehold::kernel::{Role, codes};
use freehold::product::{Current, Product};
use freehold::testkit::process::{Launch, Programs};
use freehold::testkit::{AppOptions, Browser, RogueIdp, TestApp, World, eventually, tester};
use reqwest::Method;
use serde_json::{Value, json};

use super::fixture::{self, enter, identity, person, seat, terminal};
use super::invitations;
use super::password_fixture::{BASE, fill, settings};
use crate::oidc::fixture::{account_in, post, signed_in};

/// Of one person, and nowhere once they are gone.
const NAME: &str = "Ada Canary Byron";
const DEVICE: &str = "Canary/77";

/// Everything that the control database holds, as text, but for the log.
async fn everything(world: &World) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
            AND c.relname <> 'audit'",
    )
    .fetch_all(world.db())
    .await
    .unwrap();
    assert!(tables.len() > 25, "{tables:?}");
    let mut all = String::new();
    for table in tables {
        let rows = format!("SELECT coalesce(string_agg(to_jsonb(t)::text, ' '), '') FROM {table} t");
        let text: String = sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_one(world.db()).await.unwrap();
        all.push_str(&format!("{table}: {text}\n"));
    }
    all
}

/// A comment under a task, by API; gives its id.
async fn comment(app: &TestApp, by: &fixture::Browser) -> (String, String) {
    let send = async |path: &str, body: Value| {
        let (status, made) = app.send(by.ask(app, Method::POST, path).json(&body)).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    };
    let project = send("/api/v1/projects", json!({ "name": "Launch" })).await;
    let task = send("/api/v1/tasks", json!({ "project_id": project, "title": "Write" })).await;
    let id = send(&format!("/api/v1/tasks/{task}/comments"), json!({ "body": "Second draft it is." })).await;
    (task, id)
}

/// From sign-up to the last row: every table of the control database, and the workspace's own.
///
/// Shown to fail, each taken out of `erase`: the name in `account`; `account_identity`; `session`; the addresses of
/// invitations; `Change::Account`; `leave`; `audit_forget`. And `forget` taken out of `OpsFlow::forget_person`.
#[tokio::test]
async fn nothing_of_a_person_is_left() {
    let rogue = RogueIdp::start(freehold::kernel::Clock::System).await;
    let identity =
        freehold::identity::settings::Settings { providers: vec![rogue.settings("rogue")], ..settings() };
    let options = AppOptions { identity, replicas: 2, ..AppOptions::of::<Current>() };
    let app = TestApp::start::<Current>(options).await;
    let world = &app.world;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let boss = person(world, "boss").await;
    for tenant in [&acme, &globex] {
        seat(world, tenant, boss, Role::Owner).await;
    }
    let browser = signed_in(&app, &rogue, "rogue", "ada").await;
    let ada = account_in(&app, &browser).await.unwrap();
    sqlx::query("UPDATE account SET name = $2 WHERE id = $1")
        .bind(ada)
        .bind(NAME)
        .execute(world.db())
        .await
        .unwrap();
    seat(world, &acme, ada, Role::Admin).await;
    seat(world, &globex, ada, Role::Manager).await;
    // All kinds of rows: devices, codes, keys, invitations sent and received.
    sqlx::query("UPDATE session SET user_agent = $2 WHERE account = $1")
        .bind(ada)
        .bind(DEVICE)
        .execute(world.db())
        .await
        .unwrap();
    let base = fixture::sign_in(world, ada).await;
    let at_acme = enter(world, base.id, &acme).await;
    let at_globex = enter(world, base.id, &globex).await;
    let services = fixture::identity(world);
    let mut cli = terminal(&services, ada, base.id).await;
    let token = cli.token(&services, "acme").await;
    let request = at_acme.ask(&app, Method::POST, "/api/v1/api-keys");
    let (_, key) = app.send(request.json(&json!({ "name": "x", "role": "admin" }))).await;
    let key = key["key"].as_str().unwrap().to_owned();
    let mailing = invitations::identity(world, true);
    let by = |account, role| By { account: Some(account), role };
    let invitation = NewInvitation { email: "ADA@example.com".to_owned(), role: Role::Viewer };
    let third = world.tenant("third").await;
    seat(world, &third, boss, Role::Owner).await;
    invite(&mailing, &tester(), by(boss, Role::Owner), third.tenant.id, &invitation).await.unwrap();
    let other = NewInvitation { email: "grace@example.com".to_owned(), role: Role::Viewer };
    invite(&mailing, &tester(), by(ada, Role::Admin), acme.tenant.id, &other).await.unwrap();
    let page = browser.open(&format!("{BASE}/account")).await;
    fill(&browser, &page, "/account/password/add", &[("email", "ada@example.com")]).await;
    let page = browser.open(&format!("{BASE}/account/second-factor")).await;
    fill(&browser, &page, "/account/second-factor/begin", &[]).await;
    let (task, hers) = comment(&app, &at_acme).await;
    let bosses = enter(world, fixture::sign_in(world, boss).await.id, &acme).await;
    let before = everything(world).await;
    for canary in [NAME, DEVICE, "ada@example.com"] {
        assert!(before.contains(canary), "{canary}: this test would see nothing");
    }
    // She left globex long ago; it still has her name.
    comment(&app, &at_globex).await;
    let mut tx = world.db().begin().await.unwrap();
    let now = world.hands.cp.clock.now();
    freehold::identity::members::member_remove(
        &mut tx,
        &tester(),
        by(boss, Role::Owner),
        globex.tenant.id,
        ada,
        now,
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();

    // Not by a slip.
    let page = browser.open(&format!("{BASE}/account/delete")).await;
    assert_eq!(
        fill(&browser, &page, "/account/delete", &[("address", "grace@example.com")]).await.status,
        422
    );
    let page = fill(&browser, &page, "/account/delete", &[("address", " Ada@Example.com ")]).await;
    assert!(page.status == 200 && page.body.contains("Your account is deleted"), "{}", page.body);

    // Out at every server within a second; five, for a busy machine.
    for replica in 0..2 {
        eventually(Duration::from_secs(5), "nothing of hers opens anything", async || {
            let host = |request: reqwest::RequestBuilder| request.header("host", "acme.localhost");
            let at = |path: &str| app.replicas[replica].url(path);
            let by_key = host(app.client.get(at("/api/v1/me")).bearer_auth(&key));
            let by_token = host(app.client.get(at("/api/v1/me")).bearer_auth(&token));
            let cookie =
                format!("{}={}", freehold::data_plane::tenancy::cookie::SESSION_COOKIE, at_acme.token);
            let by_cookie = host(app.client.get(at("/api/v1/me")).header("cookie", cookie));
            let mut seen = Vec::new();
            for request in [by_key, by_token, by_cookie] {
                seen.push(app.send(request).await.0);
            }
            if seen == [401, 401, 401] { Ok(()) } else { Err(format!("{replica}: {seen:?}")) }
        })
        .await;
    }
    assert_eq!(browser.open(&format!("{BASE}/account")).await.url.path(), "/sign-in");
    let after = everything(world).await;
    for canary in [NAME, DEVICE, "ada@example.com", "ADA@example.com"] {
        let at = after.find(canary);
        assert!(at.is_none(), "{canary} is left: {}", &after[at.unwrap().saturating_sub(300)..][..400]);
    }
    assert!(after.contains("grace@example.com"), "whom she invited is somebody else");
    let log: Vec<String> =
        sqlx::query_scalar("SELECT to_jsonb(audit)::text FROM audit").fetch_all(world.db()).await.unwrap();
    let log = log.concat();
    assert!(!log.contains(NAME) && !log.contains("ada@example.com") && log.contains("account.erase"));

    // In the workspaces: where she sat, and where she had sat.
    eventually(Duration::from_secs(20), "both workspaces forget her", async || {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM erasure").fetch_one(world.db()).await.unwrap();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let path = format!("/api/v1/tasks/{task}/comments");
    let (_, comments) = app.send(bosses.ask(&app, Method::GET, &path)).await;
    let seen = &comments["items"][0];
    assert_eq!((seen["id"].as_str(), seen["author_name"].as_str()), (Some(hers.as_str()), Some(NOBODY)));
    assert_eq!(seen["body"], "Second draft it is.");
    for tenant in [&acme, &globex] {
        assert!(!workspace(world, tenant).await.contains(NAME), "{}", tenant.tenant.slug);
    }
    // Coming back is coming for the first time.
    let again = signed_in(&app, &rogue, "rogue", "ada").await;
    assert_ne!(account_in(&app, &again).await, Some(ada));
}

/// Everything in a workspace's own schema, as text.
async fn workspace(world: &World, tenant: &TenantDetail) -> String {
    use sqlx::Connection;
    let mut conn = sqlx::PgConnection::connect_with(&world.tenant_login(tenant)).await.unwrap();
    let mut all = String::new();
    for table in ["projects", "tasks", "comments", "activity", "idempotency"] {
        let rows = format!("SELECT coalesce(string_agg(to_jsonb(t)::text, ' '), '') FROM {table} t");
        let text: String = sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_one(&mut conn).await.unwrap();
        all.push_str(&text);
    }
    conn.close().await.unwrap();
    all
}

async fn erase(world: &World, here: Here, typed: &str) -> freehold::kernel::Result<()> {
    identity(world).account_erase(&tester(), here, typed).await
}

async fn at_home(world: &World, account: AccountId) -> Here {
    Here { account, session: fixture::sign_in(world, account).await.id }
}

/// Shown to fail: `nobody_is_left_alone` taken out; its lock taken out (both go).
#[tokio::test]
async fn an_owner_stays_until_somebody_else_is_one() {
    let world = World::new(Current::migrations()).await;
    let acme = world.tenant("acme").await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    seat(&world, &acme, ada, Role::Owner).await;
    seat(&world, &acme, bob, Role::Member).await;
    let here = at_home(&world, ada).await;
    let refused = erase(&world, here, "ada@example.com").await.unwrap_err();
    assert!(refused.is(&codes::STATE_CONFLICT));
    assert!(
        refused.public_detail().unwrap().contains("(acme)") && refused.public_hint().is_some(),
        "{refused:?}"
    );
    // An old sign-in, another address.
    world.hands.cp.clock.advance(TimeDelta::seconds(301));
    assert!(erase(&world, here, "ada@example.com").await.unwrap_err().is(&codes::CONFIRM_REQUIRED));
    let here = at_home(&world, ada).await;
    assert!(erase(&world, here, "").await.unwrap_err().is(&codes::INVALID_FIELDS));

    let mut tx = world.db().begin().await.unwrap();
    let (by, now) = (By { account: Some(ada), role: Role::Owner }, world.hands.cp.clock.now());
    member_change(&mut tx, &tester(), by, acme.tenant.id, bob, Role::Owner, now).await.unwrap();
    tx.commit().await.unwrap();
    // Two owners go at once: one of them stays.
    let there = at_home(&world, bob).await;
    let (one, other) =
        tokio::join!(erase(&world, here, "ada@example.com"), erase(&world, there, "bob@example.com"));
    assert_eq!([one.is_ok(), other.is_ok()].iter().filter(|ok| **ok).count(), 1, "{one:?} {other:?}");
    let owners: i64 = sqlx::query_scalar("SELECT count(*) FROM membership WHERE role = 'owner'")
        .fetch_one(world.db())
        .await
        .unwrap();
    assert_eq!(owners, 1);
    // A second time there is nobody to erase.
    let gone = if one.is_ok() { here } else { there };
    assert!(erase(&world, gone, "ada@example.com").await.unwrap_err().is(&codes::SIGN_IN_REQUIRED));
}

/// An address that nobody vouches for says nothing about whose it is.
///
/// Shown to fail: `email_verified` taken out of `addresses`.
#[tokio::test]
async fn a_claimed_address_erases_nothing_of_another() {
    let world = World::new(Current::migrations()).await;
    let acme = world.tenant("acme").await;
    let boss = person(&world, "boss").await;
    seat(&world, &acme, boss, Role::Owner).await;
    let new = NewInvitation { email: "grace@example.com".to_owned(), role: Role::Viewer };
    let by = By { account: Some(boss), role: Role::Owner };
    invite(&invitations::identity(&world, true), &tester(), by, acme.tenant.id, &new).await.unwrap();
    let mallory = person(&world, "mallory").await;
    sqlx::query("UPDATE account SET email = 'grace@example.com', email_verified = false WHERE id = $1")
        .bind(mallory)
        .execute(world.db())
        .await
        .unwrap();
    erase(&world, at_home(&world, mallory).await, "grace@example.com").await.unwrap();
    let open: (String, bool) = sqlx::query_as("SELECT email, revoked_at IS NULL FROM invitation")
        .fetch_one(world.db())
        .await
        .unwrap();
    assert_eq!(open, ("grace@example.com".to_owned(), true));
}

/// A suspended workspace forgets when it is back, and a purged one has nothing left to forget.
///
/// Shown to fail: `remind` doing nothing (after the job has failed for good).
#[tokio::test]
async fn a_workspace_that_is_away_forgets_later() {
    let options = AppOptions { worker: false, ..AppOptions::of::<Current>() };
    let app = TestApp::start::<Current>(options).await;
    let world = &app.world;
    let acme = world.tenant("acme").await;
    let (boss, ada) = (person(world, "boss").await, person(world, "ada").await);
    seat(world, &acme, boss, Role::Owner).await;
    seat(world, &acme, ada, Role::Admin).await;
    let browser = enter(world, fixture::sign_in(world, ada).await.id, &acme).await;
    comment(&app, &browser).await;
    let slug = TenantRef::Slug("acme".to_owned());
    let cp = &world.hands.cp;
    let run = tenant_suspend(cp, &tester(), &slug, "abuse").await.unwrap();
    world.finish(run).await;
    erase(world, at_home(world, ada).await, "ada@example.com").await.unwrap();
    // As the queue does with a job that failed eight times.
    sqlx::query("UPDATE job SET state = 'dead' WHERE kind = $1")
        .bind(erasure::JOB)
        .execute(world.db())
        .await
        .unwrap();
    let ready = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM job WHERE kind = $1 AND state = 'ready'")
            .bind(erasure::JOB)
            .fetch_one(world.db())
            .await
            .unwrap()
    };
    erasure::remind(cp).await.unwrap();
    assert_eq!(ready().await, 0, "it waits");
    let run = tenant_resume(cp, &tester(), &slug).await.unwrap();
    world.finish(run).await;
    for _ in 0..2 {
        erasure::remind(cp).await.unwrap();
        assert_eq!(ready().await, 1, "asked once");
    }
    assert!(workspace(world, &acme).await.contains("\"ada\""));
    // Twice is once.
    let jobs = freehold::app::tenant_jobs::<Current>(&world.hands);
    let payload = serde_json::to_value(Forget { account: ada }).unwrap();
    for _ in 0..2 {
        let held = freehold::jobs::queue::HeldJob {
            id: freehold::kernel::ids::JobId::new(),
            kind: erasure::JOB.to_owned(),
            tenant: Some(acme.tenant.id),
            payload: payload.clone(),
            attempts: 1,
            max_attempts: 8,
            fence: 1,
        };
        jobs.carry_out(&held).await.unwrap();
        let said = workspace(world, &acme).await;
        assert!(!said.contains("\"ada\"") && said.contains(NOBODY), "{said}");
    }
    assert_eq!(
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM erasure").fetch_one(world.db()).await.unwrap(),
        0
    );
}

/// `kill -9` at each moment of the job, with the real worker: another does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_forgets_nothing() {
    let options = AppOptions { worker: false, ..AppOptions::of::<Current>() };
    let app = TestApp::start::<Current>(options).await;
    let world = &app.world;
    let boss = person(world, "boss").await;
    let programs = Programs::new(env!("CARGO_BIN_EXE_freehold"), world).await;
    for (at, moment) in
        [Moment::BeforeEffect, Moment::AfterEffect, Moment::AfterRecord].into_iter().enumerate()
    {
        let name = format!("ada{at}");
        let tenant = world.tenant(&format!("acme{at}")).await;
        seat(world, &tenant, boss, Role::Owner).await;
        let ada = person(world, &name).await;
        seat(world, &tenant, ada, Role::Admin).await;
        let browser = enter(world, fixture::sign_in(world, ada).await.id, &tenant).await;
        comment(&app, &browser).await;
        erase(world, at_home(world, ada).await, &format!("{name}@example.com")).await.unwrap();
        let mark = world.folder.path().join(format!("{name}.fired"));
        let fault = format!("job:{}:{}", erasure::JOB, moment.as_str());
        let launch = Launch::worker()
            .env("FREEHOLD_FAULT", &fault)
            .env("FREEHOLD_FAULT_MARK", mark.display())
            .env("FREEHOLD_BASE_DOMAIN", "localhost");
        let mut doomed = programs.spawn(launch);
        let status = doomed.ended().await;
        assert!(mark.exists(), "{fault} did not fire");
        assert_eq!(status.signal(), Some(9), "{fault}");
        let _other = programs.start(Launch::worker().env("FREEHOLD_BASE_DOMAIN", "localhost")).await;
        eventually(Duration::from_secs(60), "another worker forgets her", async || {
            let left: i64 =
                sqlx::query_scalar("SELECT count(*) FROM erasure").fetch_one(world.db()).await.unwrap();
            let named = workspace(world, &tenant).await.contains(&format!("\"{name}\""));
            if left == 0 && !named { Ok(()) } else { Err(format!("{left} {named}")) }
        })
        .await;
    }
}

/// From a page of ours, by the person, and no other way.
#[tokio::test]
async fn another_site_erases_nobody() {
    let rogue = RogueIdp::start(freehold::kernel::Clock::System).await;
    let app = crate::oidc::fixture::site(vec![rogue.settings("rogue")]).await;
    let browser = signed_in(&app, &rogue, "rogue", "ada").await;
    let url = format!("{BASE}/account/delete").parse().unwrap();
    for (origin, csrf) in [(Some("https://evil.example"), true), (None, true), (Some(BASE), false)] {
        let proof = freehold::data_plane::tenancy::cookie::csrf_proof(
            &browser.cookie("localhost", freehold::data_plane::tenancy::cookie::SESSION_COOKIE).unwrap(),
        );
        let fields = [("address", "ada@example.com"), ("csrf", if csrf { proof.as_str() } else { "x" })];
        assert_eq!(browser.ask(Method::POST, &url, origin, Some(&fields)).await.status, 403);
    }
    assert_eq!(
        post(&Browser::new(&app), "/account/delete", &[("address", "ada@example.com")]).await.status,
        401
    );
    assert!(account_in(&app, &browser).await.is_some());
}
