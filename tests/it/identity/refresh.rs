//! Refresh tokens: each good once, forgiving for a moment, and the end of the session when it comes again (B9).

use std::time::Duration;

use chrono::TimeDelta;
use freehold::control_plane::audit::{AuditFilter, audit_list};
use freehold::identity::sessions::session_list;
use freehold::identity::sso::sso_method;
use freehold::kernel::Role;
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp, eventually};
use futures_util::future::join_all;
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::fixture::{identity, person, seat, sign_in, terminal};

/// Sends a form to the sign-in host of one replica.
pub async fn form(app: &TestApp, replica: usize, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
    let encoded = reqwest::Url::parse_with_params("form:", fields).unwrap();
    let request = app
        .client
        .post(app.replicas[replica].url(path))
        .header("host", "localhost")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(encoded.query().unwrap_or_default().to_owned());
    app.send(request).await
}

async fn refresh(app: &TestApp, replica: usize, token: &str, tenant: &str) -> (u16, Value) {
    let mut fields =
        vec![("client_id", "freehold-cli"), ("grant_type", "refresh_token"), ("refresh_token", token)];
    if !tenant.is_empty() {
        fields.push(("tenant", tenant));
    }
    form(app, replica, "/oauth/token", &fields).await
}

fn error(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"].as_str().unwrap_or_default())
}

/// Shown to fail: `Verdict::Stolen` treated as `Again` (the stolen token goes on); no GRACE (the good client dies).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_comes_twice_ends_its_family() {
    let app = TestApp::start::<Current>(AppOptions { replicas: 2, ..AppOptions::of::<Current>() }).await;
    let (world, clock) = (&app.world, &app.world.hands.cp.clock);
    let identity = identity(world);
    let acme = world.tenant("acme").await;
    let ada = person(world, "ada").await;
    seat(world, &acme, ada, Role::Owner).await;
    let base = sign_in(world, ada).await;
    let laptop = terminal(&identity, ada, base.id).await;
    let phone = terminal(&identity, ada, base.id).await;
    let first = laptop.tokens.refresh_token.expose_secret().to_owned();

    // A good client in a hurry, over two servers.
    let both = join_all((0..8).map(|n| refresh(&app, n % 2, &first, "acme"))).await;
    let mut newest = String::new();
    for (status, body) in &both {
        assert_eq!(*status, 200, "{body}");
        newest = body["refresh_token"].as_str().unwrap().to_owned();
        let access = body["access_token"].as_str().unwrap();
        assert_eq!(app.send(app.request(Method::GET, "acme", access, "/api/v1/me")).await.0, 200);
    }
    let (status, body) = refresh(&app, 1, &newest, "acme").await;
    assert_eq!(status, 200, "{body}");
    let (access, newest) = (body["access_token"].as_str().unwrap(), body["refresh_token"].as_str().unwrap());

    // The grace is counted from the first use: it cannot be drawn out.
    clock.advance(TimeDelta::seconds(6));
    assert_eq!(refresh(&app, 0, &first, "").await.0, 200);
    clock.advance(TimeDelta::seconds(6));
    assert_eq!(error(&refresh(&app, 0, &first, "").await), (400, "invalid_grant"));
    assert_eq!(error(&refresh(&app, 1, newest, "").await), (400, "invalid_grant"), "the family is dead");
    for replica in 0..2 {
        eventually(Duration::from_secs(1), "the access token is refused", async || {
            match app.send(app.on(replica, Method::GET, "acme", access, "/api/v1/me")).await {
                (401, _) => Ok(()),
                (status, body) => Err(format!("replica {replica}: {status} {body}")),
            }
        })
        .await;
    }
    let mut conn = world.db().acquire().await.unwrap();
    let filter = AuditFilter { action: Some("refresh_token.reuse".to_owned()), ..AuditFilter::default() };
    let lines = audit_list(&mut conn, &filter).await.unwrap().items;
    assert_eq!(lines.len(), 1, "one line for one theft");
    assert_eq!((&lines[0].subject, &lines[0].actor), (&laptop.session.to_string(), &ada.to_string()));
    // The other sessions are nobody's business.
    assert_eq!(session_list(&mut conn, ada, clock.now()).await.unwrap().len(), 2);
    assert_eq!(refresh(&app, 0, phone.tokens.refresh_token.expose_secret(), "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_token_endpoint_refuses_and_how() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let world = &app.world;
    let identity = identity(world);
    let (acme, _globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let ada = person(world, "ada").await;
    seat(world, &acme, ada, Role::Owner).await;
    let laptop = terminal(&identity, ada, sign_in(world, ada).await.id).await;
    let token = laptop.tokens.refresh_token.expose_secret().to_owned();
    let client = ("client_id", "freehold-cli");
    let by = ("grant_type", "refresh_token");
    let post = async |fields: &[(&str, &str)]| form(&app, 0, "/oauth/token", fields).await;

    let (most, last) = token.split_at(token.len() - 1);
    let wrong = format!("{most}{}", if last == "0" { "1" } else { "0" });
    for (what, fields, want) in [
        ("nothing", vec![], (401, "invalid_client")),
        (
            "another client",
            vec![("client_id", "evil"), by, ("refresh_token", &token)],
            (401, "invalid_client"),
        ),
        ("no grant type", vec![client], (400, "invalid_request")),
        ("a password", vec![client, ("grant_type", "password")], (400, "unsupported_grant_type")),
        ("no token", vec![client, by], (400, "invalid_request")),
        ("twice", vec![client, by, by, ("refresh_token", &token)], (400, "invalid_request")),
        ("a mistyped token", vec![client, by, ("refresh_token", &wrong)], (400, "invalid_grant")),
        ("a session's token", vec![client, by, ("refresh_token", "fhs_x")], (400, "invalid_grant")),
        (
            "a tenant of others",
            vec![client, by, ("refresh_token", &token), ("tenant", "globex")],
            (400, "invalid_target"),
        ),
        (
            "a tenant that is none",
            vec![client, by, ("refresh_token", &token), ("tenant", "no such thing")],
            (400, "invalid_target"),
        ),
    ] {
        let answer = post(&fields).await;
        assert_eq!(error(&answer), want, "{what}: {}", answer.1);
        assert!(answer.1["error_description"].is_string() && answer.1["code"].is_null(), "{what}");
    }
    // None of that used the token up; unknown parameters are passed over.
    let (status, body) = post(&[client, by, ("refresh_token", &token), ("scope", "x")]).await;
    assert_eq!((status, &body["token_type"], &body["expires_in"]), (200, &"Bearer".into(), &600.into()));
    let newest = body["refresh_token"].as_str().unwrap();

    // A tenant that wants its people to come by its own provider. Shown to fail: `sso_allows_session` in `token_refresh`.
    sqlx::raw_sql(
        "INSERT INTO tenant_sso (tenant, issuer, client_id, client_secret, enforced, created_at, updated_at)
         SELECT id, 'https://id.example.com', 'x', 'x', true, now(), now() FROM tenant WHERE slug = 'acme';
         INSERT INTO email_domain (tenant, domain, challenge, created_at, verified_at)
         SELECT id, 'example.com', 'x', now(), now() FROM tenant WHERE slug = 'acme'",
    )
    .execute(world.db())
    .await
    .unwrap();
    let for_acme = [client, by, ("refresh_token", newest), ("tenant", "acme")];
    assert_eq!(error(&post(&for_acme).await), (400, "interaction_required"));
    sqlx::query("UPDATE session SET method = $2 WHERE id = $1")
        .bind(laptop.session)
        .bind(sso_method(acme.tenant.id))
        .execute(world.db())
        .await
        .unwrap();
    let (status, body) = post(&for_acme).await;
    assert_eq!(status, 200, "{body}");
    let newest = body["refresh_token"].as_str().unwrap();

    let answer = app
        .client
        .post(app.replicas[0].url("/oauth/token"))
        .header("host", "localhost")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("client_id=freehold-cli")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let at_a_tenant = app.client.post(app.replicas[0].url("/oauth/token")).header("host", "acme.localhost");
    assert_eq!(app.send(at_a_tenant).await.0, 404);

    let revoke = async |token: &str| form(&app, 0, "/oauth/revoke", &[client, ("token", token)]).await;
    assert_eq!(revoke(&wrong).await.0, 200, "what is not ours is gone already");
    assert_eq!(error(&revoke("eyJhbGciOiJub25lIn0.e30.").await), (400, "unsupported_token_type"));
    assert_eq!(revoke(newest).await.0, 200);
    assert_eq!(error(&post(&[client, by, ("refresh_token", newest)]).await), (400, "invalid_grant"));
    let mut conn = world.db().acquire().await.unwrap();
    let left = session_list(&mut conn, ada, world.hands.cp.clock.now()).await.unwrap();
    assert_eq!(left.len(), 1, "the browser's session stays");
}
