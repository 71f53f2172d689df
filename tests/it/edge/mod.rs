//! A whole server over real databases, asked through its router.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use freehold::control_plane::ControlPlane;
use freehold::control_plane::tenants::TenantRef;
use freehold::data_plane::As;
use freehold::data_plane::broker::{Broker, BrokerConfig};
use freehold::data_plane::context::{Member, Viewer};
use freehold::data_plane::directory::{Capacity, Directory};
use freehold::data_plane::idempotency::Answer;
use freehold::data_plane::limits::Limiter;
use freehold::data_plane::tenancy::token::Tokens;
use freehold::http::{HttpState, router};
use freehold::identity::keyring::Keyring;
use freehold::identity::keys::{NewApiKey, api_key_create};
use freehold::kernel::{Clock, Entropy, Result, Role};
use freehold::testkit::{World, eventually, tester};
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;
use utoipa_axum::router::OpenApiRouter;

use super::provisioning::TABLES;

/// A server and what stands behind it.
pub struct Site {
    pub world: World,
    pub directory: Directory,
    pub clock: Clock,
    pub app: Router,
    pub draining: CancellationToken,
    _stop: DropGuard,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The status and, of a problem, its code.
    pub fn code(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["code"].as_str().unwrap_or_default().to_owned())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Site {
    pub async fn new() -> Self {
        let world = World::new(&TABLES).await;
        let db = world.db().clone();
        Self::over(world, db, Limiter::new(None, 1), Duration::from_secs(30)).await
    }

    /// With its own road to the control database, its own limiter, its own time limit.
    pub async fn over(world: World, db: PgPool, limiter: Limiter, request_timeout: Duration) -> Self {
        if std::env::var_os("RUST_LOG").is_some() {
            freehold::telemetry::logs::init(freehold::telemetry::logs::LogFormat::Pretty, None).unwrap();
        }
        let clock = world.hands.cp.clock.clone();
        let cp = ControlPlane { db: db.clone(), ..world.hands.cp.clone() };
        let directory = Directory::new(db, clock.clone(), Capacity::default());
        let (stop, draining) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(directory.clone().run(stop.clone()));
        let state = HttpState {
            directory: directory.clone(),
            limiter,
            calls: Default::default(),
            tokens: Tokens::new(Keyring::new(&cp, &world.hands.master)),
            broker: Broker::new(BrokerConfig::default(), world.hands.master.clone()),
            clock: clock.clone(),
            entropy: Entropy::default(),
            base_domain: "localhost".into(),
            plain_http: true,
            extra_origins: vec!["https://console.example.com".to_owned()],
            metrics: None,
            draining: draining.clone(),
            request_timeout,
        };
        let app = router(state, product(), OpenApiRouter::new(), None);
        let site = Self { world, directory, clock, app, draining, _stop: stop.drop_guard() };
        site.heard().await;
        site
    }

    /// Waits until the directory listens for changes.
    pub async fn heard(&self) {
        eventually(Duration::from_secs(10), "the directory listens", async || {
            let health = self.directory.health();
            if health.listening { Ok(()) } else { Err(format!("{health:?}")) }
        })
        .await;
    }

    /// A key of a tenant.
    pub async fn key(&self, slug: &str, role: Role) -> String {
        let new = NewApiKey { name: "test".to_owned(), role, expires_at: None };
        self.key_with(slug, &new).await
    }

    pub async fn key_with(&self, slug: &str, new: &NewApiKey) -> String {
        let tenant = TenantRef::Slug(slug.to_owned());
        api_key_create(&self.world.hands.cp, &tester(), &tenant, new).await.unwrap().key
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        send(&self.app, request).await
    }

    /// `GET path` at a host with a key.
    pub async fn get(&self, host: &str, path: &str, key: &str) -> Reply {
        self.send(ask(host, path, key)).await
    }
}

/// `GET path` at a host with a key.
pub fn ask(host: &str, path: &str, key: &str) -> Request<Body> {
    Request::get(path)
        .header("host", host)
        .header("authorization", format!("Bearer {key}"))
        .body(Body::empty())
        .unwrap()
}

pub async fn send(app: &Router, request: Request<Body>) -> Reply {
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Reply { status: parts.status, headers: parts.headers, body }
}

/// A product small enough to see through: it tells whose connection it was given.
fn product() -> OpenApiRouter {
    OpenApiRouter::new()
        .route("/api/v1/whoami", get(whoami))
        .route("/api/v1/effects", post(effect).get(effects))
        .route("/api/v1/slow", get(slow).post(swallow))
        .route("/api/v1/panic", get(panics))
        .route("/api/v1/large", get(large))
}

async fn whoami(tenant: As<Viewer>) -> Result<axum::Json<Value>> {
    let login: String = tenant
        .read(async |conn| Ok(sqlx::query_scalar("SELECT session_user::text").fetch_one(conn).await?))
        .await?;
    Ok(axum::Json(json!({
        "tenant": tenant.tenant_id, "slug": tenant.slug, "login": login, "request_id": tenant.request_id,
    })))
}

/// Work that leaves one row behind, and fails after doing so when the body says so. The platform's own table holds the
/// rows: this product has none.
async fn effect(tenant: As<Member>, body: String) -> Result<Answer> {
    tenant
        .write_once(async |conn| {
            let key = tenant.clock.now().timestamp_nanos_opt();
            let id: String = sqlx::query_scalar(
                "INSERT INTO idempotency (actor, key, request_hash)
                 VALUES ('effect', gen_random_uuid()::text, '') RETURNING key",
            )
            .fetch_one(&mut *conn)
            .await?;
            if body == "wait" {
                // Long enough for every racer to arrive while this one is at work.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            if body == "fail" {
                return Err(freehold::kernel::Error::field("body", "asked to fail"));
            }
            Answer::created(format!("/api/v1/effects/{id}"), 1, &json!({ "id": id, "at": key }))
        })
        .await
}

async fn effects(tenant: As<Viewer>) -> Result<axum::Json<i64>> {
    let count = "SELECT count(*) FROM idempotency WHERE actor = 'effect'";
    Ok(axum::Json(tenant.read(async |conn| Ok(sqlx::query_scalar(count).fetch_one(conn).await?)).await?))
}

async fn slow() {
    std::future::pending::<()>().await;
}

async fn swallow(body: Bytes) -> String {
    body.len().to_string()
}

async fn panics() {
    panic!("a secret in a panic");
}

async fn large() -> String {
    "freehold ".repeat(1_000)
}
