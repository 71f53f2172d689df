//! What goes wrong on purpose.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// A fault of one request. `done`: the request takes effect first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A 500 in Stripe's words, saved under the request's idempotency key as Stripe does.
    Error500 { done: bool },
    /// A balancer's 502: HTML, and nothing is saved but what was done.
    Html502 { done: bool },
    /// A 200 that ends in the middle of its body.
    Truncated,
    /// The connection is closed without an answer.
    Reset { done: bool },
    /// No answer for a while (see [`Faults::silence`]), then the connection is closed: a client that waits less sees a
    /// timeout.
    Silence { done: bool },
    /// 429; with `Retry-After` in seconds or without.
    TooMany { after: Option<u32> },
    /// 401: as if the key were revoked.
    Unauthorized,
    /// 409: another request has a lock.
    Conflict,
    /// 400 in Stripe's words: it will never take this. In no storm: it is an answer.
    Refused,
    /// 400 in a proxy's words, before Stripe is asked.
    Html400,
}

impl Fault {
    /// One of each, for storms.
    pub const ALL: &'static [Self] = &[
        Self::Error500 { done: false },
        Self::Error500 { done: true },
        Self::Html502 { done: false },
        Self::Html502 { done: true },
        Self::Truncated,
        Self::Reset { done: false },
        Self::Reset { done: true },
        Self::Silence { done: true },
        Self::TooMany { after: Some(1) },
        Self::TooMany { after: None },
        Self::Conflict,
    ];

    /// Comes before anything is done.
    pub fn is_before(self) -> bool {
        match self {
            Self::Error500 { done }
            | Self::Html502 { done }
            | Self::Reset { done }
            | Self::Silence { done } => !done,
            Self::Truncated => false,
            Self::TooMany { .. } | Self::Unauthorized | Self::Conflict | Self::Refused | Self::Html400 => {
                true
            }
        }
    }
}

struct Rule {
    /// An operation's name (`Billing.MeterEvents.create`) or its beginning; empty for all.
    operation: String,
    faults: Vec<Fault>,
    /// How often more; None without end.
    left: Option<u32>,
    /// Of 100 requests.
    percent: u32,
}

/// How long [`Fault::Silence`] lasts when nobody says.
const SILENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Plan {
    rules: VecDeque<Rule>,
    down: bool,
    latency: Duration,
    silence: Option<Duration>,
    seed: u64,
    injected: u64,
}

/// The faults to come. Rules are asked in the order they were made; the first that applies decides.
#[derive(Default)]
pub struct Faults(Mutex<Plan>);

impl Faults {
    /// The next request to the operation.
    pub fn once(&self, operation: &str, fault: Fault) {
        self.times(1, operation, fault);
    }

    pub fn times(&self, times: u32, operation: &str, fault: Fault) {
        self.rule(operation, vec![fault], Some(times), 100);
    }

    pub fn always(&self, operation: &str, fault: Fault) {
        self.rule(operation, vec![fault], None, 100);
    }

    /// So many of 100 requests meet one of these, in an order that the seed decides.
    pub fn randomly(&self, operation: &str, percent: u32, faults: &[Fault], seed: u64) {
        self.0.lock().seed = seed;
        self.rule(operation, faults.to_vec(), None, percent);
    }

    /// Every connection is closed at once.
    pub fn down(&self, down: bool) {
        self.0.lock().down = down;
    }

    /// How long each request takes before it is worked on.
    pub fn latency(&self, latency: Duration) {
        self.0.lock().latency = latency;
    }

    /// How long a silence lasts.
    pub fn silence(&self, silence: Duration) {
        self.0.lock().silence = Some(silence);
    }

    /// No faults from now on.
    pub fn clear(&self) {
        let mut plan = self.0.lock();
        plan.rules.clear();
        plan.down = false;
        plan.latency = Duration::ZERO;
    }

    /// How many requests met one so far.
    pub fn injected(&self) -> u64 {
        self.0.lock().injected
    }

    fn rule(&self, operation: &str, faults: Vec<Fault>, left: Option<u32>, percent: u32) {
        let rule = Rule { operation: operation.to_owned(), faults, left, percent };
        self.0.lock().rules.push_back(rule);
    }

    pub(super) fn is_down(&self) -> bool {
        self.0.lock().down
    }

    pub(super) fn silence_for(&self) -> Duration {
        self.0.lock().silence.unwrap_or(SILENCE)
    }

    pub(super) fn delay(&self) -> Duration {
        self.0.lock().latency
    }

    /// The fault of this request, if it meets one.
    pub(super) fn next(&self, operation: &str) -> Option<Fault> {
        let mut plan = self.0.lock();
        let Plan { rules, seed, injected, .. } = &mut *plan;
        let rule = rules
            .iter_mut()
            .filter(|rule| rule.left != Some(0) && operation.starts_with(&rule.operation))
            .find(|rule| random(seed) % 100 < u64::from(rule.percent))?;
        rule.left = rule.left.map(|left| left - 1);
        let at = usize::try_from(random(seed)).unwrap_or(0) % rule.faults.len().max(1);
        let fault = rule.faults.get(at).copied()?;
        *injected += 1;
        Some(fault)
    }
}

/// SplitMix64: the same numbers for the same seed.
pub fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) >> 1
}
