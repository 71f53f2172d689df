//! Everything a request passes, in order. From outside in: compression, observation (id, log, numbers, errors), security
//! headers, CORS, the time limit, the body limit, panics; then the routes, and for tenants' routes the door
//! (`data_plane::tenancy`).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, response::Response};
use http::{HeaderMap, header};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa_axum::router::OpenApiRouter;

use super::browser::Site;
use super::cors::Cors;
use super::edge::{self, Edge};
use super::health::{self, Health, WorkerHealth};
use super::observe::Observer;
use super::pages::{self, Words, assets};
use super::{docs, headers, limits, openapi};
use crate::data_plane::TenantContext;
use crate::data_plane::broker::Broker;
use crate::data_plane::directory::{Directory, Tenant};
use crate::data_plane::limits::Limiter;
use crate::data_plane::tenancy::scopes::Scopes;
use crate::data_plane::tenancy::token::Tokens;
use crate::data_plane::tenancy::{self, Tenancy};
use crate::data_plane::usage::ApiCalls;
use crate::kernel::{Clock, Entropy, Error, codes};

/// What the HTTP side works with.
#[derive(Clone)]
pub struct HttpState {
    pub directory: Directory,
    pub limiter: Limiter,
    /// Where calls of the API are counted.
    pub calls: ApiCalls,
    /// Which access tokens are believed.
    pub tokens: Tokens,
    pub broker: Broker,
    pub clock: Clock,
    pub entropy: Entropy,
    /// Tenants live under it: `acme.<base_domain>`. In lower case, without a port.
    pub base_domain: Arc<str>,
    /// Whether tenants' pages may be served over plain HTTP: for development.
    pub plain_http: bool,
    /// Origins that may read every tenant's answers.
    pub extra_origins: Vec<String>,
    /// Given, `/metrics` is on this listener too. Only for development: it is not protected.
    pub metrics: Option<PrometheusHandle>,
    /// Cancelled when the process is asked to stop.
    pub draining: CancellationToken,
    /// The longest a request may take until its answer begins; [`limits::WHOLE_REQUEST`] unless a test says otherwise.
    pub request_timeout: Duration,
}

/// What is for browsers: the pages of the sign-in host, and those at tenants' hosts.
pub struct AllPages {
    pub site: Site,
    pub base: Router,
    pub workspace: Router,
    pub product: Words,
}

impl AllPages {
    fn merged(self, tenancy: Arc<Tenancy>) -> Router {
        let all = self.base.merge(pages::workspace::behind_the_door(self.workspace, tenancy, self.site));
        pages::framed(all, self.product)
    }
}

/// The whole application. The routers bring their own state; tenants' routes find a `TenantContext` in each request.
/// `pages` are for browsers, and for programs that sign in: outside the API. A test may have none.
pub fn router(
    state: HttpState,
    tenant: OpenApiRouter,
    operator: OpenApiRouter,
    pages: Option<AllPages>,
) -> Router {
    let (mut tenant, tenant_api) = tenant.split_for_parts();
    let (operator, operator_api) = operator.split_for_parts();
    let tenancy = Arc::new(state.tenancy(Arc::new(openapi::scopes(&tenant_api))));
    let api = openapi::describe(tenant_api, operator_api);
    // A layer over no routes is an error to axum; a test may have none.
    if tenant.has_routes() {
        tenant = tenant.route_layer(from_fn_with_state(tenancy.clone(), tenancy::admit));
    }
    let words = pages.as_ref().map(|pages| pages.product);
    let routes = Router::new()
        .merge(tenant)
        .merge(operator)
        .merge(pages.map(|pages| pages.merged(tenancy)).unwrap_or_default())
        .merge(docs::routes(&api))
        .merge(assets::routes())
        .merge(health_routes(&state))
        .merge(state.metrics.clone().map(metrics_routes).unwrap_or_default());
    dress(routes, &state, words)
}

/// What is for the machine room only, for a listener of its own: `/metrics` and the health pages.
pub fn admin_router(state: &HttpState, metrics: PrometheusHandle) -> Router {
    dress(health_routes(state).merge(metrics_routes(metrics)), state, None)
}

/// The same for a worker, which answers nothing else.
pub fn worker_router(health: WorkerHealth, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::worker_ready).with_state(health))
        .merge(metrics_routes(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(map_response(secured))
}

async fn secured(mut answer: Response) -> Response {
    headers::secure(answer.headers_mut());
    answer
}

impl HttpState {
    /// The platform itself at work in a tenant, with an owner's rights: demo data, and tests of products.
    pub fn context_for(&self, tenant: Arc<Tenant>) -> TenantContext {
        TenantContext::of_platform(tenant, self.directory.clone(), self.broker.clone(), self.clock.clone())
    }

    /// What the door to tenants' routes works with.
    fn tenancy(&self, scopes: Arc<Scopes>) -> Tenancy {
        Tenancy {
            directory: self.directory.clone(),
            limiter: self.limiter.clone(),
            calls: self.calls.clone(),
            tokens: self.tokens.clone(),
            broker: self.broker.clone(),
            clock: self.clock.clone(),
            base_domain: self.base_domain.clone(),
            body_limit: limits::BODY,
            scopes,
        }
    }
}

fn health_routes(state: &HttpState) -> Router {
    let health = Health { directory: state.directory.clone(), draining: state.draining.clone() };
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready).with_state(health))
}

fn metrics_routes(metrics: PrometheusHandle) -> Router {
    Router::new().route(
        "/metrics",
        get(move || {
            let metrics = metrics.clone();
            async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()) }
        }),
    )
}

/// Puts the layers around routes, the outermost first. In one call: a layer added by itself is boxed and cloned for each
/// request, with all that is within it.
fn dress(routes: Router, state: &HttpState, words: Option<Words>) -> Router {
    let cors = Cors {
        base_domain: state.base_domain.clone(),
        plain_http: state.plain_http,
        extra: state.extra_origins.clone().into(),
    };
    let edge = Edge { observer: Observer::new(state.entropy.clone()), cors, limit: state.request_timeout };
    let nothing = move |headers: HeaderMap| nothing_here(words, headers);
    routes.fallback(nothing).method_not_allowed_fallback(method_not_allowed).layer(
        ServiceBuilder::new()
            .layer(CompressionLayer::new())
            .layer(from_fn_with_state(Arc::new(edge), edge::pass))
            .layer(DefaultBodyLimit::max(limits::BODY))
            .layer(CatchPanicLayer::custom(limits::panicked)),
    )
}

/// Where there are pages, a page for a person.
async fn nothing_here(words: Option<Words>, headers: HeaderMap) -> Response {
    let page = words.and_then(|words| pages::nothing_here(words, &headers));
    page.unwrap_or_else(|| Error::new(&codes::NOT_FOUND).into_response())
}

async fn not_found() -> Response {
    Error::new(&codes::NOT_FOUND).into_response()
}

/// The `Allow` header is added by the method router.
async fn method_not_allowed() -> Response {
    Error::new(&codes::METHOD_NOT_ALLOWED).into_response()
}
