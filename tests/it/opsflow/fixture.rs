//! A tenant of its own on the shared cluster, and callers that speak to OpsFlow's routes as someone of that tenant.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use chrono::{DateTime, Utc};
use freehold::control_plane::tenants::TenantRef;
use freehold::data_plane::broker::{Broker, BrokerConfig};
use freehold::data_plane::context::Viewer;
use freehold::data_plane::directory::{Capacity, Directory};
use freehold::data_plane::limits::Limiter;
use freehold::data_plane::tenancy::token::Tokens;
use freehold::data_plane::{Actor, As, TenantContext};
use freehold::http::{HttpState, router};
use freehold::identity::keyring::Keyring;
use freehold::identity::keys::{NewApiKey, api_key_create};
use freehold::kernel::{Clock, Entropy, Role};
use freehold::product::{Current, Product};
use freehold::testkit::{World, WorldOptions, tester};
use http::{HeaderMap, Method, Request, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use utoipa_axum::router::OpenApiRouter;

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// One tenant with an API key, and the whole server before it.
pub struct Workspace {
    world: World,
    context: TenantContext,
    server: Router,
    key: String,
}

impl Workspace {
    pub async fn new() -> Self {
        Self::with_projects(1_000).await
    }

    /// A tenant whose plan grants so many projects.
    pub async fn with_projects(projects: u32) -> Self {
        let options = WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: Current::migrations() };
        let world = World::with(options).await;
        world.tenant("north-wind").await;
        let new = NewApiKey { name: "Test".to_owned(), role: Role::Admin, expires_at: None };
        let tenant = TenantRef::Slug("north-wind".to_owned());
        let key = api_key_create(&world.hands.cp, &tester(), &tenant, &new).await.unwrap().key;

        let found = Arc::new(Mutex::new(None));
        let finder = found.clone();
        let find =
            async move |context: As<Viewer>| drop(finder.lock().replace(TenantContext::clone(&context)));
        let routes = Current::routes().route("/context", get(find));
        let server = router(state(&world), routes, OpenApiRouter::new(), None);
        let asked =
            server.clone().oneshot(request(Method::GET, "/context", &key).body(Body::empty()).unwrap()).await;
        assert_eq!(asked.unwrap().status(), StatusCode::OK);
        let mut context: TenantContext = found.lock().take().unwrap();
        context.clock = Clock::movable();
        let mut limits = (*context.limits).clone();
        limits.projects = projects;
        context.limits = Arc::new(limits);
        Self { world, context, server, key }
    }

    /// Someone of this tenant, asking OpsFlow's routes past the key check and the rate limit.
    pub fn caller(&self, id: &str, role: Role) -> Caller {
        let mut context = self.context.clone();
        let (id, name) = (id.to_owned(), id.replace("key_", ""));
        context.actor = Actor { id, name, role, person: None, support: None };
        let (routes, _) = Current::routes().split_for_parts();
        Caller { routes: routes.layer(Extension(context.clone())), context }
    }

    /// A request to the whole server, with the tenant's admin key.
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        request(method, path, &self.key)
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        Answer::read(self.server.clone().oneshot(request).await.unwrap()).await
    }

    /// The tenant's name as the samples spell it.
    pub fn title(&self) -> &'static str {
        "North Wind"
    }

    /// Moves the clock by which rows are dated.
    pub fn set_time(&self, to: DateTime<Utc>) {
        self.context.clock.advance(to - self.context.clock.now());
    }

    /// A superuser's connection whose tables are the tenant's.
    pub async fn owner_connection(&self) -> PgConnection {
        let tenant = self.world.show("north-wind").await;
        let (_, url) = self.world.shard_of(&tenant);
        let mut conn = PgConnection::connect(url).await.unwrap();
        let path = format!("SET search_path = {}", tenant.schema.unwrap());
        sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut conn).await.unwrap();
        conn
    }
}

fn request(method: Method, path: &str, key: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "north-wind.localhost")
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json")
}

fn state(world: &World) -> HttpState {
    let clock = world.hands.cp.clock.clone();
    HttpState {
        directory: Directory::new(world.db().clone(), clock.clone(), Capacity::default()),
        limiter: Limiter::new(None, 1),
        calls: Default::default(),
        tokens: Tokens::new(Keyring::new(&world.hands.cp, &world.hands.master)),
        broker: Broker::new(BrokerConfig::default(), world.hands.master.clone()),
        clock,
        entropy: Entropy::default(),
        base_domain: "localhost".into(),
        plain_http: true,
        extra_origins: Vec::new(),
        metrics: None,
        draining: CancellationToken::new(),
        request_timeout: Duration::from_secs(30),
    }
}

/// Sends requests as one actor.
pub struct Caller {
    routes: Router,
    context: TenantContext,
}

impl Caller {
    pub fn context(&self) -> &TenantContext {
        &self.context
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, Some(body)).await
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        match body {
            Some(body) => {
                self.send_raw(method, path, "application/json", body.to_string().into_bytes()).await
            }
            None => {
                self.dispatch(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
            }
        }
    }

    pub async fn send_raw(&self, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, content_type);
        self.dispatch(request.body(body.into()).unwrap()).await
    }

    pub async fn send_if_match(&self, method: Method, path: &str, tag: &str, body: Option<Value>) -> Answer {
        let request = Request::builder().method(method).uri(path).header(header::IF_MATCH, tag);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.dispatch(request.body(body.into()).unwrap()).await
    }

    async fn dispatch(&self, request: Request<Body>) -> Answer {
        Answer::read(self.routes.clone().oneshot(request).await.unwrap()).await
    }

    /// A new project's id.
    pub async fn project(&self, name: &str) -> String {
        let answer = self.post("/api/v1/projects", json!({"name": name})).await;
        answer.expect(StatusCode::CREATED);
        answer.id()
    }

    /// A new task's id.
    pub async fn task(&self, project: &str, title: &str) -> String {
        let answer = self.post("/api/v1/tasks", json!({"project_id": project, "title": title})).await;
        answer.expect(StatusCode::CREATED);
        answer.id()
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    async fn read(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let error = response.extensions().get::<Arc<freehold::kernel::Error>>().cloned();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        // The cause of a fault of ours is in no answer: a failing test shows it.
        if let Some(error) = error.filter(|_| status.is_server_error()) {
            eprintln!("{error:?}");
        }
        Self { status, headers, body }
    }

    #[track_caller]
    pub fn expect(&self, status: StatusCode) {
        assert_eq!(self.status, status, "{}", self.body);
    }

    #[track_caller]
    pub fn problem(&self, status: StatusCode, code: &str) {
        self.expect(status);
        assert_eq!(self.body["code"], code, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[track_caller]
    pub fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no id in {}", self.body)).to_owned()
    }

    #[track_caller]
    pub fn items(&self) -> Vec<Value> {
        self.body["items"].as_array().unwrap_or_else(|| panic!("no items in {}", self.body)).clone()
    }

    #[track_caller]
    pub fn ids(&self) -> Vec<String> {
        self.items().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    }
}
