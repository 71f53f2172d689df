//! The little of GitHub that a sign-in asks: its OAuth pages, `/user` and `/user/emails`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Form, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::provider_settings;
use crate::identity::oidc::settings::{ProviderKind, ProviderSettings};

/// Who is signed in there.
#[derive(Clone, Debug)]
pub struct Octocat {
    pub id: u64,
    pub login: &'static str,
    /// As `/user/emails` lists them: address, primary, verified.
    pub emails: Vec<(&'static str, bool, bool)>,
}

/// The stand-in, on a port of its own. Ends with the value.
pub struct GithubStandIn {
    pub url: String,
    /// Who signs in next.
    pub user: Arc<Mutex<Octocat>>,
    folder: TempDir,
    _stop: DropGuard,
}

type Parameters = HashMap<String, String>;

#[derive(Clone)]
struct Inside {
    user: Arc<Mutex<Octocat>>,
    /// Codes that are good, each with the challenge it was asked for with.
    codes: Arc<Mutex<HashMap<String, String>>>,
}

const TOKEN: &str = "gho_token-of-the-stand-in";

impl GithubStandIn {
    /// # Panics
    /// When there is no free port.
    pub async fn start(user: Octocat) -> Self {
        let inside = Inside { user: Arc::new(Mutex::new(user)), codes: Arc::default() };
        let user = inside.user.clone();
        let app = Router::new()
            .route("/login/oauth/authorize", get(authorize))
            .route("/login/oauth/access_token", post(token))
            .route("/api/user", get(who))
            .route("/api/user/emails", get(emails))
            .with_state(inside);
        let (url, stop) = serve(app).await;
        Self { url, user, folder: TempDir::new().expect("a folder"), _stop: stop }
    }

    pub fn settings(&self, id: &str) -> ProviderSettings {
        let settings = provider_settings(self.folder.path(), id, ProviderKind::Github, &self.url);
        ProviderSettings { api_url: Some(format!("{}/api", self.url)), ..settings }
    }
}

/// Serves on a free port until the guard is dropped.
pub(super) async fn serve(app: Router) -> (String, DropGuard) {
    let listener =
        tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("the port"));
    let stop = CancellationToken::new();
    let options = crate::http::serve::ServeOptions { drain: std::time::Duration::ZERO, ..Default::default() };
    tokio::spawn(crate::http::serve::serve(listener, app, stop.clone(), options));
    (url, stop.drop_guard())
}

async fn authorize(State(inside): State<Inside>, Query(asked): Query<Parameters>) -> Response {
    let code = format!("code-{}", inside.codes.lock().len());
    inside.codes.lock().insert(code.clone(), asked.get("code_challenge").cloned().unwrap_or_default());
    let to = reqwest::Url::parse_with_params(
        &asked["redirect_uri"],
        [("code", &code), ("state", &asked["state"])],
    );
    Redirect::to(to.expect("an address").as_str()).into_response()
}

/// A bad code is answered with 200, as GitHub does.
async fn token(State(inside): State<Inside>, Form(form): Form<Parameters>) -> Json<Value> {
    let challenge = form.get("code").and_then(|code| inside.codes.lock().remove(code));
    let given = form.get("code_verifier").map(|verifier| {
        data_encoding::BASE64URL_NOPAD.encode(&crate::kernel::secret::sha256(verifier.as_bytes()))
    });
    if challenge.is_none() || challenge != given {
        return Json(
            json!({ "error": "bad_verification_code", "error_description": "The code is incorrect." }),
        );
    }
    Json(json!({ "access_token": TOKEN, "scope": "read:user,user:email", "token_type": "bearer" }))
}

fn allowed(headers: &HeaderMap) -> bool {
    let is = |name, value: &str| headers.get(name).is_some_and(|found| found == value);
    // GitHub refuses who does not say what it is.
    is("authorization", &format!("Bearer {TOKEN}")) && headers.contains_key("user-agent")
}

async fn who(State(inside): State<Inside>, headers: HeaderMap) -> Response {
    if !allowed(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let user = inside.user.lock().clone();
    // The public address is whatever its owner typed: it is not to be believed.
    Json(json!({ "id": user.id, "login": user.login, "name": null, "email": "public@example.com" }))
        .into_response()
}

async fn emails(State(inside): State<Inside>, headers: HeaderMap) -> Response {
    if !allowed(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let user = inside.user.lock().clone();
    let all: Vec<Value> = user
        .emails
        .iter()
        .map(|(email, primary, verified)| json!({ "email": email, "primary": primary, "verified": verified }))
        .collect();
    Json(all).into_response()
}
