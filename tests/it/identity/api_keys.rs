//! API keys of a workspace (trust B12): made by its people, confined to scopes, never more than their maker.

use std::collections::BTreeSet;
use std::time::Duration;

use freehold::identity::keys::{NewOwnKey, own_key_create};
use freehold::identity::members::By;
use freehold::kernel::Role;
use freehold::kernel::credentials::{KeyKind, hash, parse};
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp, eventually, tester};
use reqwest::Method;
use serde_json::{Value, json};

use super::fixture::{Browser, enter, person, seat, sign_in};
use crate::openapi_walk::{operations, random_like};

const KEYS: &str = "/api/v1/api-keys";

async fn app() -> TestApp {
    TestApp::start::<Current>(AppOptions { worker: false, replicas: 2, ..AppOptions::of::<Current>() }).await
}

/// A person with this role in a workspace, in a browser.
async fn browser(app: &TestApp, slug: &str, role: Role) -> Browser {
    let tenant = app.world.show(slug).await;
    let account = person(&app.world, &format!("{slug}-{role}")).await;
    seat(&app.world, &tenant, account, role).await;
    enter(&app.world, sign_in(&app.world, account).await.id, &tenant).await
}

async fn make(app: &TestApp, by: &Browser, body: Value) -> (u16, Value) {
    app.send(by.ask(app, Method::POST, KEYS).json(&body)).await
}

/// A key with a role and scopes, made by the service.
async fn scoped(app: &TestApp, slug: &str, role: Role, scopes: Option<&[&str]>) -> String {
    let scopes = scopes.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
    let new = NewOwnKey { name: "scoped".to_owned(), role, scopes, expires_at: None };
    let by = By { account: None, role: Role::Owner };
    let tenant = app.world.show(slug).await.tenant.id;
    own_key_create(&app.world.hands.cp, &tester(), by, tenant, &new).await.unwrap().key
}

/// B12: prefix, checksum, length, the hash alone in the database, shown once.
///
/// Shown to fail: the key's text written into `tail`.
#[tokio::test]
async fn a_key_is_recognisable_long_and_kept_as_a_hash() {
    let app = app().await;
    app.world.tenant("acme").await;
    let ada = browser(&app, "acme", Role::Admin).await;
    let mut secrets = BTreeSet::new();
    for n in 0..20 {
        let (status, made) = make(&app, &ada, json!({ "name": format!("key {n}"), "role": "member" })).await;
        assert_eq!(status, 201, "{made}");
        let key = made["key"].as_str().unwrap();
        assert!(key.starts_with("fhk_"), "a scanner of secrets knows it by its prefix");
        // 32 letters: 5 bits each. 40 of them are 200 bits; the seven after them are the checksum.
        let secret = &key[4..44];
        assert!(secret.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'v').contains(&b)));
        assert!(secret.len() * 5 >= 160);
        assert_eq!(parse(KeyKind::Tenant, key), Some(hash(key)));
        let mut wrong = key.to_owned();
        wrong.replace_range(10..11, if &key[10..11] == "0" { "1" } else { "0" });
        assert_eq!(parse(KeyKind::Tenant, &wrong), None, "a mistyped key needs no look-up");
        assert!(made["created_by"].as_str().unwrap().starts_with("acc_"));
        assert!(secrets.insert(key.to_owned()));

        let request = app.request(Method::GET, "acme", key, "/api/v1/me");
        assert_eq!(app.send(request).await.0, 200);
    }
    for place in 4..44 {
        let seen: BTreeSet<u8> = secrets.iter().map(|key| key.as_bytes()[place]).collect();
        assert!(seen.len() > 4, "place {place} is hardly random: {seen:?}");
    }
    // Neither the list nor any table of the control database tells it.
    let (_, listed) = app.send(ada.ask(&app, Method::GET, &format!("{KEYS}?limit=100"))).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 20);
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace",
    )
    .fetch_all(app.world.db())
    .await
    .unwrap();
    assert!(tables.iter().any(|table| table == "api_key") && tables.len() > 20);
    let mut everything = listed.to_string();
    for table in tables {
        let all = format!("SELECT coalesce(string_agg(to_jsonb(t)::text, ' '), '') FROM {table} t");
        let text: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(all)).fetch_one(app.world.db()).await.unwrap();
        everything.push_str(&text);
    }
    for key in &secrets {
        assert!(!everything.contains(&key[4..44]), "a key is kept");
        let hex = data_encoding::HEXLOWER.encode(key.as_bytes());
        assert!(!everything.contains(&hex), "a key is kept as bytes");
        let hash = data_encoding::HEXLOWER.encode(&hash(key));
        assert!(everything.contains(&hash), "its hash is what is kept, or this test sees nothing");
    }
}

/// Every operation against every scope there is, from the document: a new operation joins by itself.
///
/// Shown to fail: `self.scopes.check` taken out of the door (everything is reached); `HEAD` and unknown
/// paths are in `scopes`' own tests.
#[tokio::test]
async fn a_key_with_scopes_reaches_exactly_what_they_name() {
    let app = app().await;
    app.world.tenant("acme").await;
    let document = serde_json::to_value(freehold::app::openapi()).unwrap();
    let operations = operations(&document, "/api/");
    let all: BTreeSet<String> = operations.iter().filter_map(|operation| operation.scope()).collect();
    assert!(all.len() >= 10, "{all:?}");
    let (mut reached, mut refused) = (0, 0);
    for scope in &all {
        let key = scoped(&app, "acme", Role::Owner, Some(&[scope])).await;
        for operation in &operations {
            let url = operation.at(&random_like("prj_00000000000000000000000000"));
            let mut request = app.request(operation.method.clone(), "acme", &key, &url);
            if let Some(body) = operation.body_with("prj_00000000000000000000000000") {
                request = request.json(&body);
            }
            let (status, body) = app.send(request).await;
            let open = operation.scope().as_ref() == Some(scope);
            // A key with scopes makes no key without: that refusal is the operation's own.
            let own = operation.path == KEYS && operation.method == Method::POST;
            assert_eq!(
                status != 403,
                open && !own,
                "{scope}: {} {}: {body}",
                operation.method,
                operation.path
            );
            assert_ne!(status, 401, "{scope}");
            assert_ne!(status, 429, "{scope}: the test asks too fast");
            if open { reached += 1 } else { refused += 1 }
        }
        // Pages have no scope, and none is let in.
        let (status, _) = app.send(app.request(Method::GET, "acme", &key, "/members")).await;
        assert_eq!(status, 403, "{scope} at a page");
    }
    assert!(reached > 20 && refused > 200, "{reached} {refused}");
}

/// Shown to fail: `new.role > by.role` taken out of `own_key_create`; `ctx.may_grant` taken out; `tenant = $2` taken out of
/// `own_key_revoke`; `role > by.role` taken out of it.
#[tokio::test]
async fn a_key_is_never_more_than_its_maker() {
    let app = app().await;
    for slug in ["acme", "globex"] {
        app.world.tenant(slug).await;
    }
    for role in Role::ALL {
        let by = browser(&app, "acme", role).await;
        for wanted in Role::ALL {
            let (status, body) = make(&app, &by, json!({ "name": "k", "role": wanted })).await;
            let allowed = role >= Role::Admin && wanted <= role;
            assert_eq!(status, if allowed { 201 } else { 403 }, "{role} makes {wanted}: {body}");
        }
    }
    // By a key with scopes: of its own, and fewer; not others, not none.
    let key = scoped(&app, "acme", Role::Admin, Some(&["api-keys:write", "tasks:read"])).await;
    for (scopes, wanted) in [
        (json!(["tasks:read"]), 201),
        (json!(["tasks:read", "api-keys:write"]), 201),
        (json!(["tasks:write"]), 403),
        (json!(["tasks:read", "members:write"]), 403),
        (json!(null), 403),
        (json!([]), 422),
        (json!(["tasks:everything"]), 422),
        (json!(["*"]), 422),
    ] {
        let body = json!({ "name": "k", "role": "member", "scopes": scopes });
        let (status, body) = app.send(app.request(Method::POST, "acme", &key, KEYS).json(&body)).await;
        assert_eq!(status, wanted, "{scopes}: {body}");
    }
    let past = json!({ "name": "k", "role": "member", "expires_at": "2020-01-01T00:00:00Z" });
    let admin = app.key("acme", Role::Admin).await;
    let (status, _) = app.send(app.request(Method::POST, "acme", &admin, KEYS).json(&past)).await;
    assert_eq!(status, 422, "an end in the past");

    // Revoked by an admin: of their workspace, and not above them; then dead on every server.
    let id_of = async |slug: &str, key: &str| -> String {
        let (_, me) = app.send(app.request(Method::GET, slug, key, "/api/v1/me")).await;
        me["id"].as_str().unwrap().to_owned()
    };
    let (owner, member) = (app.key("acme", Role::Owner).await, app.key("acme", Role::Member).await);
    let foreign = app.key("globex", Role::Viewer).await;
    for (slug, key, wanted) in [("acme", &owner, 403), ("globex", &foreign, 404), ("acme", &member, 204)] {
        let url = format!("{KEYS}/{}", id_of(slug, key).await);
        let (status, body) = app.send(app.request(Method::DELETE, "acme", &admin, &url)).await;
        assert_eq!(status, wanted, "{slug}: {body}");
    }
    for replica in 0..2 {
        eventually(Duration::from_secs(5), "the key is refused", async || {
            match app.send(app.on(replica, Method::GET, "acme", &member, "/api/v1/me")).await.0 {
                401 => Ok(()),
                status => Err(status),
            }
        })
        .await;
        assert_eq!(app.send(app.on(replica, Method::GET, "globex", &foreign, "/api/v1/me")).await.0, 200);
    }
}
