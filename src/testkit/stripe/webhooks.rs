//! Webhooks on their way: signed as Stripe signs, repeated until somebody says 2xx; on wish twice, late or in another
//! order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::faults::random;
use super::state::{DAY, State, public, text};
use super::{Inside, Shape};

/// Where events go.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub id: String,
    pub url: String,
    pub shape: Shape,
    /// Two while one replaces the other: each makes a signature.
    pub secrets: Vec<String>,
    /// Event types; `*` for all.
    pub types: Vec<String>,
}

/// One event for one endpoint.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub event: String,
    pub kind: String,
    pub url: String,
    pub shape: Shape,
    /// The raw body; what is signed.
    pub body: String,
    pub attempts: u32,
    /// The last answer's status; none when nobody answered.
    pub status: Option<u16>,
    /// Somebody said 2xx.
    pub done: bool,
    /// Nobody did for three days.
    pub gave_up: bool,
    secrets: Vec<String>,
    queued: i64,
    next: Instant,
    in_flight: bool,
}

/// How deliveries are made.
#[derive(Clone, Debug)]
pub struct Manner {
    /// How often each event is delivered.
    pub copies: u32,
    /// In another order, decided by this seed: what is due at once is shuffled.
    pub shuffle: Option<u64>,
    /// Before the first attempt.
    pub delay: Duration,
    /// Kept until somebody takes them by hand.
    pub held: bool,
    /// From a failed attempt to the next; doubled each time.
    pub again: Duration,
}

impl Default for Manner {
    fn default() -> Self {
        let again = Duration::from_millis(200);
        Self { copies: 1, shuffle: None, delay: Duration::ZERO, held: false, again }
    }
}

/// The longest between two attempts, by the machine's clock.
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);
/// Stripe tries for three days.
const PATIENCE: i64 = 3 * DAY;
const AT_ONCE: usize = 32;
const PAUSE: Duration = Duration::from_millis(20);
/// What comes within this time is shuffled together.
const GATHER: Duration = Duration::from_millis(300);

/// `Stripe-Signature` for a body: `v1` for each secret, and the `v0` that test mode adds.
pub fn signature(body: &[u8], secrets: &[String], at: i64) -> String {
    let mut header = format!("t={at}");
    for secret in secrets {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signed = [format!("{at}.").as_bytes(), body].concat();
        header.push_str(&format!(",v1={}", HEXLOWER.encode(hmac::sign(&key, &signed).as_ref())));
    }
    header.push_str(",v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39");
    header
}

impl State {
    /// Queues an event for all endpoints that want it.
    pub fn queue(&mut self, event: &Value, shape: Shape) {
        let kind = text(event, "type").to_owned();
        let mut shown = public(event);
        if shape == Shape::Thin {
            // What travels says that something happened, not what.
            shown.as_object_mut().map(|fields| fields.remove("data"));
        }
        let body = serde_json::to_string_pretty(&shown).unwrap_or_default();
        let wants = |endpoint: &&Endpoint| {
            endpoint.shape == shape && endpoint.types.iter().any(|wanted| wanted == "*" || *wanted == kind)
        };
        let wanted: Vec<Endpoint> = self.endpoints.iter().filter(wants).cloned().collect();
        for endpoint in wanted {
            for _ in 0..self.manner.copies.max(1) {
                self.deliveries.push(Delivery {
                    event: text(event, "id").to_owned(),
                    kind: kind.clone(),
                    url: endpoint.url.clone(),
                    shape,
                    body: body.clone(),
                    attempts: 0,
                    status: None,
                    done: false,
                    gave_up: false,
                    secrets: endpoint.secrets.clone(),
                    queued: self.now,
                    next: Instant::now() + self.manner.delay,
                    in_flight: false,
                });
            }
        }
    }

    /// Those that are to be sent now, marked as being sent.
    fn due(&mut self) -> Vec<usize> {
        if self.manner.held {
            return Vec::new();
        }
        let (now, oldest) = (Instant::now(), self.now - PATIENCE);
        let is_over = |delivery: &Delivery| delivery.done || delivery.gave_up;
        while self.deliveries.get(self.over).is_some_and(is_over) {
            self.over += 1;
        }
        let busy = self.deliveries[self.over..].iter().filter(|delivery| delivery.in_flight).count();
        let mut due = Vec::new();
        for (at, delivery) in self.deliveries.iter_mut().enumerate().skip(self.over) {
            let open = !delivery.done && !delivery.gave_up && !delivery.in_flight;
            if open && delivery.attempts > 0 && delivery.queued < oldest {
                delivery.gave_up = true;
            } else if open && delivery.next <= now {
                due.push(at);
            }
        }
        if let Some(seed) = &mut self.manner.shuffle {
            for at in (1..due.len()).rev() {
                due.swap(at, usize::try_from(random(seed)).unwrap_or(0) % (at + 1));
            }
        }
        due.truncate(AT_ONCE.saturating_sub(busy));
        for at in &due {
            self.deliveries[*at].in_flight = true;
        }
        due
    }

    /// Takes what is held back, signed now.
    pub fn take_held(&mut self, at: i64) -> Vec<Held> {
        let open = self.deliveries.iter_mut().filter(|delivery| !delivery.done && !delivery.in_flight);
        open.map(|delivery| {
            delivery.done = true;
            Held {
                event: delivery.event.clone(),
                kind: delivery.kind.clone(),
                shape: delivery.shape,
                url: delivery.url.clone(),
                signature: signature(delivery.body.as_bytes(), &delivery.secrets, at),
                body: delivery.body.clone(),
            }
        })
        .collect()
    }
}

/// A delivery for somebody to make by hand.
#[derive(Clone, Debug)]
pub struct Held {
    pub event: String,
    pub kind: String,
    pub shape: Shape,
    pub url: String,
    pub body: String,
    pub signature: String,
}

/// Delivers until `stop` is cancelled.
pub async fn run(inside: Arc<Inside>, stop: CancellationToken) {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(10))
        .user_agent("Stripe/1.0 (+https://stripe.com/docs/webhooks)")
        .build()
        .expect("an HTTP client");
    loop {
        let pause = if inside.state.lock().manner.shuffle.is_some() { GATHER } else { PAUSE };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let due = inside.state.lock().due();
        for at in due {
            let (inside, client, stop) = (inside.clone(), client.clone(), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(send(&inside, &client, at)).await });
        }
    }
}

async fn send(inside: &Inside, client: &reqwest::Client, at: usize) {
    let delivery = inside.state.lock().deliveries[at].clone();
    // Signed at each attempt: a signature is good for five minutes.
    let header = signature(delivery.body.as_bytes(), &delivery.secrets, inside.now());
    let answer = client
        .post(&delivery.url)
        .header("content-type", "application/json; charset=utf-8")
        .header("stripe-signature", header)
        .body(delivery.body)
        .send()
        .await;
    let status = answer.ok().map(|answer| answer.status().as_u16());
    let mut state = inside.state.lock();
    let again = state.manner.again;
    let delivery = &mut state.deliveries[at];
    delivery.in_flight = false;
    delivery.status = status;
    delivery.attempts += 1;
    delivery.done = status.is_some_and(|status| (200..300).contains(&status));
    let wait = again.saturating_mul(1 << delivery.attempts.min(10).saturating_sub(1)).min(AGAIN_AT_MOST);
    delivery.next = Instant::now() + wait;
}
