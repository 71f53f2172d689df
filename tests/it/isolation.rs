//! Isolation over HTTP, generated from the OpenAPI document: a new route joins by itself (trust A1, A2, roles).

use std::collections::BTreeSet;

use freehold::kernel::Role;
use freehold::product::{Current, Product};
use freehold::testkit::{AppOptions, TestApp};
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};

use crate::identity::fixture::{Browser, enter, person, seat, sign_in};
use crate::openapi_walk::{Operation, ids_in, operations, random_like};

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Somebody in a workspace: with a key and in a browser.
struct Who {
    slug: &'static str,
    key: String,
    browser: Browser,
}

impl Who {
    async fn of(app: &TestApp, slug: &'static str, name: &str, role: Role) -> Self {
        let tenant = app.world.show(slug).await;
        let account = person(&app.world, &format!("{slug}-{name}")).await;
        seat(&app.world, &tenant, account, role).await;
        let browser = enter(&app.world, sign_in(&app.world, account).await.id, &tenant).await;
        Self { slug, key: app.key(slug, role).await, browser }
    }

    /// By key, or by browser where a key is never let in.
    fn ask(&self, app: &TestApp, person: bool, method: Method, url: &str) -> RequestBuilder {
        match person {
            true => self.browser.ask(app, method, url),
            false => app.request(method, self.slug, &self.key, url),
        }
    }
}

struct Scene {
    app: TestApp,
    operations: Vec<Operation>,
    intruder: Who,
    victim: Who,
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
    let intruder = Who::of(&app, "intruder", "boss", Role::Owner).await;
    let victim = Who::of(&app, "victim", "boss", Role::Owner).await;
    // Whatever the platform itself keeps of a workspace: invitations, keys, sessions, lines of the log.
    for who in [&intruder, &victim] {
        let new = json!({ "email": format!("grace@{}.example.com", who.slug), "role": "member" });
        let (status, body) =
            app.send(who.ask(&app, true, Method::POST, "/api/v1/invitations").json(&new)).await;
        assert_eq!(status, 201, "{body}");
        let new = json!({ "name": format!("{} ci", who.slug), "role": "viewer", "scopes": ["tasks:read"] });
        let (status, body) = app.send(who.ask(&app, true, Method::POST, "/api/v1/api-keys").json(&new)).await;
        assert_eq!(status, 201, "{body}");
        let path = format!("/operator/v1/tenants/{}/support-sessions", who.slug);
        let why = json!({ "reason": format!("ticket of {}", who.slug) });
        let (status, body) = app.send(app.operator(Method::POST, &path).json(&why)).await;
        assert_eq!(status, 201, "{body}");
    }
    let document = serde_json::to_value(freehold::app::openapi()).unwrap();
    let operations = operations(&document, "/api/");
    let ids = harvest(&app, &operations, &victim).await;
    assert!(ids.len() > 20, "the demo data has more ids than {}", ids.len());
    for kind in ["acc_", "inv_", "key_", "ses_", "aud_", "sup_", "prj_", "tsk_"] {
        assert!(ids.iter().any(|id| id.starts_with(kind)), "no {kind} among what the victim's pages show");
    }
    Scene { app, operations, intruder, victim, ids }
}

/// Every id on a tenant's own pages: the lists, then what hangs below each id found.
async fn harvest(app: &TestApp, operations: &[Operation], who: &Who) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let gets = || operations.iter().filter(|operation| operation.method == Method::GET);
    for operation in gets().filter(|operation| operation.parameters.is_empty()) {
        let url = format!("{}?limit=100", operation.path);
        let (status, body) = app.send(who.ask(app, operation.person_only(), Method::GET, &url)).await;
        assert_eq!(status, 200, "{} {body}", operation.path);
        ids_in(&body, &mut ids);
    }
    for operation in gets().filter(|operation| operation.parameters.len() == 1) {
        for id in ids.clone() {
            let request = who.ask(app, operation.person_only(), Method::GET, &operation.at(&id));
            let (status, body) = app.send(request).await;
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
            let person = declared.is_some_and(Operation::person_only);
            for id in &ids {
                let mut answers = Vec::new();
                for id in [id.clone(), random_like(id)] {
                    let url = Operation::fill(path, &id);
                    let mut request = intruder.ask(&app, person, method.clone(), &url);
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
                    let person = operation.person_only();
                    let mut request = intruder.ask(&app, person, operation.method.clone(), url);
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

/// Everything the victim's lists show, but for what looking itself leaves behind.
async fn snapshot(app: &TestApp, operations: &[Operation], victim: &Who) -> Value {
    let mut all = Map::new();
    for operation in operations.iter().filter(|op| op.method == Method::GET && op.parameters.is_empty()) {
        let url = format!("{}?limit=100", operation.path);
        let (status, mut body) = app.send(victim.ask(app, operation.person_only(), Method::GET, &url)).await;
        if let Some(rows) = body["items"].as_array_mut() {
            rows.retain(|row| row["action"] != "audit.export");
            for row in rows.iter_mut().filter_map(Value::as_object_mut) {
                row.retain(|name, _| !matches!(name.as_str(), "last_used_at" | "last_seen_at"));
            }
        }
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
            let mut request = app.client.get(&url).header("host", host).bearer_auth(&intruder.key);
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
                app.request(Method::GET, "intruder", &intruder.key, "/api/v1/projects").header(name, value);
            let (status, body) = app.send(request).await;
            assert_eq!(status, 200, "{name}: {body}");
            assert!(!names_the_victim(&body), "{name}: {body}");
        }
        let (status, body) =
            app.send(app.request(Method::GET, "victim", &victim.key, "/api/v1/projects")).await;
        assert_eq!(status, 200);
        assert!(names_the_victim(&body), "the demo data names its tenant, or the checks above see nothing");
    }
}

/// B11. Every operation says which role it needs, and whether it is for people only, and holds every role to it: keys and
/// people alike. Generated: an operation without `x-min-role` has no answer to the first question, and fails.
///
/// Shown to fail: the comparison of roles taken out of `As`; `R::PERSON` taken out of it.
#[tokio::test]
async fn every_operation_keeps_its_role() {
    let Scene { app, operations, .. } = scene().await;
    let mut all = Vec::new();
    for role in Role::ALL {
        all.push((role, Who::of(&app, "intruder", role.as_str(), role).await));
    }
    for operation in &operations {
        let needed = operation.min_role();
        for (role, who) in &all {
            for person in [false, true] {
                let url = operation.at(&random_like("prj_00000000000000000000000000"));
                let mut request = who.ask(&app, person, operation.method.clone(), &url);
                if let Some(body) = operation.body_with("prj_00000000000000000000000000") {
                    request = request.json(&body);
                }
                let (status, body) = app.send(request).await;
                let let_in = *role >= needed && (person || !operation.person_only());
                assert_eq!(
                    status != 403,
                    let_in,
                    "{} {} as {role}, {}: {status} {body}",
                    operation.method,
                    operation.path,
                    if person { "a person" } else { "a key" },
                );
            }
        }
        let nobody = app.client.request(operation.method.clone(), app.replicas[0].url(&operation.at("x")));
        let (status, _) = app.send(nobody.header("host", "intruder.localhost")).await;
        assert_eq!(status, 401, "{} {} without a key", operation.method, operation.path);
    }
}
