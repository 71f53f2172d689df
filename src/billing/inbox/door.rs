//! The door: whether Stripe sent it, and the one statement that keeps it. No business here: what is stored is answered,
//! and what is answered with anything but 200 Stripe sends again.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::about::about;
use super::read::{Event, read};
use super::signature::{self, Good};
use super::{Shape, work};
use crate::billing::Billing;
use crate::billing::incidents::{self, kind};
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Result, codes};

/// Events stored at once by this process: a flood of them must not take every connection from everybody else.
const AT_ONCE: usize = 8;
/// The longest an event waits for its turn. Stripe gives us twenty seconds, and comes again.
const PATIENCE: Duration = Duration::from_secs(5);
/// What goes wrong at the door is written down this often at most: anybody can knock.
const SAID_EVERY: i64 = 60_000;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Stored,
    /// It was here before: its deliveries are counted.
    Repeated,
    /// Authentic and unreadable: kept as it came, and somebody is told.
    Unreadable,
}

/// The endpoints' work. One to a process.
pub struct Door {
    billing: Billing,
    turns: Semaphore,
    /// When each kind of trouble was last written down, in milliseconds since 1970.
    said: [AtomicI64; 3],
}

/// What is written down at the door, at most once a minute each.
#[derive(Clone, Copy)]
enum Said {
    Signature,
    Previous,
    Mode,
}

impl Door {
    pub fn new(billing: Billing) -> Self {
        Self { billing, turns: Semaphore::new(AT_ONCE), said: Default::default() }
    }

    fn secrets(&self, shape: Shape) -> &[SecretString] {
        match shape {
            Shape::Snapshot => &self.billing.settings.webhooks.snapshot,
            Shape::Thin => &self.billing.settings.webhooks.thin,
        }
    }

    /// Stores an event, or counts its delivery.
    ///
    /// # Errors
    /// `bad_request` for a signature that is not Stripe's or not of now, and for an event of the other mode;
    /// `control_unavailable` when it cannot be stored.
    pub async fn take(&self, shape: Shape, header: Option<&str>, body: &[u8]) -> Result<Taken> {
        let now = self.billing.cp.clock.now();
        let good = match signature::check(header, body, self.secrets(shape), now) {
            Ok(good) => good,
            Err(bad) => {
                metrics::counter!("webhook_refused_total", "endpoint" => shape.as_str(), "why" => bad.as_str())
                    .increment(1);
                let detail = json!({ "why": bad.to_string() });
                self.say(Said::Signature, kind::SIGNATURE, shape.as_str(), detail, now).await;
                return Err(Error::new(&codes::BAD_REQUEST).detail("the signature is not good").source(bad));
            }
        };
        if good == Good::Previous {
            metrics::counter!("webhook_previous_secret_total", "endpoint" => shape.as_str()).increment(1);
            self.say(Said::Previous, kind::PREVIOUS_SECRET, shape.as_str(), json!({}), now).await;
        }
        let taken = match read(body) {
            Ok(event) if event.livemode != self.billing.settings.livemode() => {
                return Err(self.of_other_mode(shape, &event, now).await);
            }
            Ok(event) => self.store(shape, &event, body, now).await?,
            Err(why) => self.store_unreadable(shape, body, &why, now).await?,
        };
        let outcome = match taken {
            Taken::Stored => "stored",
            Taken::Repeated => "repeated",
            Taken::Unreadable => "unreadable",
        };
        metrics::counter!("webhooks_total", "endpoint" => shape.as_str(), "outcome" => outcome).increment(1);
        Ok(taken)
    }

    async fn store(&self, shape: Shape, event: &Event<'_>, body: &[u8], now: DateTime<Utc>) -> Result<Taken> {
        // It was parsed as JSON, so it is UTF-8.
        let text = std::str::from_utf8(body).map_err(Error::internal)?;
        let _turn = self.turn().await?;
        match insert(&self.billing, shape, event, text, "webhook", now).await {
            Ok(1) => Ok(Taken::Stored),
            Ok(_) => Ok(Taken::Repeated),
            // JSON that no column can hold, for a reason that we did not think of.
            Err(error) if is_data(&error) => {
                drop(_turn);
                self.store_unreadable(shape, body, &error.to_string(), now).await
            }
            Err(error) => Err(not_stored(error)),
        }
    }

    async fn store_unreadable(
        &self,
        shape: Shape,
        body: &[u8],
        why: &str,
        now: DateTime<Utc>,
    ) -> Result<Taken> {
        let name = format!("unreadable:{}", &HEXLOWER.encode(&sha256(body))[..40]);
        let _turn = self.turn().await?;
        keep_unreadable(&self.billing, shape, &name, body, why, now).await.map_err(not_stored)?;
        Ok(Taken::Unreadable)
    }

    /// Test and live never mix: somebody has put an endpoint's address, or its secret, in the wrong place.
    async fn of_other_mode(&self, shape: Shape, event: &Event<'_>, now: DateTime<Utc>) -> Error {
        metrics::counter!("webhook_refused_total", "endpoint" => shape.as_str(), "why" => "livemode")
            .increment(1);
        let detail = json!({ "event": event.id, "type": event.kind, "livemode": event.livemode });
        self.say(Said::Mode, kind::LIVEMODE, shape.as_str(), detail, now).await;
        Error::new(&codes::BAD_REQUEST).detail("the event is of the other mode")
    }

    /// Writes down what went wrong, unless that was done a moment ago. The answer does not depend on it.
    async fn say(&self, what: Said, kind: &str, subject: &str, detail: Value, now: DateTime<Utc>) {
        let (now_ms, last) = (now.timestamp_millis(), &self.said[what as usize]);
        let before = last.load(Ordering::Relaxed);
        let due = before == 0 || now_ms - before >= SAID_EVERY;
        if !due || last.compare_exchange(before, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let said = async {
            let mut conn = self.billing.cp.db.acquire().await?;
            incidents::open(&mut conn, kind, subject, None, detail, now).await
        };
        if let Err(error) = said.await {
            tracing::warn!(kind, subject, ?error, "this could not be written down");
        }
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        match tokio::time::timeout(PATIENCE, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::new(&codes::CONTROL_UNAVAILABLE).retry_after(Duration::from_secs(5))),
        }
    }
}

/// Keeps what is authentic and cannot be read, and tells somebody; gives the number of its deliveries.
pub(super) async fn keep_unreadable(
    billing: &Billing,
    shape: Shape,
    name: &str,
    body: &[u8],
    why: &str,
    now: DateTime<Utc>,
) -> Result<i32> {
    let mut tx = billing.cp.db.begin().await?;
    let deliveries: i32 = sqlx::query_scalar(
        "INSERT INTO webhook_inbox (livemode, event_id, shape, type, unreadable, received_at, state, not_before, error)
         VALUES ($1, $2, $3, '', $4, $5, 'dead', $5, $6)
         ON CONFLICT (livemode, event_id) DO UPDATE SET deliveries = webhook_inbox.deliveries + 1
         RETURNING deliveries",
    )
    .bind(billing.settings.livemode())
    .bind(name)
    .bind(shape)
    .bind(body)
    .bind(now)
    .bind(why)
    .fetch_one(&mut *tx)
    .await?;
    let detail = json!({ "endpoint": shape, "why": why });
    incidents::open(&mut tx, kind::UNREADABLE, name, None, detail, now).await?;
    tx.commit().await?;
    Ok(deliveries)
}

/// Puts an event into the inbox, or counts one more delivery; gives their number. One statement.
pub(super) async fn insert(
    billing: &Billing,
    shape: Shape,
    event: &Event<'_>,
    text: &str,
    found_by: &str,
    now: DateTime<Utc>,
) -> Result<i32, sqlx::Error> {
    let state = if about(&event.kind).is_some() { work::READY } else { work::IGNORED };
    sqlx::query_scalar(
        "INSERT INTO webhook_inbox (livemode, event_id, shape, type, object, api_version, payload, happened_at,
                                    received_at, found_by, state, not_before, done_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9, $10, $11, $9, CASE WHEN $11 = 'ignored' THEN $9 END)
         ON CONFLICT (livemode, event_id) DO UPDATE SET deliveries = webhook_inbox.deliveries + 1
         RETURNING deliveries",
    )
    .bind(event.livemode)
    .bind(&*event.id)
    .bind(shape)
    .bind(&*event.kind)
    .bind(event.object.as_deref())
    .bind(event.api_version.as_deref())
    .bind(text)
    .bind(event.happened_at)
    .bind(now)
    .bind(found_by)
    .bind(state)
    .fetch_one(&billing.cp.db)
    .await
}

/// Whether PostgreSQL refuses the value itself.
pub(super) fn is_data(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|said| said.code()).is_some_and(|code| code.starts_with("22"))
}

/// Whatever it is, Stripe is to come again.
fn not_stored(error: impl Into<Error>) -> Error {
    let error: Error = error.into();
    Error::new(&codes::CONTROL_UNAVAILABLE).retry_after(Duration::from_secs(5)).source(error)
}
