//! An OpenID provider that misbehaves on command. Without a command it is a good one, and asks nobody anything: whoever
//! comes is signed in as [`Orders::claims`] says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use axum::body::Body;
use axum::extract::{Form, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::BASE64URL_NOPAD;
use http::{StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio_util::sync::DropGuard;

use super::github::serve;
use super::provider_settings;
use crate::identity::oidc::settings::{ProviderKind, ProviderSettings};
use crate::kernel::{Clock, Entropy};

/// In every answer of a troubled endpoint, and never to be seen elsewhere.
pub const CANARY: &str = "canary-5f1e9c";

/// A lie in the ID token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    AlgNone,
    HmacWithPublicKey,
    WrongAudience,
    ExtraAudience,
    WrongAzp,
    WrongIssuer,
    WrongNonce,
    MissingNonce,
    Expired,
    FutureNotBefore,
    BadSignature,
    UnknownKid,
    KidTraversal,
    JkuHeader,
}

impl Forgery {
    pub const ALL: [Self; 14] = [
        Self::AlgNone,
        Self::HmacWithPublicKey,
        Self::WrongAudience,
        Self::ExtraAudience,
        Self::WrongAzp,
        Self::WrongIssuer,
        Self::WrongNonce,
        Self::MissingNonce,
        Self::Expired,
        Self::FutureNotBefore,
        Self::BadSignature,
        Self::UnknownKid,
        Self::KidTraversal,
        Self::JkuHeader,
    ];
}

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Discovery,
    Token,
    Jwks,
}

/// What is wrong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A proxy's error page.
    Html502,
    /// 200 and no JSON.
    Rubbish,
    /// JSON of another shape, with a secret in it.
    WrongShape,
    /// More than anyone should read.
    Endless,
    /// To somewhere else.
    Redirect,
    /// No answer for a minute.
    Hangs,
}

/// What it is told to do.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    pub forgery: Option<Forgery>,
    pub trouble: Option<(Endpoint, Trouble)>,
    /// What the ID token says beside the protocol's own claims, or in place of them.
    pub claims: Map<String, Value>,
    /// Added to its clock, in seconds.
    pub clock: i64,
    /// Instead of a code.
    pub error: Option<&'static str>,
    /// The `iss` of its answers, if not its own.
    pub says_iss: Option<&'static str>,
    /// Answers without `iss`, although its document promises one.
    pub hides_iss: bool,
}

/// The provider, on a port of its own. Ends with the value.
pub struct RogueIdp {
    pub issuer: String,
    pub orders: Arc<Mutex<Orders>>,
    inside: Inside,
    folder: TempDir,
    _stop: DropGuard,
}

type Parameters = HashMap<String, String>;

#[derive(Clone)]
struct Inside {
    orders: Arc<Mutex<Orders>>,
    issuer: Arc<Mutex<String>>,
    key: Arc<Mutex<Key>>,
    codes: Arc<Mutex<HashMap<String, Parameters>>>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    clock: Clock,
}

struct Key {
    pair: EcdsaKeyPair,
    kid: String,
}

impl Key {
    fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).expect("the same key");
        Self { pair, kid: Entropy::default().base32::<10>() }
    }

    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| BASE64URL_NOPAD.encode(&point[range]);
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
                "x": coordinate(1..33), "y": coordinate(33..65) })
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), text.as_bytes()).expect("a signature").as_ref().to_vec()
    }
}

impl RogueIdp {
    /// `clock`: what it stamps its tokens by.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(clock: Clock) -> Self {
        let orders = Arc::new(Mutex::new(Orders { claims: person("ada"), ..Orders::default() }));
        let inside = Inside {
            orders: orders.clone(),
            issuer: Arc::default(),
            key: Arc::new(Mutex::new(Key::new())),
            codes: Arc::default(),
            asked: Arc::default(),
            clock,
        };
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .route("/jwks", get(jwks))
            .route("/elsewhere", get(jwks))
            .layer(from_fn_with_state(inside.clone(), trouble))
            .with_state(inside.clone());
        let (issuer, stop) = serve(app).await;
        inside.issuer.lock().clone_from(&issuer);
        Self { issuer, orders, inside, folder: TempDir::new().expect("a folder"), _stop: stop }
    }

    pub fn settings(&self, id: &str) -> ProviderSettings {
        provider_settings(self.folder.path(), id, ProviderKind::Oidc, &self.issuer)
    }

    /// Gives new orders in place of the old ones.
    pub fn order(&self, orders: Orders) {
        let claims = if orders.claims.is_empty() { person("ada") } else { orders.claims.clone() };
        *self.orders.lock() = Orders { claims, ..orders };
    }

    /// Signs with a new key from now on, and publishes that one only.
    pub fn rotate(&self) {
        *self.inside.key.lock() = Key::new();
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.inside.asked.lock().get(path).copied().unwrap_or_default()
    }

    /// A code for these parameters of an authorization request.
    pub fn code_for(&self, nonce: &str, challenge: &str) -> String {
        let asked = [("nonce", nonce), ("code_challenge", challenge), ("client_id", "freehold")];
        self.inside.code(asked.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }
}

/// What a good provider says of a person with a checked address.
pub fn person(name: &str) -> Map<String, Value> {
    let claims =
        json!({ "sub": name, "name": name, "email": format!("{name}@example.com"), "email_verified": true });
    claims.as_object().cloned().unwrap_or_default()
}

impl Inside {
    fn code(&self, asked: Parameters) -> String {
        let code = Entropy::default().base32::<10>();
        self.codes.lock().insert(code.clone(), asked);
        code
    }

    fn id_token(&self, asked: &Parameters) -> String {
        let (orders, key, issuer) = (self.orders.lock().clone(), self.key.lock(), self.issuer.lock().clone());
        let now = self.clock.now().timestamp() + orders.clock;
        let client = asked.get("client_id").cloned().unwrap_or_default();
        let mut claims = json!({ "iss": issuer, "aud": client, "iat": now, "exp": now + 300,
                                 "nonce": asked.get("nonce"), "auth_time": now });
        let mut header = json!({ "alg": "ES256", "typ": "JWT", "kid": key.kid });
        match orders.forgery {
            Some(Forgery::WrongAudience) => claims["aud"] = json!("another-client"),
            Some(Forgery::ExtraAudience) => claims["aud"] = json!([client, "another-client"]),
            Some(Forgery::WrongAzp) => claims["azp"] = json!("another-client"),
            Some(Forgery::WrongIssuer) => claims["iss"] = json!("https://accounts.example.com"),
            Some(Forgery::WrongNonce) => claims["nonce"] = json!("of-another-sign-in"),
            Some(Forgery::MissingNonce) => claims["nonce"] = Value::Null,
            Some(Forgery::Expired) => claims["exp"] = json!(now - 90),
            Some(Forgery::FutureNotBefore) => claims["nbf"] = json!(now + 90),
            Some(Forgery::AlgNone) => header = json!({ "alg": "none", "typ": "JWT" }),
            Some(Forgery::HmacWithPublicKey) => header["alg"] = json!("HS256"),
            Some(Forgery::UnknownKid) => header["kid"] = json!(Entropy::default().base32::<10>()),
            Some(Forgery::KidTraversal) => header["kid"] = json!("../../../../../../dev/null"),
            Some(Forgery::JkuHeader) => {
                header["jku"] = json!(format!("{issuer}/elsewhere"));
                header["kid"] = json!("elsewhere");
            }
            Some(Forgery::BadSignature) | None => {}
        }
        let own = claims.as_object_mut().expect("an object");
        own.extend(orders.claims);
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let text = format!("{}.{}", part(&header), part(&claims));
        let signature = match orders.forgery {
            Some(Forgery::AlgNone) => Vec::new(),
            Some(Forgery::HmacWithPublicKey) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, key.pair.public_key().as_ref());
                hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
            }
            // An empty file is a key to who takes `kid` for a path.
            Some(Forgery::KidTraversal) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b""), text.as_bytes()).as_ref().to_vec()
            }
            Some(Forgery::BadSignature | Forgery::UnknownKid | Forgery::JkuHeader) => Key::new().sign(&text),
            _ => key.sign(&text),
        };
        format!("{text}.{}", BASE64URL_NOPAD.encode(&signature))
    }
}

/// Counts, and puts trouble in place of an answer.
async fn trouble(State(inside): State<Inside>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    *inside.asked.lock().entry(path.clone()).or_default() += 1;
    let endpoint = match path.as_str() {
        "/token" => Endpoint::Token,
        "/jwks" => Endpoint::Jwks,
        "/.well-known/openid-configuration" => Endpoint::Discovery,
        _ => return next.run(request).await,
    };
    let ordered = inside.orders.lock().trouble.filter(|(at, _)| *at == endpoint);
    let html = [(header::CONTENT_TYPE, "text/html")];
    match ordered.map(|(_, trouble)| trouble) {
        None => next.run(request).await,
        Some(Trouble::Html502) => {
            (StatusCode::BAD_GATEWAY, html, format!("<h1>502</h1><p>{CANARY}</p>")).into_response()
        }
        Some(Trouble::Rubbish) => (html, format!("<html>{CANARY}</html>")).into_response(),
        Some(Trouble::WrongShape) => {
            // A reader that quotes what it cannot read, quotes this.
            let wrong = json!({ "issuer": [CANARY], "access_token": CANARY, "token_type": "Bearer",
                                "expires_in": CANARY, "keys": CANARY });
            Json(wrong).into_response()
        }
        Some(Trouble::Endless) => {
            let chunk = bytes::Bytes::from(CANARY.repeat(1_000));
            let chunks =
                futures_util::stream::iter((0..10_000).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
            Body::from_stream(chunks).into_response()
        }
        Some(Trouble::Redirect) => Redirect::temporary("/elsewhere").into_response(),
        Some(Trouble::Hangs) => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
    }
}

async fn discovery(State(inside): State<Inside>) -> Json<Value> {
    let issuer = inside.issuer.lock().clone();
    let at = |path: &str| format!("{issuer}{path}");
    let promises = {
        let orders = inside.orders.lock();
        orders.hides_iss || orders.says_iss.is_some()
    };
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "jwks_uri": at("/jwks"),
        "authorization_response_iss_parameter_supported": promises,
    }))
}

async fn authorize(State(inside): State<Inside>, Query(asked): Query<Parameters>) -> Response {
    let orders = inside.orders.lock().clone();
    let issuer = inside.issuer.lock().clone();
    let (to, state) = (asked["redirect_uri"].clone(), asked["state"].clone());
    let mut answer = vec![("state", state)];
    match orders.error {
        Some(error) => answer.extend([("error", error.to_owned()), ("error_description", CANARY.to_owned())]),
        None => answer.push(("code", inside.code(asked))),
    }
    if !orders.hides_iss {
        answer.push(("iss", orders.says_iss.map_or(issuer, str::to_owned)));
    }
    let to = reqwest::Url::parse_with_params(&to, &answer).expect("an address");
    Redirect::to(to.as_str()).into_response()
}

/// Gives a token for a code as often as it is asked: that a code works once is not what keeps us safe from this one.
async fn token(State(inside): State<Inside>, Form(form): Form<Parameters>) -> Response {
    let asked = form.get("code").and_then(|code| inside.codes.lock().get(code).cloned());
    let Some(asked) = asked else {
        let no = json!({ "error": "invalid_grant", "error_description": CANARY });
        return (StatusCode::BAD_REQUEST, Json(no)).into_response();
    };
    let id_token = inside.id_token(&asked);
    Json(json!({ "access_token": CANARY, "token_type": "Bearer", "expires_in": 60, "id_token": id_token }))
        .into_response()
}

async fn jwks(State(inside): State<Inside>) -> Json<Value> {
    Json(json!({ "keys": [inside.key.lock().public()] }))
}
