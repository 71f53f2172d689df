//! B7: what a cookie lets in, a page of ours must have asked for.

use std::path::Path;

use freehold::data_plane::tenancy::cookie::{CSRF_HEADER, SESSION_COOKIE, csrf_proof};
use freehold::kernel::Role;
use freehold::testkit::TestApp;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::fixture::{account_in, count, seat_for, signed_in, with_rogue};
use crate::openapi_walk::operations;

const FORM: &str = "application/x-www-form-urlencoded";

/// A request with a browser's cookie, at one host.
struct At<'a> {
    app: &'a TestApp,
    host: &'a str,
    token: &'a str,
}

impl At<'_> {
    fn ask(&self, method: &Method, path: &str) -> RequestBuilder {
        let request = self.app.client.request(method.clone(), self.app.replicas[0].url(path));
        request.header("host", self.host).header("cookie", format!("{SESSION_COOKIE}={}", self.token))
    }

    /// What another site can make a browser send, and what a page of ours without the proof would.
    fn not_meant(&self, method: &Method, path: &str, json: &str) -> Vec<(String, RequestBuilder)> {
        let (own, proof) = (format!("http://{}", self.host), csrf_proof(self.token));
        let other_proof = csrf_proof("fhs_another");
        let mut all = Vec::new();
        let mut add =
            |what: &str, request: RequestBuilder| all.push((format!("{method} {path}: {what}"), request));
        for (kind, body) in [("application/json", json), ("text/plain", json), (FORM, "a=b&name=x&csrf=")] {
            let ask = || self.ask(method, path).header("content-type", kind).body(body.to_owned());
            add(&format!("{kind}, no proof"), ask().header("origin", &own));
            add(
                &format!("{kind}, another's proof"),
                ask().header("origin", &own).header(CSRF_HEADER, &other_proof),
            );
            add(&format!("{kind}, no origin"), ask().header(CSRF_HEADER, &proof));
            for origin in
                ["https://evil.example", "null", "http://globex.localhost", "http://sub.acme.localhost"]
            {
                add(
                    &format!("{kind}, from {origin}"),
                    ask().header("origin", origin).header(CSRF_HEADER, &proof),
                );
            }
            let cross = ask().header("origin", &own).header("sec-fetch-site", "cross-site");
            add(&format!("{kind}, cross-site"), cross.header(CSRF_HEADER, &proof));
        }
        let with_field = |proof: &str| format!("a=b&provider=rogue&issuer=x&subject=ada&csrf={proof}");
        let ask = |kind: &str, body: String| self.ask(method, path).header("content-type", kind).body(body);
        add(
            "a form from elsewhere, with the field",
            ask(FORM, with_field(&proof)).header("origin", "https://evil.example"),
        );
        add("a form from nowhere, with the field", ask(FORM, with_field(&proof)));
        add("a form with another's field", ask(FORM, with_field(&other_proof)).header("origin", &own));
        add(
            "plain text that looks like a form",
            ask("text/plain", with_field(&proof)).header("origin", &own),
        );
        all
    }
}

/// Every unsafe operation of the OpenAPI file, with an owner's cookie: 403, and nothing is changed by any.
///
/// Shown to fail: `check_meant` returning `Ok`; `from_our_own_page` returning `true`.
#[tokio::test]
async fn no_operation_is_reached_by_a_cookie_alone() {
    let (app, rogue) = with_rogue().await;
    let acme = app.world.tenant("acme").await;
    let browser = signed_in(&app, &rogue, "rogue", "ada").await;
    seat_for(&app, &rogue, "ada", &acme, Role::Owner).await;
    browser.open("http://localhost/go/acme").await;
    let token = browser.cookie("acme.localhost", SESSION_COOKIE).expect("a session at the tenant's host");
    let at = At { app: &app, host: "acme.localhost", token: &token };
    assert_eq!(app.send(at.ask(&Method::GET, "/api/v1/me")).await.0, 200);
    let key = app.key("acme", Role::Owner).await;
    let before = picture(&app, &key).await;

    let document: Value = app.send(app.client.get(app.replicas[0].url("/openapi.json"))).await.1;
    let (mut tried, mut kinds) = (0, 0);
    for operation in operations(&document, "/api/") {
        if operation.method.is_safe() {
            continue;
        }
        kinds += 1;
        let id = "ten_06fqv3k1s9t4m7b2n8c5v0r6e4";
        let body = operation.body_with(id).map_or_else(|| "{}".to_owned(), |body| body.to_string());
        for (what, request) in at.not_meant(&operation.method, &operation.at(id), &body) {
            let (status, answer) = patiently(request).await;
            assert_eq!(status, 403, "{what}: {answer}");
            assert_eq!(answer["code"], "forbidden", "{what}");
            tried += 1;
        }
    }
    assert!(kinds >= 10, "only {kinds} unsafe operations");
    // The operators' API knows no cookies.
    for operation in
        operations(&document, "/operator/").iter().filter(|operation| !operation.method.is_safe())
    {
        let request = at.ask(&operation.method, &operation.at("x")).header("origin", "http://acme.localhost");
        assert_eq!(
            app.send(request.header("content-type", FORM).body("a=b")).await.0,
            401,
            "{}",
            operation.path
        );
        tried += 1;
    }
    assert!(tried > 300, "{tried}");
    assert_eq!(picture(&app, &key).await, before);
}

/// Beyond a tenant's rate there is no other answer, and the rate is not what is tried here.
async fn patiently(request: RequestBuilder) -> (u16, Value) {
    loop {
        let answer = request.try_clone().expect("a body of its own").send().await.expect("an answer");
        if answer.status().as_u16() != 429 {
            return (answer.status().as_u16(), answer.json().await.unwrap_or_default());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// What a change would show in.
async fn picture(app: &TestApp, key: &str) -> Vec<Value> {
    let mut all = vec![count(app, "audit").await.into(), count(app, "session").await.into()];
    for path in ["/api/v1/projects", "/api/v1/tasks", "/api/v1/members"] {
        all.push(app.send(app.request(Method::GET, "acme", key, path)).await.1);
    }
    all
}

/// Every form of a page: found in the sources, so that a new one is tried too.
///
/// Shown to fail: `meant_form` without its look at the origin, and without its look at the proof.
#[tokio::test]
async fn no_form_is_taken_from_elsewhere() {
    let (app, rogue) = with_rogue().await;
    let acme = app.world.tenant("acme").await;
    let browser = signed_in(&app, &rogue, "rogue", "ada").await;
    seat_for(&app, &rogue, "ada", &acme, Role::Owner).await;
    browser.open("http://localhost/go/acme").await;
    let forms = forms();
    for known in ["/sign-out", "/account/links", "/account/links/remove", "/account/confirm"] {
        assert!(forms.iter().any(|form| form == known), "{known} is not found in {forms:?}");
    }
    let rows = async || {
        let mut all = Vec::new();
        for table in ["account", "account_identity", "session", "audit"] {
            all.push(count(&app, table).await);
        }
        all
    };
    let before = rows().await;
    let mut tried = 0;
    for path in &forms {
        let mut taken_somewhere = false;
        for host in ["localhost", "acme.localhost"] {
            let token = browser.cookie(host, SESSION_COOKIE).unwrap();
            let at = At { app: &app, host, token: &token };
            for (what, request) in at.not_meant(&Method::POST, path, "{}") {
                let status = patiently(request).await.0;
                assert!(matches!(status, 401 | 403..=405), "{host} {what}: {status}");
                taken_somewhere |= status == 403;
                tried += 1;
            }
        }
        // Operators have sessions of their own: to a person's cookie their pages say the same as to none (see `desk`).
        assert!(taken_somewhere || path.starts_with("/operator/"), "{path} is not there");
    }
    assert!(tried >= forms.len() * 50);
    assert_eq!(rows().await, before);
    assert!(account_in(&app, &browser).await.is_some(), "still signed in");
}

/// The paths of all `.route("…", post(…))` outside the API, with an id for `{id}` and `x` for other parameters.
fn forms() -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("testkit") {
                walk(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text: String = std::fs::read_to_string(&path)
                    .unwrap()
                    .split("#[cfg(test)]")
                    .next()
                    .unwrap_or_default()
                    .split_whitespace()
                    .collect();
                for route in text.split(".route(\"").skip(1) {
                    let Some((path, handler)) = route.split_once('"') else { continue };
                    let handler = handler.split(".route(").next().unwrap_or_default();
                    if handler.contains("post(") {
                        let part = |part: &str| match part {
                            "{id}" => "inv_06fqv3k1s9t4m7b2n8c5v0r6e4".to_owned(),
                            "{tenant}" => "ten_06fqv3k1s9t4m7b2n8c5v0r6e4".to_owned(),
                            part if part.starts_with('{') => "x".to_owned(),
                            part => part.to_owned(),
                        };
                        found.push(path.split('/').map(part).collect::<Vec<_>>().join("/"));
                    }
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    // A signature vouches for a webhook, and no cookie is looked at: see `billing::inbox`.
    found.retain(|path| !path.starts_with("/webhooks/"));
    found.sort();
    found.dedup();
    found
}
