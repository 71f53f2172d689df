//! Isolation over HTTP, generated from the OpenAPI document: a new route joins by itself (trust A1, A2, roles).

use std::collections::BTreeSet;

use freehold::kernel::Role;
use freehold::product::{Current, Product};
use freehold::testkit::{AppOptions, TestApp};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::identity::fixture::{person, seat};
use crate::openapi_walk::{Operation, ids_in, operations, random_like};

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

struct Scene {
    app: TestApp,
    operations: Vec<Operation>,
    intruder: String,
    victim: String,
    /// Every id that the victim's own pages show.
    ids: BTreeSet<String>,
}

async fn scene() -> Scene {
    let app = TestApp::start::<Current>(AppOptions { worker: false, ..AppOptions::of::<Current>() }).await;
    for slug in ["intruder", "victim"] {
        app.world.tenant(slug).await;
        let tenant = app.world.show(slug).await.tenant.id;
        let http = &app.replicas[0].http;
        let entry = http.directory.tenant(tenant).await.unwrap().expect("the tenant is known");
        Current::demo(&http.context_for(entry)).await.unwrap();
        let member = person(&app.world, &format!("{slug}-ada")).await;
        seat(&app.world, &app.world.show(slug).await, member, Role::Member).await;
    }
    let document = serde_json::to_value(freehold::app::openapi()).unwrap();
    let operations = operations(&document, "/api/");
    let (intruder, victim) = (app.key("intruder", Role::Owner).await, app.key("victim", Role::Owner).await);
    let ids = harvest(&app, &operations, "victim", &victim).await;
    assert!(ids.len() > 20, "the demo data has more ids than {}", ids.len());
    Scene { app, operations, intruder, victim, ids }
}

/// Every id on a tenant's own pages: the lists, then what hangs below each id found.
async fn harvest(app: &TestApp, operations: &[Operation], slug: &str, key: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let gets = || operations.iter().filter(|operation| operation.method == Method::GET);
    for operation in gets().filter(|operation| operation.parameters.is_empty()) {
        let (status, body) =
            app.send(app.request(Method::GET, slug, key, &format!("{}?limit=100", operation.path))).await;
        assert_eq!(status, 200, "{} {body}", operation.path);
        ids_in(&body, &mut ids);
    }
    for operation in gets().filter(|operation| operation.parameters.len() == 1) {
        for id in ids.clone() {
            let (status, body) = app.send(app.request(Method::GET, slug, key, &operation.at(&id))).await;
            if status == 200 {
                ids_in(&body, &mut ids);
            }
        }
    }
    ids
}

/// Whether an answer shows anything of the victim: its demo data names it in every text.
fn names_the_victim(body: &Value) -> bool {
    body.to_string().to_lowercase().contains("victim")
}

/// An answer without what is different each time.
fn comparable(status: u16, mut body: Value) -> String {
    if let Some(problem) = body.as_object_mut() {
        problem.remove("request_id");
    }
    format!("{status} {body}")
}

/// A1. Guard: the tenant's own connection. Sent as the victim instead, the first of these requests that finds a row fails
/// the test.
#[tokio::test]
async fn another_tenants_ids_are_as_unknown_as_random_ones() {
    let Scene { app, operations, intruder, victim, ids } = scene().await;
    let before = snapshot(&app, &operations, &victim).await;
    let mut asked = 0;
    let paths: BTreeSet<&str> =
        operations.iter().filter(|op| !op.parameters.is_empty()).map(|op| op.path.as_str()).collect();
    assert!(!paths.is_empty());
    for path in paths {
        for method in METHODS {
            let declared = operations.iter().find(|op| op.path == path && op.method == method);
            for id in &ids {
                let mut answers = Vec::new();
                for id in [id.clone(), random_like(id)] {
                    let url = Operation::fill(path, &id);
                    let mut request = app.request(method.clone(), "intruder", &intruder, &url);
                    if let Some(body) = declared.and_then(|op| op.body_with(&id)) {
                        request = request.json(&body);
                    }
                    let (status, body) = app.send(request).await;
                    assert!(!names_the_victim(&body), "{method} {url}: {body}");
                    answers.push((status, comparable(status, body)));
                }
                assert_eq!(answers[0].1, answers[1].1, "{method} {path} tells {id} from a random id");
                let expected = if declared.is_some() { 404 } else { 405 };
                assert_eq!(answers[0].0, expected, "{method} {path} with {id}: {}", answers[0].1);
                asked += 1;
            }
        }
    }
    assert!(asked > 100, "only {asked} requests were generated");
    assert_eq!(snapshot(&app, &operations, &victim).await, before, "the victim's data changed");
}

/// A1 for ids that travel in bodies and query strings.
#[tokio::test]
async fn another_tenants_ids_are_unknown_in_bodies_and_filters_too() {
    let Scene { app, operations, intruder, victim, ids } = scene().await;
    let before = snapshot(&app, &operations, &victim).await;
    let mut asked = 0;
    for operation in operations.iter().filter(|op| op.parameters.is_empty()) {
        for id in &ids {
            let other = random_like(id);
            let with = |id: &str| {
                let body = operation.body_with(id);
                let queries: Vec<String> = operation
                    .id_filters(id)
                    .into_iter()
                    .map(|name| format!("{}?{name}={id}", operation.path))
                    .collect();
                (body, queries)
            };
            let ((body, queries), (other_body, other_queries)) = (with(id), with(&other));
            let mut pairs: Vec<(String, String, Option<Value>, Option<Value>)> =
                queries.into_iter().zip(other_queries).map(|(a, b)| (a, b, None, None)).collect();
            if body.as_ref().is_some_and(|body| body.to_string().contains(id.as_str())) {
                pairs.push((operation.path.clone(), operation.path.clone(), body, other_body));
            }
            for (url, other_url, body, other_body) in pairs {
                let send = async |url: &str, body: Option<Value>| {
                    let mut request = app.request(operation.method.clone(), "intruder", &intruder, url);
                    if let Some(body) = body {
                        request = request.json(&body);
                    }
                    let (status, answer) = app.send(request).await;
                    assert!(!names_the_victim(&answer), "{url}: {answer}");
                    comparable(status, answer)
                };
                let (ours, theirs) = (send(&url, body).await, send(&other_url, other_body).await);
                assert_eq!(
                    ours.replace(id.as_str(), ""),
                    theirs.replace(other.as_str(), ""),
                    "{url} tells {id} from a random id"
                );
                asked += 1;
            }
        }
    }
    assert!(asked > 20, "only {asked} requests were generated");
    assert_eq!(snapshot(&app, &operations, &victim).await, before, "the victim's data changed");
}

/// Everything the victim's lists show.
async fn snapshot(app: &TestApp, operations: &[Operation], key: &str) -> Value {
    let mut all = Map::new();
    for operation in operations.iter().filter(|op| op.method == Method::GET && op.parameters.is_empty()) {
        let url = format!("{}?limit=100", operation.path);
        let (status, body) = app.send(app.request(Method::GET, "victim", key, &url)).await;
        all.insert(operation.path.clone(), json!([status, body]));
    }
    Value::Object(all)
}

/// A2 and A8: a good key never opens another tenant's host, cold or warm, whatever else the request claims.
#[tokio::test]
async fn a_key_opens_its_own_tenant_only_whatever_the_request_claims() {
    let Scene { app, intruder, victim, .. } = scene().await;
    let url = app.replicas[0].url("/api/v1/projects");
    for round in ["cold", "warm"] {
        for (host, headers) in [
            ("victim.localhost", vec![]),
            ("VICTIM.localhost:80", vec![]),
            ("victim.localhost.", vec![]),
            ("intruder.localhost", vec![("x-freehold-tenant", "victim")]),
            ("victim.localhost", vec![("x-freehold-tenant", "intruder")]),
            ("localhost", vec![("x-freehold-tenant", "victim")]),
            ("victim.localhost", vec![("x-forwarded-host", "intruder.localhost")]),
            ("victim.localhost", vec![("forwarded", "host=intruder.localhost")]),
        ] {
            let mut request = app.client.get(&url).header("host", host).bearer_auth(&intruder);
            for (name, value) in &headers {
                request = request.header(*name, *value);
            }
            let (status, body) = app.send(request).await;
            assert_eq!(status, 404, "{round} {host} {headers:?}: {body}");
            assert_eq!(body["code"], "tenant_not_found", "{round} {host} {headers:?}");
        }
        for (name, value) in [
            ("x-forwarded-host", "victim.localhost"),
            ("forwarded", "host=victim.localhost"),
            ("x-original-host", "victim.localhost"),
            ("x-host", "victim.localhost"),
            ("x-tenant", "victim"),
        ] {
            let request =
                app.request(Method::GET, "intruder", &intruder, "/api/v1/projects").header(name, value);
            let (status, body) = app.send(request).await;
            assert_eq!(status, 200, "{name}: {body}");
            assert!(!names_the_victim(&body), "{name}: {body}");
        }
        let (status, body) = app.send(app.request(Method::GET, "victim", &victim, "/api/v1/projects")).await;
        assert_eq!(status, 200);
        assert!(names_the_victim(&body), "the demo data names its tenant, or the checks above see nothing");
    }
}

/// Every operation says which role it needs, and holds every role to it.
#[tokio::test]
async fn every_operation_keeps_its_role() {
    let Scene { app, operations, .. } = scene().await;
    let mut keys = Vec::new();
    for role in Role::ALL {
        keys.push((role, app.key("intruder", role).await));
    }
    for operation in &operations {
        let needed = operation.min_role();
        for (role, key) in &keys {
            let url = operation.at(&random_like("prj_00000000000000000000000000"));
            let mut request = app.request(operation.method.clone(), "intruder", key, &url);
            if let Some(body) = operation.body_with("prj_00000000000000000000000000") {
                request = request.json(&body);
            }
            let (status, body) = app.send(request).await;
            let refused = status == 403;
            assert_eq!(
                refused,
                *role < needed,
                "{} {} as {role}: {status} {body}",
                operation.method,
                operation.path
            );
        }
        let nobody = app.client.request(operation.method.clone(), app.replicas[0].url(&operation.at("x")));
        let (status, _) = app.send(nobody.header("host", "intruder.localhost")).await;
        assert_eq!(status, 401, "{} {} without a key", operation.method, operation.path);
    }
}
