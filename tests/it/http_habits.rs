//! What every answer has, and what bad requests get.

use std::time::Duration;

use axum::body::{Body, Bytes};
use freehold::data_plane::limits::Limiter;
use freehold::kernel::{Role, codes};
use freehold::testkit::{World, WorldOptions};
use futures_util::{StreamExt, stream};
use http::{Method, Request};

use super::edge::{Site, ask};
use super::provisioning::TABLES;

async fn site(limit: Duration) -> (Site, String) {
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    world.tenant("acme").await;
    world.tenant("globex").await;
    let db = world.db().clone();
    let site = Site::over(world, db, Limiter::new(None, 1), limit).await;
    let key = site.key("acme", Role::Owner).await;
    (site, key)
}

const LONG: Duration = Duration::from_secs(30);
const HOST: &str = "acme.localhost:8080";

#[tokio::test]
async fn every_answer_has_an_id_and_safe_headers() {
    let (site, key) = site(LONG).await;
    let mut request = ask(HOST, "/api/v1/whoami", &key);
    request.headers_mut().insert("x-request-id", "from-outside_1".parse().unwrap());
    let reply = site.send(request).await;
    assert_eq!(reply.header("x-request-id"), "from-outside_1");
    assert_eq!(reply.json()["request_id"], "from-outside_1");
    let mut request = ask(HOST, "/nowhere", &key);
    request.headers_mut().insert("x-request-id", "no spaces".parse().unwrap());
    let missing = site.send(request).await;
    assert_eq!(missing.code(), (404, "not_found".to_owned()));
    assert_eq!(missing.header("content-type"), "application/problem+json");
    assert_eq!(missing.json()["request_id"], missing.header("x-request-id"));
    assert_ne!(missing.header("x-request-id"), "no spaces");
    for reply in [&reply, &missing] {
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("x-frame-options"), "DENY");
        assert_eq!(reply.header("referrer-policy"), "no-referrer");
        assert_eq!(reply.header("content-security-policy"), "default-src 'none'; frame-ancestors 'none'");
    }
}

#[tokio::test]
async fn wrong_method_panic_and_size_are_problems() {
    let (site, key) = site(LONG).await;
    let mut request = ask(HOST, "/api/v1/effects", &key);
    *request.method_mut() = Method::DELETE;
    let reply = site.send(request).await;
    assert_eq!(reply.code(), (405, "method_not_allowed".to_owned()));
    let mut allow: Vec<_> = reply.header("allow").split(',').collect();
    allow.sort();
    assert_eq!(allow, ["GET", "HEAD", "POST"]);

    let reply = site.get(HOST, "/api/v1/panic", &key).await;
    assert_eq!(reply.code(), (500, "internal".to_owned()));
    assert!(!String::from_utf8_lossy(&reply.body).contains("secret"));

    let mut request = ask(HOST, "/api/v1/slow", &key);
    *request.method_mut() = Method::POST;
    *request.body_mut() = Body::from(vec![0; 1024 * 1024 + 1]);
    assert_eq!(site.send(request).await.status, 413);
}

/// Guard: `limits::in_time`. Without it these two requests never end.
#[tokio::test]
async fn nothing_hangs() {
    let (site, key) = site(Duration::from_millis(300)).await;
    let reply = site.get(HOST, "/api/v1/slow", &key).await;
    assert_eq!(reply.code(), (503, "timeout".to_owned()));
    assert_eq!(reply.header("retry-after"), "1");
    let mut request = ask(HOST, "/api/v1/slow", &key);
    *request.method_mut() = Method::POST;
    let begun = stream::iter([Ok::<_, std::io::Error>(Bytes::from("{"))]);
    *request.body_mut() = Body::from_stream(begun.chain(stream::pending()));
    let reply = site.send(request).await;
    assert_eq!(reply.code(), (408, "request_timeout".to_owned()));
    assert_eq!(reply.header("connection"), "close");
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_can() {
    let (site, key) = site(LONG).await;
    let mut request = ask(HOST, "/api/v1/large", &key);
    request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    let small = site.send(request).await;
    let whole = site.get(HOST, "/api/v1/large", &key).await;
    assert_eq!((small.header("content-encoding"), whole.header("content-encoding")), ("gzip", ""));
    assert!(small.body.len() * 10 < whole.body.len());
}

/// Guard: `Page::is_of`. Without it any page could read a tenant's answers with a key it holds.
#[tokio::test]
async fn a_page_may_read_its_own_tenant_s_answers_only() {
    let (site, key) = site(LONG).await;
    let own = ["http://acme.localhost:8080", "https://acme.localhost", "https://console.example.com"];
    let foreign = ["http://globex.localhost:8080", "https://evil.io", "null", "http://localhost:8080"];
    for (origin, allowed) in own.map(|o| (o, o)).into_iter().chain(foreign.map(|o| (o, ""))) {
        let preflight = Request::options("/api/v1/whoami")
            .header("host", HOST)
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization")
            .body(Body::empty())
            .unwrap();
        let reply = site.send(preflight).await;
        assert_eq!(reply.status, 204, "{origin}: a preflight needs no credential");
        assert_eq!(reply.header("access-control-allow-origin"), allowed);
        assert_eq!(
            reply.header("access-control-allow-headers").contains("authorization"),
            !allowed.is_empty()
        );
        let mut request = ask(HOST, "/api/v1/whoami", &key);
        request.headers_mut().insert("origin", origin.parse().unwrap());
        let reply = site.send(request).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("access-control-allow-origin"), allowed);
        assert_eq!(reply.header("access-control-allow-credentials"), "");
        assert!(reply.headers.get_all("vary").iter().any(|value| value == "origin"));
    }
}

/// Guard: `Cors` asks no directory. Were a name looked up, these answers would differ by whether it is a tenant's.
#[tokio::test]
async fn without_a_key_no_page_learns_which_tenants_exist() {
    let (site, _) = site(LONG).await;
    let looked_up = site.directory.health().lookups;
    for host in ["acme.localhost:8080", "nobody.localhost:8080", "work.nobody.io:8080"] {
        for method in [Method::OPTIONS, Method::GET] {
            for (origin, own) in [(format!("http://{host}"), true), ("http://work.acme.io".to_owned(), false)]
            {
                let request = Request::builder()
                    .method(method.clone())
                    .uri("/api/v1/whoami")
                    .header("host", host)
                    .header("origin", &origin)
                    .header("access-control-request-method", "GET");
                let reply = site.send(request.body(Body::empty()).unwrap()).await;
                let allowed = if own { &*origin } else { "" };
                assert_eq!(reply.header("access-control-allow-origin"), allowed, "{method} {host} {origin}");
                assert_eq!(reply.status, if method == Method::GET { 401 } else { 204 });
            }
        }
    }
    assert_eq!(site.directory.health().lookups, looked_up, "nothing was looked up");
}

#[tokio::test]
async fn health_tells_live_from_ready() {
    let (site, _) = site(LONG).await;
    let get = async |path: &str| {
        let request = Request::get(path).header("host", "10.0.0.1").body(Body::empty()).unwrap();
        site.send(request).await
    };
    assert_eq!(get("/health/live").await.status, 200);
    let ready = get("/health/ready").await;
    assert_eq!((ready.status.as_u16(), ready.json()["status"].as_str()), (200, Some("ready")));
    assert_eq!(ready.json()["control_database"]["listening"], true);
    site.draining.cancel();
    let draining = get("/health/ready").await;
    assert_eq!((draining.status.as_u16(), draining.json()["draining"].as_bool()), (503, Some(true)));
    assert_eq!(get("/health/live").await.status, 200);
}

#[tokio::test]
async fn the_documentation_works_without_the_network() {
    let (site, _) = site(LONG).await;
    let get = async |path: &str| {
        let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
        site.send(request).await
    };
    let api = get("/openapi.json").await;
    assert_eq!(api.json()["openapi"], "3.1.0");
    assert!(api.json()["components"]["securitySchemes"]["tenant_key"].is_object());
    assert!(api.json()["components"]["schemas"]["Problem"].is_object());
    let page = get("/docs/").await;
    assert_eq!(page.status, 200);
    let text = String::from_utf8_lossy(&page.body).into_owned();
    assert!(!text.contains("http://") && !text.contains("https://"), "the page asks another host: {text}");
    assert!(page.header("content-security-policy").contains("script-src 'self'"));
    for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        assert!(text.contains(file), "{file}");
        assert_eq!(get(&format!("/docs/{file}")).await.status, 200, "{file}");
    }
    let errors = get("/docs/errors").await;
    let text = String::from_utf8_lossy(&errors.body).into_owned();
    assert!(codes::ALL.iter().all(|code| text.contains(code.name)));
}
