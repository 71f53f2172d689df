//! Who is served, and with whose rows. Each test says whose removal it is there to notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use chrono::TimeDelta;
use freehold::control_plane::access::{tenant_delete, tenant_resume, tenant_suspend};
use freehold::control_plane::tenants::TenantRef;
use freehold::data_plane::limits::Limiter;
use freehold::db::control;
use freehold::identity::keys::{NewApiKey, api_key_list, api_key_revoke};
use freehold::kernel::credentials::{KeyKind, make};
use freehold::kernel::{Entropy, Role};
use freehold::testkit::{Cluster, Mode, Proxy, World, WorldOptions, eventually, tester};
use http::Request;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use super::edge::{Site, ask};
use super::provisioning::TABLES;

const WHOAMI: &str = "/api/v1/whoami";

async fn two_tenants() -> (Site, String, String) {
    let site = Site::new().await;
    site.world.tenant("acme").await;
    site.world.tenant("globex").await;
    sqlx::query(
        "INSERT INTO tenant_domain (domain, tenant, created_at)
         SELECT 'work.' || slug || '.io', id, now() FROM tenant",
    )
    .execute(site.world.db())
    .await
    .unwrap();
    let acme = site.key("acme", Role::Owner).await;
    let globex = site.key("globex", Role::Owner).await;
    (site, acme, globex)
}

/// Host, request target, headers; what the answer is.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], (u16, &'a str));

/// A2. Guard: `decide::agree` in `Tenancy::recognise`. Without that call the refusals below become 200 (with acme's own
/// rows: the tenant served is the key's, whatever a request claims).
#[tokio::test]
async fn forged_headers_and_hosts_get_nothing() {
    let (site, key, _) = two_tenants().await;
    let acme = site.world.show("acme").await;
    let acme_id = acme.tenant.id.to_string();
    let globex_id = site.world.show("globex").await.tenant.id.to_string();
    let cases: &[Case] = &[
        ("acme.localhost", WHOAMI, &[], (200, "")),
        ("ACME.LocalHost.:8080", WHOAMI, &[], (200, "")),
        ("work.acme.io", WHOAMI, &[], (200, "")),
        ("localhost", WHOAMI, &[("x-freehold-tenant", "acme")], (200, "")),
        ("127.0.0.1:8080", WHOAMI, &[("x-freehold-tenant", &acme_id)], (200, "")),
        ("[::1]:8080", WHOAMI, &[("x-freehold-tenant", &acme_id)], (200, "")),
        // Claims about another host that must not be believed, and do no harm.
        ("acme.localhost", WHOAMI, &[("x-forwarded-host", "globex.localhost")], (200, "")),
        ("acme.localhost", WHOAMI, &[("forwarded", "host=globex.localhost")], (200, "")),
        ("acme.localhost", WHOAMI, &[("x-host", "globex.localhost"), ("x-original-url", "/x")], (200, "")),
        ("acme.localhost", "http://acme.localhost/api/v1/whoami", &[], (200, "")),
        // Another tenant, or none: one answer.
        ("globex.localhost", WHOAMI, &[], (404, "tenant_not_found")),
        ("nobody.localhost", WHOAMI, &[], (404, "tenant_not_found")),
        ("work.globex.io", WHOAMI, &[], (404, "tenant_not_found")),
        ("work.nobody.io", WHOAMI, &[], (404, "tenant_not_found")),
        ("acme.localhost.evil.io", WHOAMI, &[], (404, "tenant_not_found")),
        ("globex.localhost", WHOAMI, &[("x-forwarded-host", "acme.localhost")], (404, "tenant_not_found")),
        ("globex.localhost", WHOAMI, &[("x-freehold-tenant", "acme")], (404, "tenant_not_found")),
        ("acme.localhost", WHOAMI, &[("x-freehold-tenant", "globex")], (404, "tenant_not_found")),
        ("acme.localhost", WHOAMI, &[("x-freehold-tenant", &globex_id)], (404, "tenant_not_found")),
        ("localhost", WHOAMI, &[("x-freehold-tenant", "globex")], (404, "tenant_not_found")),
        ("localhost", WHOAMI, &[("x-freehold-tenant", &globex_id)], (404, "tenant_not_found")),
        ("localhost", WHOAMI, &[("x-freehold-tenant", "nobody")], (404, "tenant_not_found")),
        ("localhost", WHOAMI, &[], (400, "tenant_required")),
        // Two answers to one question.
        (
            "localhost",
            WHOAMI,
            &[("x-freehold-tenant", "acme"), ("x-freehold-tenant", "globex")],
            (400, "bad_request"),
        ),
        ("acme.localhost", WHOAMI, &[("host", "globex.localhost")], (400, "bad_request")),
        ("acme.localhost", "http://globex.localhost/api/v1/whoami", &[], (400, "bad_request")),
        ("globex.localhost", "http://acme.localhost/api/v1/whoami", &[], (400, "bad_request")),
        ("acme.localhost@globex.localhost", WHOAMI, &[], (400, "bad_request")),
    ];
    for (host, path, headers, (status, code)) in cases {
        let mut request = ask(host, path, &key);
        for (name, value) in *headers {
            request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let reply = site.send(request).await;
        let case = format!("{host} {path} {headers:?}");
        assert_eq!(
            reply.code(),
            (*status, (*code).to_owned()),
            "{case}: {}",
            String::from_utf8_lossy(&reply.body)
        );
        if *status == 200 {
            assert_eq!(reply.json()["login"], acme.role.as_deref().unwrap(), "{case}");
            assert_eq!(reply.header("cache-control"), "private, no-store", "{case}");
        }
        assert!(!String::from_utf8_lossy(&reply.body).contains("globex"), "{case}: foreign bytes");
    }
}

/// Guard: the credential is looked at before the host. Without a good key a request learns nothing: every host answers
/// the same.
#[tokio::test]
async fn without_a_good_key_every_host_answers_401() {
    let (site, key, _) = two_tenants().await;
    let unknown = make(KeyKind::Tenant, &Entropy::default());
    let operator = make(KeyKind::Operator, &Entropy::default());
    let mut mistyped = key.clone();
    let last = if mistyped.pop() == Some('0') { '1' } else { '0' };
    mistyped.push(last);
    for host in ["acme.localhost", "nobody.localhost", "localhost", "work.acme.io", "evil.io", "bad host"] {
        for bad in [unknown.key.expose_secret(), operator.key.expose_secret(), mistyped.as_str(), "", "x"] {
            let reply = site.get(host, WHOAMI, bad).await;
            assert_eq!(reply.code(), (401, "unauthenticated".to_owned()), "{host} {bad:?}");
            assert!(reply.header("www-authenticate").starts_with("Bearer"));
        }
        let request = Request::get(WHOAMI).header("host", host).body(Body::empty()).unwrap();
        assert_eq!(site.send(request).await.code().0, 401, "{host} without a credential");
    }
}

/// A8. Guard: `decide::agree`, as for A2. Cold: nothing about either tenant or key is in memory. Warm: all of it is.
#[tokio::test]
async fn a_key_of_a_on_the_host_of_b_is_refused_cold_and_warm() {
    let (site, acme, globex) = two_tenants().await;
    for round in ["cold", "warm"] {
        for (host, key) in [("globex.localhost", &acme), ("acme.localhost", &globex)] {
            let reply = site.get(host, WHOAMI, key).await;
            assert_eq!(reply.code(), (404, "tenant_not_found".to_owned()), "{round} {host}");
        }
        // Warms both.
        assert_eq!(site.get("acme.localhost", WHOAMI, &acme).await.status, 200);
        assert_eq!(site.get("globex.localhost", WHOAMI, &globex).await.status, 200);
    }
}

/// Shown to fail: `revoked_at IS NULL` taken out of `load::key_by_hash`; `keys.invalidate` out of `Directory::apply`. Without
/// the second the warm key would live on until it is looked up again.
#[tokio::test]
async fn a_revoked_key_is_refused_within_a_second() {
    let (site, key, other) = two_tenants().await;
    assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.status, 200);
    let tenant = TenantRef::Slug("acme".to_owned());
    let mut conn = site.world.db().acquire().await.unwrap();
    let id = api_key_list(&mut conn, &tenant, &Default::default()).await.unwrap().items[0].id;
    api_key_revoke(&site.world.hands.cp, &tester(), id).await.unwrap();
    eventually(Duration::from_secs(1), "the revoked key is refused", async || {
        let reply = site.get("acme.localhost", WHOAMI, &key).await;
        if reply.status == 401 { Ok(()) } else { Err(reply.status) }
    })
    .await;
    assert_eq!(site.get("globex.localhost", WHOAMI, &other).await.status, 200);
}

/// Guard: `Key::live` in `Tenancy::recognise`, asked at every use of a cached key.
#[tokio::test]
async fn a_key_expires_on_time_though_it_is_cached() {
    let (site, ..) = two_tenants().await;
    let expires_at = Some(site.clock.now() + TimeDelta::minutes(5));
    let new = NewApiKey { name: "short".to_owned(), role: Role::Viewer, expires_at };
    let key = site.key_with("acme", &new).await;
    assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.status, 200);
    site.clock.advance(TimeDelta::minutes(6));
    assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.code(), (401, "unauthenticated".to_owned()));
}

/// Guard: `decide::served`, kept true by `Change::Tenant`.
#[tokio::test]
async fn each_state_has_its_answer_within_a_second() {
    let (site, key, other) = two_tenants().await;
    let cp = &site.world.hands.cp;
    let slug = TenantRef::Slug("acme".to_owned());
    assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.status, 200);
    let run = tenant_suspend(cp, &tester(), &slug, "abuse").await.unwrap();
    until(&site, &key, (403, "tenant_suspended")).await;
    site.world.finish(run).await;
    let run = tenant_resume(cp, &tester(), &slug).await.unwrap();
    site.world.finish(run).await;
    until(&site, &key, (200, "")).await;
    tenant_delete(cp, &tester(), &slug, "over").await.unwrap();
    until(&site, &key, (404, "tenant_not_found")).await;
    assert_eq!(site.get("globex.localhost", WHOAMI, &other).await.status, 200);
}

async fn until(site: &Site, key: &str, want: (u16, &str)) {
    let want = (want.0, want.1.to_owned());
    eventually(Duration::from_secs(1), "the new state is answered", async || {
        let code = site.get("acme.localhost", WHOAMI, key).await.code();
        if code == want { Ok(()) } else { Err(format!("{code:?}")) }
    })
    .await;
}

/// Guard: `Flights::join`. Without it every request of the burst asks the control database.
#[tokio::test]
async fn a_burst_on_a_cold_key_is_one_lookup() {
    let (site, key, _) = two_tenants().await;
    let site = Arc::new(site);
    let before = site.directory.health().lookups;
    let burst: Vec<_> = (0..100)
        .map(|_| {
            let (site, key) = (site.clone(), key.clone());
            tokio::spawn(async move { site.get("acme.localhost", WHOAMI, &key).await.status })
        })
        .collect();
    for reply in burst {
        assert_eq!(reply.await.unwrap(), 200);
    }
    // One for the key, one for its tenant.
    assert_eq!(site.directory.health().lookups - before, 2);
    // Warm: none. Unknown: once, then remembered.
    let unknown = make(KeyKind::Tenant, &Entropy::default());
    for _ in 0..5 {
        assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.status, 200);
        assert_eq!(site.get("acme.localhost", WHOAMI, unknown.key.expose_secret()).await.status, 401);
    }
    assert_eq!(site.directory.health().lookups - before, 3);
}

/// D2. Guard: the old entry is served when a lookup fails (`Directory::settle`), and an unknown one is 503, not 404 or
/// 401 (`Directory::look_up`).
#[tokio::test]
async fn known_tenants_are_served_while_the_control_database_is_away() {
    for mode in [Mode::Refuse, Mode::Blackhole] {
        let (site, proxy) = over_a_proxy().await;
        let key = site.key("acme", Role::Owner).await;
        let cold = site.key("acme", Role::Owner).await;
        assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.status, 200);
        proxy.set(mode);
        // A hung peer is noticed by the listener's heartbeat; all is doubtful from then on.
        eventually(Duration::from_secs(15), "the loss is noticed", async || {
            if site.directory.health().listening { Err("still listening") } else { Ok(()) }
        })
        .await;
        let mut slow = 0;
        for _ in 0..50 {
            let asked = Instant::now();
            let reply = site.get("acme.localhost", WHOAMI, &key).await;
            assert_eq!(reply.status, 200, "{mode:?}: {}", String::from_utf8_lossy(&reply.body));
            slow += usize::from(asked.elapsed() > Duration::from_millis(500));
        }
        assert!(slow <= 2, "{mode:?}: {slow} of 50 requests waited for a database that is away");
        let asked = Instant::now();
        let reply = site.get("acme.localhost", WHOAMI, &cold).await;
        assert_eq!(reply.code(), (503, "control_unavailable".to_owned()), "{mode:?}");
        assert_eq!(reply.header("retry-after"), "1");
        assert!(asked.elapsed() < Duration::from_millis(2_500));
        // Back again: the outage is over for everybody.
        proxy.set(Mode::Pass);
        site.heard().await;
        eventually(Duration::from_secs(5), "the unknown key is known", async || {
            let status = site.get("acme.localhost", WHOAMI, &cold).await.status;
            if status == 200 { Ok(()) } else { Err(status) }
        })
        .await;
    }
}

/// Guard: the two `doubt_everything` of the listener, at the loss and at the return (either is enough here): what was
/// said meanwhile was not heard.
#[tokio::test]
async fn a_key_revoked_while_nobody_listened_is_refused() {
    let (site, proxy) = over_a_proxy().await;
    let key = site.key("acme", Role::Owner).await;
    assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.status, 200);
    proxy.set(Mode::Refuse);
    eventually(Duration::from_secs(15), "the loss is noticed", async || {
        if site.directory.health().listening { Err("still listening") } else { Ok(()) }
    })
    .await;
    let mut conn = site.world.db().acquire().await.unwrap();
    let keys = api_key_list(&mut conn, &TenantRef::Slug("acme".to_owned()), &Default::default())
        .await
        .unwrap()
        .items;
    api_key_revoke(&site.world.hands.cp, &tester(), keys[0].id).await.unwrap();
    proxy.set(Mode::Pass);
    site.heard().await;
    assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.status, 401);
}

/// A site that reaches its control database through a proxy, with one tenant.
async fn over_a_proxy() -> (Site, Proxy) {
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    world.tenant("acme").await;
    let port = Cluster::shared().await.server(0).port();
    let proxy = Proxy::to_port(port).await;
    let db = through(&proxy, &world);
    let site = Site::over(world, db, Limiter::new(None, 1), Duration::from_secs(30)).await;
    (site, proxy)
}

fn through(proxy: &Proxy, world: &World) -> PgPool {
    let options = control::options(&SecretString::from(world.control_url.clone()), "test").unwrap();
    PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy_with(options.host("127.0.0.1").port(proxy.port()))
}

/// The last use of a key is written, once.
#[tokio::test]
async fn the_last_use_of_a_key_is_noted() {
    let (site, key, _) = two_tenants().await;
    for _ in 0..3 {
        assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.status, 200);
    }
    let mut conn = site.world.db().acquire().await.unwrap();
    eventually(Duration::from_secs(10), "the use is written", async || {
        let keys = api_key_list(&mut conn, &TenantRef::Slug("acme".to_owned()), &Default::default())
            .await
            .unwrap()
            .items;
        keys[0].last_used_at.map(drop).ok_or("never used")
    })
    .await;
}

/// D5. Guard: `TenantContext::look_again`. Nobody tells the server: it finds out by the refused login, looks once, and
/// answers for what it finds.
#[tokio::test]
async fn a_refused_login_looks_again_and_tries_once_more() {
    let (site, key, _) = two_tenants().await;
    let acme = site.world.show("acme").await;
    let role = acme.role.clone().unwrap();
    let (_, shard_url) = site.world.shard_of(&acme);
    let mut shard = PgConnection::connect(shard_url).await.unwrap();
    let mut sql = async |statement: String| {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut shard).await.unwrap();
    };
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    let control = async |statement: &'static str| {
        sqlx::query(statement).execute(site.world.db()).await.unwrap();
    };
    assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.status, 200);

    // The password was rotated: the new one is found, and the request is answered.
    let verifier = site.world.hands.master.scram_verifier(&role, 2);
    control("UPDATE placement SET credential_version = 2").await;
    sql(format!("ALTER ROLE {role} PASSWORD '{verifier}'; {end}")).await;
    eventually(Duration::from_secs(5), "the new password is used", async || {
        let reply = site.get("acme.localhost", WHOAMI, &key).await;
        // A connection ended by force may cost the one request that was using it.
        assert!([200, 503].contains(&reply.status.as_u16()), "{reply:?}");
        if reply.status == 200 { Ok(()) } else { Err(reply.status) }
    })
    .await;

    // Shut out though the control database knows nothing of it: 503, and no endless tries.
    sql(format!("ALTER ROLE {role} NOLOGIN; {end}")).await;
    let before = site.directory.health().lookups;
    let reply = site.get("acme.localhost", WHOAMI, &key).await;
    assert_eq!(reply.code(), (503, "shard_unavailable".to_owned()));
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(site.directory.health().lookups - before, 1);

    // Suspended, but the news has not come: the answer is the new state's.
    control("UPDATE tenant SET state = 'suspended' WHERE slug = 'acme'").await;
    assert_eq!(site.get("acme.localhost", WHOAMI, &key).await.code(), (403, "tenant_suspended".to_owned()));
}
