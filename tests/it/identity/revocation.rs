//! What was taken away is refused by every server within a second, whatever it was shown as: cookie, token or key (B8).

use std::time::{Duration, Instant};

use freehold::control_plane::access::tenant_suspend;
use freehold::control_plane::tenants::TenantRef;
use freehold::identity::keys::{api_key_list, api_key_revoke};
use freehold::identity::members::{By, member_change, member_remove};
use freehold::identity::sessions::{session_revoke, session_revoke_others};
use freehold::kernel::Role;
use freehold::kernel::ids::{AccountId, SessionId};
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp, tester};
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::fixture::{Browser, enter, identity, person, seat, sign_in, terminal};

const REPLICAS: usize = 3;
const PROJECTS: &str = "/api/v1/projects";
/// What the issue promises.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// One person's ways in.
struct Ways {
    account: AccountId,
    base: SessionId,
    cli: SessionId,
    browser: Browser,
    token: String,
}

impl Ways {
    async fn of(app: &TestApp, name: &str, role: Role) -> Self {
        let world = &app.world;
        let acme = world.show("acme").await;
        let account = person(world, name).await;
        seat(world, &acme, account, role).await;
        let base = sign_in(world, account).await.id;
        let identity = identity(world);
        let mut laptop = terminal(&identity, account, base).await;
        let token = laptop.token(&identity, "acme").await;
        Self { account, base, cli: laptop.session, browser: enter(world, base, &acme).await, token }
    }

    fn cookie(&self, app: &TestApp, replica: usize) -> RequestBuilder {
        let csrf = freehold::data_plane::tenancy::cookie::csrf_proof(&self.browser.token);
        app.client
            .post(app.replicas[replica].url(PROJECTS))
            .header("host", "acme.localhost")
            .header("origin", "http://acme.localhost")
            .header("x-freehold-csrf", csrf)
            .header("cookie", format!("__Host-freehold={}", self.browser.token))
    }

    fn token(&self, app: &TestApp, replica: usize) -> RequestBuilder {
        app.on(replica, Method::POST, "acme", &self.token, PROJECTS)
    }

    async fn everywhere(&self, app: &TestApp, cookie: u16, token: u16, since: Instant, what: &str) {
        everywhere(app, &|replica| self.cookie(app, replica), cookie, since, &format!("{what}: cookie"))
            .await;
        everywhere(app, &|replica| self.token(app, replica), token, since, &format!("{what}: token")).await;
    }
}

/// All servers are asked side by side, again and again, until each gives this status; each must within a second of
/// `since`.
async fn everywhere(
    app: &TestApp,
    request: &dyn Fn(usize) -> RequestBuilder,
    status: u16,
    since: Instant,
    what: &str,
) {
    join_all((0..REPLICAS).map(async |replica| {
        loop {
            // The question is put in time; the answer may take as long as a busy machine needs.
            let asked = since.elapsed();
            let (seen, body) = app.send(request(replica).json(&json!({ "name": "More" }))).await;
            if seen == status {
                return;
            }
            assert!(
                asked < SEEN_WITHIN,
                "{what}: replica {replica} after {asked:?}: {seen}, not {status}: {body}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }))
    .await;
}

/// Shown to fail: without the notification in `session_revoke` the cookie goes on; without the session's check in
/// `by_token` the token does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_away_is_refused_everywhere_within_a_second() {
    let app =
        TestApp::start::<Current>(AppOptions { replicas: REPLICAS, ..AppOptions::of::<Current>() }).await;
    let (world, cp) = (&app.world, &app.world.hands.cp);
    let acme = world.tenant("acme").await.tenant.id;
    let people = ["removed", "demoted", "signed-out", "lost-laptop", "everywhere"];
    let mut ways = Vec::new();
    for name in people {
        ways.push(Ways::of(&app, name, Role::Manager).await);
    }
    let [removed, demoted, signed_out, lost, all_over] = &ways[..] else { unreachable!() };
    let stays = Ways::of(&app, "stays", Role::Owner).await;
    let key = app.key("acme", Role::Manager).await;
    let by_key = |replica| app.on(replica, Method::POST, "acme", &key, PROJECTS);
    let patience = || Instant::now() + Duration::from_secs(30);
    for one in ways.iter().chain([&stays]) {
        one.everywhere(&app, 201, 201, patience(), "before").await;
    }
    everywhere(&app, &by_key, 201, patience(), "key, before").await;

    let by = By { account: Some(stays.account), role: Role::Owner };
    let mut tx = world.db().begin().await.unwrap();
    member_remove(&mut tx, &tester(), by, acme, removed.account, cp.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    removed.everywhere(&app, 404, 404, Instant::now(), "removed").await;

    let mut tx = world.db().begin().await.unwrap();
    let to = Role::Viewer;
    member_change(&mut tx, &tester(), by, acme, demoted.account, to, cp.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    demoted.everywhere(&app, 403, 403, Instant::now(), "demoted").await;

    // The browser's session ends; the terminal has one of its own.
    let mut tx = world.db().begin().await.unwrap();
    session_revoke(&mut tx, signed_out.account, signed_out.base, cp.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    signed_out.everywhere(&app, 401, 201, Instant::now(), "browser signed out").await;
    let mut tx = world.db().begin().await.unwrap();
    session_revoke(&mut tx, lost.account, lost.cli, cp.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    lost.everywhere(&app, 201, 401, Instant::now(), "terminal signed out").await;
    let mut tx = world.db().begin().await.unwrap();
    session_revoke_others(&mut tx, all_over.account, None, cp.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    all_over.everywhere(&app, 401, 401, Instant::now(), "signed out everywhere").await;

    let named = TenantRef::Slug("acme".to_owned());
    let mut conn = world.db().acquire().await.unwrap();
    let id = api_key_list(&mut conn, &named, &Default::default()).await.unwrap().items[0].id;
    drop(conn);
    api_key_revoke(cp, &tester(), id).await.unwrap();
    everywhere(&app, &by_key, 401, Instant::now(), "revoked key").await;

    // Nobody else noticed any of it, until the tenant itself is shut.
    stays.everywhere(&app, 201, 201, Instant::now(), "the one who stays").await;
    tenant_suspend(cp, &tester(), &named, "test").await.unwrap();
    stays.everywhere(&app, 403, 403, Instant::now(), "suspended tenant").await;
}
