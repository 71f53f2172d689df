//! The composition root: the only place that names concrete parts and puts them together.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use sqlx::{Connection, PgPool};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapters::{dns, mail, redis, stripe, terraform};
use crate::billing::settings::Settings as StripeSettings;
use crate::billing::{Billing, access, customers, ledger, quotas};
use crate::config::{ControlConfig, ServeConfig};
use crate::control_plane::errands::Errands;
use crate::control_plane::infra::Cloud;
use crate::control_plane::infra::settings::InfraSettings;
use crate::control_plane::tenant_jobs::TenantJobs;
use crate::control_plane::{ControlPlane, Hands, Turns, worker};
use crate::data_plane::TenantContext;
use crate::data_plane::broker::{Broker, BrokerConfig};
use crate::data_plane::directory::{Capacity, Directory};
use crate::data_plane::idempotency;
use crate::data_plane::limits::Limiter;
use crate::data_plane::tenancy::decide;
use crate::data_plane::tenancy::token::Tokens;
use crate::data_plane::usage::ApiCalls;
use crate::db::admin::ShardAdmins;
use crate::db::{control, migrations};
use crate::http::browser::Site;
use crate::http::health::WorkerHealth;
use crate::http::operator;
use crate::http::pages::plan::PlanPages;
use crate::http::pages::{self, Pages, Words};
use crate::http::router::{AllPages, HttpState, router, worker_router};
use crate::http::serve::{self, ServeOptions};
use crate::http::{admin_router, desk, limits, oauth, sign_in, webhooks, workspace};
use crate::identity::domains::TxtLookup;
use crate::identity::erasure::{self, Forget};
use crate::identity::letters::{self, Carrier};
use crate::identity::oidc::web::Web;
use crate::identity::settings::Settings;
use crate::identity::sign_in::Providers;
use crate::identity::{Identity, account_letters};
use crate::jobs::feed::RunFeed;
use crate::jobs::supervise::supervise;
use crate::kernel::{Clock, Entropy, Error, MasterKey, Result};
use crate::product::{Current, Product};

/// What changes the control database.
pub fn control_plane<P: Product>(config: &ControlConfig, application: &str) -> Result<ControlPlane> {
    Ok(ControlPlane {
        db: control::pool(config.control_url()?, application)?,
        clock: Clock::System,
        entropy: Entropy::default(),
        addresses: config.addresses()?,
        tables: P::migrations(),
        turns: Turns::default(),
    })
}

/// What changes the shards, for the CLI and the worker.
pub fn hands(config: &ControlConfig, application: &str) -> Result<Hands> {
    let cp = control_plane::<Current>(config, application)?;
    let worker = format!("{application}:{}:{}", std::process::id(), cp.entropy.base32::<5>());
    let master = config.master_key()?;
    let admins = ShardAdmins::with(master.clone());
    let (errands, tenant_jobs) = (Errands::default(), TenantJobs::default());
    Ok(Hands { cp, admins, master, worker, errands, tenant_jobs, cloud: Cloud::default() })
}

/// What a worker does for identity: it carries letters.
///
/// # Errors
/// `bad_request` for settings that are wrong.
pub fn errands(hands: &Hands, settings: &Settings) -> Result<Errands> {
    errands_by(hands, settings, settings.mail.as_ref().map(mail::carrier).transpose()?)
}

/// The same, with this carrier and not the one of the settings.
///
/// # Errors
/// As [`errands`].
pub fn errands_by(hands: &Hands, settings: &Settings, carrier: Option<Carrier>) -> Result<Errands> {
    let identity = identity(&hands.cp, &hands.master, settings)?;
    let (person, carries) = (identity.clone(), carrier.clone());
    let (cp, tells) = (hands.cp.clone(), carrier.clone());
    let errands = Errands::default().with(letters::JOB, move |tenant, payload| {
        let (identity, carrier) = (identity.clone(), carrier.clone());
        Box::pin(async move { letters::letter_send(&identity, carrier.as_ref(), tenant, payload).await })
    });
    let errands = errands.with(quotas::notices::JOB, move |tenant, payload| {
        let (cp, carrier) = (cp.clone(), tells.clone());
        Box::pin(async move { quotas::letter::notice_send(&cp, carrier.as_ref(), tenant, payload).await })
    });
    let (cp, writes) = (hands.cp.clone(), carries.clone());
    let errands = errands.with(access::letters::JOB, move |tenant, payload| {
        let (cp, carrier) = (cp.clone(), writes.clone());
        Box::pin(async move { access::letters::send(&cp, carrier.as_ref(), tenant, payload).await })
    });
    Ok(errands.of_platform(account_letters::JOB, move |payload| {
        let (identity, carrier) = (person.clone(), carries.clone());
        Box::pin(
            async move { account_letters::account_letter_send(&identity, carrier.as_ref(), payload).await },
        )
    }))
}

/// What makes tenants' resources, by these settings: nothing, or Terraform.
///
/// # Errors
/// `bad_request` for settings that are wrong.
pub fn cloud(settings: InfraSettings) -> Result<Cloud> {
    terraform::cloud::cloud(settings)
}

/// What billing's work needs: in a worker with its `admins`, elsewhere with none.
///
/// # Errors
/// `bad_request` for settings that are wrong.
pub fn billing(
    cp: &ControlPlane,
    admins: ShardAdmins,
    settings: StripeSettings,
    mail: Option<Carrier>,
) -> Result<Billing> {
    let stripe = stripe::client(cp, &settings)?;
    Ok(Billing::new(cp.clone(), admins, stripe, settings, mail))
}

/// The same errands, and what runs ask of billing: a new tenant's account, and its end. Without a Stripe there is nothing.
#[must_use]
pub fn errands_with_billing(errands: Errands, billing: &Billing) -> Errands {
    if !billing.settings.enabled() {
        return errands;
    }
    let (opens, forgets) = (billing.clone(), billing.clone());
    errands
        .with(customers::ENSURE, move |tenant, _| {
            let billing = opens.clone();
            Box::pin(async move { customers::open(&billing, tenant).await })
        })
        .with(customers::FORGET, move |tenant, _| {
            let billing = forgets.clone();
            Box::pin(async move { customers::customer_forget(&billing, tenant).await })
        })
}

/// A worker's.
///
/// # Errors
/// As [`billing`].
pub fn billing_of_worker(hands: &Hands, stripe: StripeSettings, identity: &Settings) -> Result<Billing> {
    let mail = identity.mail.as_ref().map(mail::carrier).transpose()?;
    billing(&hands.cp, hands.admins.clone(), stripe, mail)
}

/// Brings the control database to what product `P` counts. A worker does so when it starts, and whoever applies plans.
pub async fn meters<P: Product>(cp: &ControlPlane) -> Result<()> {
    ledger::meters_put(&mut *cp.db.acquire().await?, P::METERS).await
}

/// What the platform and product `P` do in tenants' schemas when a worker asks: as the tenant's own login, over connections of the
/// worker's own, in the tenant that the job names and in no other.
pub fn tenant_jobs<P: Product>(hands: &Hands) -> TenantJobs {
    let clock = hands.cp.clock.clone();
    let config = BrokerConfig { budget: worker::JOBS_AT_ONCE, ..BrokerConfig::default() };
    let broker = Broker::new(config, hands.master.clone());
    // It does not listen for changes, so nothing in it is believed for longer than a second.
    let capacity = Capacity { tenants: 1_000, keys: 1, people: 1, unknown: 100 };
    let directory = Directory::new(hands.cp.db.clone(), clock.clone(), capacity);
    let db = hands.cp.db.clone();
    let regular = [idempotency::TIDY].into_iter().chain(P::REGULAR_JOBS.iter().copied());
    TenantJobs::new(regular, move |job| {
        let (broker, directory, clock, db) = (broker.clone(), directory.clone(), clock.clone(), db.clone());
        Box::pin(async move {
            // Purged meanwhile: nothing is left to do it in.
            let Some(tenant) = directory.tenant(job.tenant).await? else { return Ok(()) };
            decide::served(&tenant)?;
            let mut context = TenantContext::of_platform(tenant, directory, broker, clock);
            context.request_id = job.id.to_string();
            if job.kind == idempotency::TIDY.kind {
                return context.forget_answers().await;
            }
            if job.kind != erasure::JOB {
                return P::job(&context, &job.kind, &job.payload).await;
            }
            let Forget { account } = serde_json::from_value(job.payload).map_err(Error::internal)?;
            P::forget_person(&context, &account.to_string()).await?;
            erasure::forgotten(&db, job.tenant, account).await
        })
    })
}

/// A server that is put together and not yet listening.
pub struct Server {
    pub http: HttpState,
    pub router: Router,
    /// Where the calls that it counts are recorded.
    ledger: PgPool,
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
    let txt = parts.txt.unwrap_or_else(dns::txt_lookup);
    let identity = identity(&cp, &master, &parts.identity)?.with_txt(txt);
    let broker =
        Broker::new(BrokerConfig { budget: config.broker_budget, ..BrokerConfig::default() }, master);
    let http = HttpState {
        directory: Directory::new(cp.db.clone(), cp.clock.clone(), Capacity::default()),
        calls: ApiCalls::new(&cp.entropy),
        limiter: Limiter::counting(redis, config.replicas, cp.db.clone(), cp.clock.clone()),
        tokens: Tokens::new(identity.keyring.clone()),
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
    let site = Site {
        identity: identity.clone(),
        directory: http.directory.clone(),
        base_domain: http.base_domain.clone(),
    };
    let money = billing(&cp, ShardAdmins::default(), parts.stripe, None)?;
    let all = Pages { site: site.clone(), feed: RunFeed::new(cp.db.clone()), billing: money.clone() };
    let plan = PlanPages { site: site.clone(), billing: money.clone() };
    let pages = AllPages {
        base: sign_in::routes(site.clone())
            .merge(oauth::routes(site.clone()))
            .merge(desk::routes(site.clone(), money.clone()))
            .merge(pages::routes(all))
            .merge(pages::plan::routes(plan))
            .merge(webhooks::routes(money.clone(), http.base_domain.clone()))
            .merge(pages::at_base_only(parts.pages, site.clone())),
        workspace: P::pages().merge(pages::workspace_routes(identity.clone())),
        product: Words { name: P::NAME, tagline: P::TAGLINE, pages: P::PAGES },
        site,
    };
    let tenant = P::routes().merge(workspace::routes(identity));
    let ledger = cp.db.clone();
    let operator = operator::routes_with(cp, Some(money));
    Ok(Server { router: router(http.clone(), tenant, operator, Some(pages)), http, ledger })
}

/// Plain HTTP to this machine's own providers is for a site that is itself served so: in development.
fn identity(cp: &ControlPlane, master: &MasterKey, settings: &Settings) -> Result<Identity> {
    let web = Web::new(cp.addresses.scheme == "http");
    let providers = Providers::new(&settings.providers, &web)?;
    let operators = Providers::of_operators(&settings.operator_providers, &web)?;
    Ok(Identity::new(cp, master, providers, settings.clone()).with_operators(operators))
}

/// What the process gives its server.
#[derive(Clone, Default)]
pub struct Parts {
    /// Cancelled when the process is asked to stop.
    pub draining: CancellationToken,
    /// How people get in.
    pub identity: Settings,
    /// What looks TXT records up; without it, the system's name servers.
    pub txt: Option<TxtLookup>,
    /// Given, `/metrics` is answered beside everything else: for development.
    pub metrics: Option<PrometheusHandle>,
    /// How Stripe is reached.
    pub stripe: StripeSettings,
    /// More pages at the sign-in host: the mailbox of `freehold dev`.
    pub pages: Router,
}

impl Server {
    /// Listens, serves until `draining` is cancelled, and drains.
    pub async fn run(self, listener: TcpListener, options: ServeOptions) {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (directory, limiter) = (self.http.directory.clone(), self.http.limiter.clone());
        let (calls, ledger, clock) = (self.http.calls.clone(), self.ledger, self.http.clock.clone());
        tasks.spawn(supervise("directory", stop.clone(), move |stop| directory.clone().run(stop)));
        tasks.spawn(supervise("months", stop.clone(), move |stop| limiter.clone().run(stop)));
        tasks.spawn(supervise("api_calls", stop.clone(), move |stop| {
            calls.clone().run(ledger.clone(), clock.clone(), stop)
        }));
        let cut = serve::serve(listener, self.router, self.http.draining.clone(), options).await;
        if cut > 0 {
            tracing::warn!(connections = cut, "cut: they did not finish in time");
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
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
    let (cp, master) = (unconnected(), MasterKey::from_bytes([0; 32]));
    let identity = Identity::new(&cp, &master, Providers::default(), Settings::default());
    let workspace = workspace::routes(identity);
    let (_, tenant) = Current::routes().merge(workspace).split_for_parts();
    let (_, operator): (Router, _) = operator::routes(cp).split_for_parts();
    crate::http::openapi::describe(tenant, operator)
}

/// For the description of routes only: nothing is connected.
fn unconnected() -> ControlPlane {
    let addresses = crate::control_plane::Addresses {
        scheme: "https".to_owned(),
        base_domain: "example.com".to_owned(),
        port: None,
    };
    ControlPlane {
        db: sqlx::PgPool::connect_lazy_with(sqlx::postgres::PgConnectOptions::new_without_pgpass()),
        clock: Clock::System,
        entropy: Entropy::default(),
        addresses,
        tables: Current::migrations(),
        turns: Turns::default(),
    }
}
