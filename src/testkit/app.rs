//! The whole platform for one test: a [`World`], a server on a free port, and a client that speaks to it.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use secrecy::SecretString;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::stripe::StripeStandIn;
use super::world::{World, WorldOptions, tester};
use super::{Cluster, Proxies, Through, eventually};
use crate::app::{self, Parts};
use crate::billing::settings::Settings as StripeSettings;
use crate::billing::{self, Billing, catalogue};
use crate::config::ServeConfig;
use crate::control_plane::ControlPlane;
use crate::control_plane::tenants::TenantRef;
use crate::control_plane::worker;
use crate::db::control;
use crate::http::router::HttpState;
use crate::http::serve::{self, ServeOptions};
use crate::identity::chores;
use crate::identity::domains::TxtLookup;
use crate::identity::keys::{NewApiKey, api_key_create, operator_key_create};
use crate::identity::settings::{MailSettings, MailTransport, Settings};
use crate::kernel::{MasterKey, Role};
use crate::product::Product;

/// A running server with the databases behind it. Stops when dropped.
pub struct TestApp {
    pub world: World,
    pub replicas: Vec<Replica>,
    pub client: reqwest::Client,
    /// A key for the operator API.
    pub operator_key: String,
    /// The proxies that [`AppOptions::through`] asked for.
    pub proxies: Proxies,
    /// What a worker's billing works with: for tests that do a piece of its work by hand.
    pub billing: Billing,
    /// What the replicas were started with, but without proxies.
    direct: ServeConfig,
    identity: Settings,
    txt: Option<TxtLookup>,
    stripe: StripeSettings,
    worker: Option<CancellationToken>,
}

/// One server process's worth, in this process.
pub struct Replica {
    pub addr: SocketAddr,
    pub http: HttpState,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// How a [`TestApp`] is to be.
pub struct AppOptions<'a> {
    pub world: WorldOptions,
    pub replicas: usize,
    /// Whether a worker runs beside it.
    pub worker: bool,
    pub broker_budget: usize,
    /// Control pools as large as in production, one for the server and one for the worker. Tests, of which many run at
    /// once, share a small one.
    pub roomy: bool,
    /// What the server and the worker reach through a fault proxy.
    pub through: Through,
    /// Another Redis than the tests' shared one.
    pub redis_url: Option<String>,
    /// Server processes that share the limits while Redis is away, as in `FREEHOLD_REPLICAS`.
    pub shares: u32,
    /// How people get in.
    pub identity: Settings,
    /// What looks TXT records up, in place of the system's name servers.
    pub txt: Option<TxtLookup>,
    /// A Stripe to be billed by. It goes by the platform's clock from then on, has the catalogue, and delivers its webhooks
    /// to the first replica; the worker does billing's regular work.
    pub stripe: Option<&'a StripeStandIn>,
}

impl AppOptions<'_> {
    /// Two shards, one replica, a worker.
    pub fn of<P: Product>() -> Self {
        Self {
            world: WorldOptions { shards: 2, tenant_cap: 1_000, slots: 2, tables: P::migrations() },
            replicas: 1,
            worker: true,
            broker_budget: 40,
            roomy: false,
            through: Through::default(),
            redis_url: None,
            shares: 1,
            identity: Settings::default(),
            txt: None,
            stripe: None,
        }
    }
}

impl TestApp {
    /// # Panics
    /// When anything goes wrong: no test can do without.
    pub async fn start<P: Product>(options: AppOptions<'_>) -> Self {
        let mut world = World::with(options.world).await;
        let redis = match options.redis_url {
            Some(url) => url,
            None => Cluster::shared().await.redis_url(),
        };
        let proxies = Proxies::before(&mut world, options.through, &redis).await;
        let mut server = world.hands.cp.clone();
        let mut worker_hands = world.hands.clone();
        if options.roomy || options.through.control {
            let url = SecretString::from(proxies.control_url(&world));
            server.db = control::pool(&url, "server").expect("a DSN");
            worker_hands.cp.db = control::pool(&url, "worker").expect("a DSN");
        }
        if options.roomy && !options.through.control {
            world.hands.cp.db = server.db.clone();
        }
        let identity = settings(&world, &options.identity);
        worker_hands.errands =
            app::errands(&worker_hands, &identity).expect("what a worker does for identity");
        let stripe = options.stripe.map(StripeStandIn::settings).unwrap_or_default();
        let billing = app::billing_of_worker(&worker_hands, stripe.clone(), &identity).expect("billing");
        worker_hands.errands = app::errands_with_billing(std::mem::take(&mut worker_hands.errands), &billing);
        if let Some(stand_in) = options.stripe {
            // Runs that a test carries out by hand have a billing step too.
            world.hands.errands = worker_hands.errands.clone();
            stand_in.follow(world.hands.cp.clock.clone());
            catalogue::sync(&world.hands.cp, &billing.stripe, false).await.expect("the catalogue at Stripe");
        }
        let direct = ServeConfig {
            http_addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            redis_url: Some(SecretString::from(redis.clone())),
            broker_budget: options.broker_budget,
            replicas: options.shares,
            metrics_addr: None,
            drain_seconds: 5,
            grace_seconds: 0,
            identity: None,
            stripe: None,
        };
        let config =
            ServeConfig { redis_url: Some(SecretString::from(proxies.redis_url(&redis))), ..direct.clone() };
        let mut replicas = Vec::new();
        for _ in 0..options.replicas {
            replicas.push(
                Replica::start_billed::<P>(
                    server.clone(),
                    &world.hands.master,
                    config.clone(),
                    identity.clone(),
                    options.txt.clone(),
                    stripe.clone(),
                )
                .await,
            );
        }
        if let (Some(stand_in), Some(replica)) = (options.stripe, replicas.first()) {
            stand_in.deliver_to_freehold(&replica.url(""));
        }
        let worker = options.worker.then(|| {
            let stop = CancellationToken::new();
            worker_hands.tenant_jobs = app::tenant_jobs::<P>(&worker_hands);
            tokio::spawn(worker::work_with(worker_hands, chores::ALL, stop.clone()));
            if options.stripe.is_some() {
                tokio::spawn(billing::run(billing.clone(), stop.clone()));
            }
            stop
        });
        let operator_key =
            operator_key_create(&world.hands.cp, &tester(), "test", None).await.expect("an operator key").key;
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .no_proxy()
            .build()
            .expect("an HTTP client");
        let txt = options.txt;
        let app = Self {
            world,
            replicas,
            client,
            operator_key,
            proxies,
            billing,
            direct,
            identity,
            txt,
            stripe,
            worker,
        };
        app.ready().await;
        app
    }

    /// One more server of the same world, whose roads to the control database and to Redis lead through no proxy: what
    /// the others would do without a fault, measured beside them.
    pub async fn beside<P: Product>(&self) -> Replica {
        let hands = &self.world.hands;
        let replica = Replica::start_billed::<P>(
            hands.cp.clone(),
            &hands.master,
            self.direct.clone(),
            self.identity.clone(),
            self.txt.clone(),
            self.stripe.clone(),
        )
        .await;
        self.wait_for(&replica).await;
        replica
    }

    async fn ready(&self) {
        for replica in &self.replicas {
            self.wait_for(replica).await;
        }
    }

    async fn wait_for(&self, replica: &Replica) {
        eventually(Duration::from_secs(20), "the server is ready", async || {
            let answer = self.client.get(replica.url("/health/ready")).send().await;
            match answer {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(answer.text().await.unwrap_or_default()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// A new key for a tenant.
    pub async fn key(&self, slug: &str, role: Role) -> String {
        let new = NewApiKey { name: role.to_string(), role, expires_at: None };
        let tenant = TenantRef::Slug(slug.to_owned());
        api_key_create(&self.world.hands.cp, &tester(), &tenant, &new).await.expect("a key").key
    }

    /// A request to a tenant's host, with a key.
    pub fn request(&self, method: Method, slug: &str, key: &str, path: &str) -> RequestBuilder {
        self.on(0, method, slug, key, path)
    }

    /// The same, to one of several replicas.
    pub fn on(&self, replica: usize, method: Method, slug: &str, key: &str, path: &str) -> RequestBuilder {
        self.client
            .request(method, self.replicas[replica].url(path))
            .header("host", format!("{slug}.localhost"))
            .bearer_auth(key)
    }

    /// A request to the operator API.
    pub fn operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.replicas[0].url(path)).bearer_auth(&self.operator_key)
    }

    /// The mails that were sent, as they would travel.
    pub fn mails(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.world.folder.path().join("mail")).into_iter().flatten().flatten();
        let eml =
            files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|ext| ext == "eml"));
        eml.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    }

    /// Sends a request and gives status and JSON body (null when there is none).
    pub async fn send(&self, request: RequestBuilder) -> (u16, Value) {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

/// Mail goes into a folder.
fn settings(world: &World, identity: &Settings) -> Settings {
    let transport = MailTransport::Folder { path: world.folder.path().join("mail") };
    let mail = Some(MailSettings { from: "Freehold <no-reply@example.com>".to_owned(), transport });
    Settings { mail, ..identity.clone() }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        for replica in &self.replicas {
            replica.stop.cancel();
        }
        if let Some(worker) = &self.worker {
            worker.cancel();
        }
    }
}

impl Replica {
    /// Starts one more server process's worth on the same databases.
    pub async fn start<P: Product>(
        cp: ControlPlane,
        master: &MasterKey,
        config: ServeConfig,
        identity: Settings,
    ) -> Self {
        Self::start_with::<P>(cp, master, config, identity, None).await
    }

    /// The same, with this to look TXT records up.
    pub async fn start_with<P: Product>(
        cp: ControlPlane,
        master: &MasterKey,
        config: ServeConfig,
        identity: Settings,
        txt: Option<TxtLookup>,
    ) -> Self {
        Self::start_billed::<P>(cp, master, config, identity, txt, StripeSettings::default()).await
    }

    /// The same, with a Stripe.
    pub async fn start_billed<P: Product>(
        cp: ControlPlane,
        master: &MasterKey,
        config: ServeConfig,
        identity: Settings,
        txt: Option<TxtLookup>,
        stripe: StripeSettings,
    ) -> Self {
        let listener = serve::bind(config.http_addr).await.expect("a free port");
        let addr = listener.local_addr().expect("the port");
        let stop = CancellationToken::new();
        let parts = Parts { draining: stop.clone(), identity, txt, stripe, ..Parts::default() };
        let server = app::server::<P>(cp, master.clone(), &config, parts).expect("the server");
        let http = server.http.clone();
        let options = ServeOptions { drain: config.drain(), ..ServeOptions::default() };
        let task = tokio::spawn(server.run(listener, options));
        Self { addr, http, stop, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Stops this replica as SIGTERM would, and waits until it has drained.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.ok();
    }
}
