//! A Stripe of our own to run against: it remembers, keeps its own time, sends signed webhooks, and fails on wish. For
//! development and tests; it is part of no build without the feature `testkit`, listens on this machine only and
//! refuses live keys.
//!
//! | file | holds |
//! |---|---|
//! | `facts`, `params` | which requests are Stripe's; any other is refused |
//! | `server` | a request's way through keys, limits, idempotency and faults |
//! | `state`, `clock` | what is remembered, and what time does to it |
//! | `operations` | what each operation does, a file for each kind of object |
//! | `faults`, `limits`, `idempotency` | what goes wrong on wish; how much at once; answers kept for a day |
//! | `webhooks` | events on their way: signed, repeated, twice, late, in another order |
//! | `queries` | what tests ask it and plant in it |
//! | `pages` | Checkout, the portal, invoices, and the dashboard, for a browser |
//!
//! What it does not do: tax, refunds to cards, several currencies at once, quotes, schedules. It answers 501 to an
//! operation or a parameter that Stripe has and it does not, so that nothing is believed by mistake. A parameter of
//! Stripe's that is accepted and changes nothing here: `automatic_tax`, addresses, texts for documents.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::billing::settings::{Settings, Webhooks};
use crate::kernel::{Clock, Entropy};

mod clock;
mod errors;
mod facts;
mod faults;
mod idempotency;
mod limits;
mod lists;
mod operations;
mod pages;
mod params;
mod queries;
mod server;
mod state;
mod webhooks;

pub use errors::Refusal;
pub use faults::{Fault, Faults};
pub use limits::Rates;
pub use state::{AfterRetries, Usage};
pub use webhooks::{Delivery, Held, Manner, signature};

/// The two forms in which events travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// With the object as it was.
    Snapshot,
    /// Only what it is about.
    Thin,
}

/// What somebody types into the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    Works,
    /// The page says no.
    Declined,
    /// Pays now and fails at the next invoice.
    FailsLater,
}

/// How a stand-in is to be.
pub struct Options {
    /// Its time. Shared with the platform under test, so that advancing one advances both.
    pub clock: Clock,
    /// Where it listens; a free port without.
    pub addr: Option<SocketAddr>,
    /// Where it keeps its state, across restarts. In memory without.
    pub file: Option<PathBuf>,
    pub key: String,
    pub rates: Rates,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::movable(),
            addr: None,
            file: None,
            key: "sk_test_standin".to_owned(),
            rates: Rates::LIVE,
        }
    }
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Empty when it was none of Stripe's.
    pub operation: String,
    pub params: Value,
    pub request: String,
    /// The fault that it met.
    pub fault: Option<Fault>,
    /// Why it was refused before it was an operation's business.
    pub refused: Option<u16>,
}

impl Asked {
    fn of(
        method: &Method,
        path: &str,
        request: &str,
        operation: &str,
        params: &Value,
        fault: Option<Fault>,
    ) -> Self {
        Self {
            method: method.to_string(),
            path: path.to_owned(),
            operation: operation.to_owned(),
            params: params.clone(),
            request: request.to_owned(),
            fault,
            refused: None,
        }
    }

    fn refused(method: &Method, path: &str, request: &str, refusal: &Refusal) -> Self {
        let refused = Some(refusal.status);
        Self { refused, ..Self::of(method, path, request, "", &Value::Null, None) }
    }
}

/// Requests that are remembered.
const REMEMBERED: usize = 50_000;

struct Inside {
    state: Mutex<state::State>,
    clock: Mutex<Clock>,
    key: Mutex<String>,
    faults: Faults,
    limits: limits::Limits,
    rates: Mutex<Rates>,
    busy: idempotency::Busy,
    asked: Mutex<Vec<Asked>>,
    requests: AtomicU64,
}

impl Inside {
    fn now(&self) -> i64 {
        self.clock.lock().now().timestamp()
    }

    fn request_id(&self) -> String {
        format!("req_{:010}", self.requests.fetch_add(1, Ordering::Relaxed))
    }

    fn note(&self, asked: Asked) {
        let mut all = self.asked.lock();
        if all.len() < REMEMBERED {
            all.push(asked);
        }
    }
}

/// The stand-in. Ends with the value.
pub struct StripeStandIn {
    inside: Arc<Inside>,
    /// With no slash at its end.
    pub base_url: String,
    pub key: String,
    /// What signs snapshot events and thin events for [`StripeStandIn::deliver_to_freehold`].
    pub snapshot_secret: String,
    pub thin_secret: String,
    _stop: DropGuard,
}

impl StripeStandIn {
    /// One in memory on a free port, with a clock of its own.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// # Panics
    /// When it cannot listen, or its file is not one of its own.
    pub async fn start_with(options: Options) -> Self {
        let addr = options.addr.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        assert!(addr.ip().is_loopback(), "the stand-in is for this machine only, not for {addr}");
        assert!(options.key.starts_with("sk_test_"), "the stand-in has test keys only");
        let listener = tokio::net::TcpListener::bind(addr).await.expect("a free port for the stand-in");
        let base_url = format!("http://{}", listener.local_addr().expect("the port"));
        let entropy = Entropy::default();
        let (salt, now) = (entropy.base32::<5>().to_ascii_lowercase(), options.clock.now().timestamp());
        let fresh = || state::State::new(now, base_url.clone(), salt);
        let remembered = match &options.file {
            Some(file) => queries::read_file(file, &base_url, &options.clock).unwrap_or_else(fresh),
            None => fresh(),
        };
        let inside = Arc::new(Inside {
            state: Mutex::new(remembered),
            clock: Mutex::new(options.clock),
            key: Mutex::new(options.key.clone()),
            faults: Faults::default(),
            limits: limits::Limits::default(),
            rates: Mutex::new(options.rates),
            busy: idempotency::Busy::default(),
            asked: Mutex::default(),
            requests: AtomicU64::new(1),
        });
        let stop = CancellationToken::new();
        tokio::spawn(server::run(inside.clone(), listener, stop.clone()));
        tokio::spawn(webhooks::run(inside.clone(), stop.clone()));
        tokio::spawn(tick(inside.clone(), stop.clone()));
        if let Some(file) = options.file {
            tokio::spawn(queries::keep(inside.clone(), file, stop.clone()));
        }
        let secret = || format!("whsec_{}", entropy.base32::<20>());
        Self {
            inside,
            base_url,
            key: options.key,
            snapshot_secret: secret(),
            thin_secret: secret(),
            _stop: stop.drop_guard(),
        }
    }

    /// Where one that kept its state in this file listened: its addresses stay good if it does again. None when that
    /// port is taken now.
    pub fn address_of(file: &std::path::Path) -> Option<SocketAddr> {
        let addr = queries::address_in(file)?;
        std::net::TcpListener::bind(addr).is_ok().then_some(addr)
    }

    pub fn addr(&self) -> SocketAddr {
        self.base_url.trim_start_matches("http://").parse().expect("an address of its own")
    }

    /// What the platform has to be told to use it.
    ///
    /// # Panics
    /// When the settings refuse it.
    pub fn settings(&self) -> Settings {
        let secrets = |secret: &str| vec![secrecy::SecretString::from(secret.to_owned())];
        let webhooks =
            Webhooks { snapshot: secrets(&self.snapshot_secret), thin: secrets(&self.thin_secret) };
        Settings::for_loopback(&self.base_url, &self.key, webhooks).expect("settings for the stand-in")
    }

    /// Goes by this clock from now on: the platform's.
    pub fn follow(&self, clock: Clock) {
        *self.inside.clock.lock() = clock;
        self.settle();
    }

    /// Moves the clock, and does all that is due on the way, each thing at its time. Webhooks follow.
    ///
    /// # Panics
    /// When the clock is the system's.
    pub fn clock_advance(&self, by: Duration) {
        let clock = self.inside.clock.lock().clone();
        assert!(matches!(clock, Clock::Shifted(_)), "the system's clock cannot be moved");
        clock.advance(chrono::Duration::from_std(by).expect("a length of time"));
        self.settle();
    }

    /// Does what is due now, without waiting for the next tick.
    pub fn settle(&self) {
        let now = self.inside.now();
        clock::run_to(&mut self.inside.state.lock(), now);
    }

    /// Sends events to this address from now on, signed with this secret.
    pub fn deliver_to(&self, url: &str, shape: Shape, secret: &str) {
        self.deliver_signed(url, shape, &[secret]);
    }

    /// The same with several secrets: each makes a signature.
    pub fn deliver_signed(&self, url: &str, shape: Shape, secrets: &[&str]) {
        let mut state = self.inside.state.lock();
        state.endpoints.retain(|endpoint| !(endpoint.url == url && endpoint.shape == shape));
        state.endpoints.push(webhooks::Endpoint {
            id: format!("we_{}", entropy_free(url, shape)),
            url: url.to_owned(),
            shape,
            secrets: secrets.iter().map(|secret| (*secret).to_owned()).collect(),
            types: vec!["*".to_owned()],
        });
    }

    /// Sends both kinds of events to the platform's two routes below this address.
    pub fn deliver_to_freehold(&self, base: &str) {
        let base = base.trim_end_matches('/');
        self.deliver_to(&format!("{base}/webhooks/stripe/snapshot"), Shape::Snapshot, &self.snapshot_secret);
        self.deliver_to(&format!("{base}/webhooks/stripe/thin"), Shape::Thin, &self.thin_secret);
    }

    pub fn faults(&self) -> &Faults {
        &self.inside.faults
    }

    pub fn rates(&self, rates: Rates) {
        *self.inside.rates.lock() = rates;
    }
}

fn entropy_free(url: &str, shape: Shape) -> String {
    format!("{}_{}", crc32fast::hash(url.as_bytes()), if shape == Shape::Thin { "thin" } else { "snapshot" })
}

/// Time goes on without anybody asking.
async fn tick(inside: Arc<Inside>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(100))).await.is_some() {
        let now = inside.now();
        clock::run_to(&mut inside.state.lock(), now);
    }
}
