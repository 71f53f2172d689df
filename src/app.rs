//! The composition root: the only place that names concrete parts and puts them together.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use sqlx::Connection;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use crate::adapters::redis;
use crate::config::{ControlConfig, ServeConfig};
use crate::control_plane::tenant_jobs::TenantJobs;
use crate::control_plane::{ControlPlane, Hands, worker};
use crate::data_plane::TenantContext;
use crate::data_plane::broker::{Broker, BrokerConfig};
use crate::data_plane::directory::{Capacity, Directory};
use crate::data_plane::limits::Limiter;
use crate::data_plane::tenancy::decide;
use crate::db::admin::ShardAdmins;
use crate::db::{control, migrations};
use crate::http::health::WorkerHealth;
use crate::http::operator;
use crate::http::router::{HttpState, router, worker_router};
use crate::http::serve::{self, ServeOptions};
use crate::http::{admin_router, limits};
use crate::kernel::{Clock, Entropy, MasterKey, Result};
use crate::product::{Current, Product};

/// What changes the control database.
pub fn control_plane<P: Product>(config: &ControlConfig, application: &str) -> Result<ControlPlane> {
    Ok(ControlPlane {
        db: control::pool(config.control_url()?, application)?,
        clock: Clock::System,
        entropy: Entropy::default(),
        addresses: config.addresses()?,
        tables: P::migrations(),
    })
}

/// What changes the shards, for the CLI and the worker.
pub fn hands(config: &ControlConfig, application: &str) -> Result<Hands> {
    let cp = control_plane::<Current>(config, application)?;
    let worker = format!("{application}:{}:{}", std::process::id(), cp.entropy.base32::<5>());
    let (admins, master, tenant_jobs) = (ShardAdmins::default(), config.master_key()?, TenantJobs::default());
    Ok(Hands { cp, admins, master, worker, tenant_jobs })
}

/// What product `P` does in its tenants' schemas when a worker asks: as the tenant's own login, over connections of the
/// worker's own, in the tenant that the job names and in no other.
pub fn tenant_jobs<P: Product>(hands: &Hands) -> TenantJobs {
    let clock = hands.cp.clock.clone();
    let config = BrokerConfig { budget: worker::JOBS_AT_ONCE, ..BrokerConfig::default() };
    let broker = Broker::new(config, hands.master.clone());
    // It does not listen for changes, so nothing in it is believed for longer than a second.
    let capacity = Capacity { tenants: 1_000, keys: 1, unknown: 100 };
    let directory = Directory::new(hands.cp.db.clone(), clock.clone(), capacity);
    TenantJobs::new(P::REGULAR_JOBS, move |job| {
        let (broker, directory, clock) = (broker.clone(), directory.clone(), clock.clone());
        Box::pin(async move {
            // Purged meanwhile: nothing is left to do it in.
            let Some(tenant) = directory.tenant(job.tenant).await? else { return Ok(()) };
            decide::served(tenant.state)?;
            let mut context = TenantContext::of_platform(tenant, directory, broker, clock);
            context.request_id = job.id.to_string();
            P::job(&context, &job.kind, &job.payload).await
        })
    })
}

/// A server that is put together and not yet listening.
pub struct Server {
    pub http: HttpState,
    pub router: Router,
}

/// Puts the request-answering side together. It gets the control database and the tenants' derived passwords, and no
/// shard's admin login.
pub fn server<P: Product>(
    cp: ControlPlane,
    master: MasterKey,
    config: &ServeConfig,
    parts: Parts,
) -> Result<Server> {
    let redis = match &config.redis_url {
        Some(url) => Some(redis::connect(url.expose_secret())?),
        None => None,
    };
    let broker =
        Broker::new(BrokerConfig { budget: config.broker_budget, ..BrokerConfig::default() }, master);
    let http = HttpState {
        directory: Directory::new(cp.db.clone(), cp.clock.clone(), Capacity::default()),
        limiter: Limiter::new(redis, config.replicas),
        broker,
        clock: cp.clock.clone(),
        entropy: cp.entropy.clone(),
        base_domain: Arc::from(cp.addresses.base_domain.as_str()),
        plain_http: cp.addresses.scheme == "http",
        extra_origins: Vec::new(),
        metrics: parts.metrics,
        draining: parts.draining,
        request_timeout: limits::WHOLE_REQUEST,
    };
    let operator = operator::routes(cp);
    Ok(Server { router: router(http.clone(), P::routes(), operator), http })
}

/// What the process gives its server.
#[derive(Clone, Default)]
pub struct Parts {
    /// Cancelled when the process is asked to stop.
    pub draining: CancellationToken,
    /// Given, `/metrics` is answered beside everything else: for development.
    pub metrics: Option<PrometheusHandle>,
}

impl Server {
    /// Listens, serves until `draining` is cancelled, and drains.
    pub async fn run(self, listener: TcpListener, options: ServeOptions) {
        let listening = CancellationToken::new();
        let directory = tokio::spawn(self.http.directory.clone().run(listening.clone()));
        let cut = serve::serve(listener, self.router, self.http.draining.clone(), options).await;
        if cut > 0 {
            tracing::warn!(connections = cut, "cut: they did not finish in time");
        }
        listening.cancel();
        directory.await.ok();
        self.http.broker.close().await;
    }

    /// Answers `/metrics` and the health pages on a listener of their own, until the process ends: how it drains is
    /// worth seeing too.
    pub async fn run_admin(http: HttpState, addr: SocketAddr, metrics: PrometheusHandle) -> Result<()> {
        let listener = serve::bind(addr).await?;
        tokio::spawn(to_the_end(listener, admin_router(&http, metrics)));
        Ok(())
    }
}

/// A worker's `/metrics` and health pages, until the process ends.
pub async fn run_worker_admin(
    health: WorkerHealth,
    addr: SocketAddr,
    metrics: PrometheusHandle,
) -> Result<()> {
    let listener = serve::bind(addr).await?;
    tokio::spawn(to_the_end(listener, worker_router(health, metrics)));
    Ok(())
}

async fn to_the_end(listener: TcpListener, app: Router) {
    // Few look here, and must not use up what the others need.
    let options = ServeOptions { connections: 64, ..ServeOptions::default() };
    serve::serve(listener, app, CancellationToken::new(), options).await;
}

/// Refuses to go on with a control database that is not there, or that this build does not fit.
pub async fn require_control(config: &ControlConfig) -> Result<()> {
    let mut conn = control::connect(&control::options(config.control_url()?, "freehold")?).await?;
    let ready = migrations::require_control(&mut conn).await;
    conn.close().await.ok();
    ready
}

/// The OpenAPI document of everything, for `freehold openapi` and the checked-in file.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, tenant) = Current::routes().split_for_parts();
    let (_, operator): (Router, _) = described_operator_routes().split_for_parts();
    crate::http::openapi::describe(tenant, operator)
}

/// The operator's routes, for their description only: nothing is connected.
fn described_operator_routes() -> OpenApiRouter {
    let db = sqlx::PgPool::connect_lazy_with(sqlx::postgres::PgConnectOptions::new_without_pgpass());
    let addresses = crate::control_plane::Addresses {
        scheme: "https".to_owned(),
        base_domain: "example.com".to_owned(),
        port: None,
    };
    let cp = ControlPlane {
        db,
        clock: Clock::System,
        entropy: Entropy::default(),
        addresses,
        tables: Current::migrations(),
    };
    operator::routes(cp)
}
