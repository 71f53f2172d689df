//! What is asked of Stripe, in our own words. `adapters::stripe` implements it with Stripe's typed requests; the rest of
//! `billing` names no type of theirs. Money is in minor units, quantities are whole, times are UTC.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::kernel::{Error, codes};

/// Stripe, as `billing` is given it.
pub type Stripe = Arc<dyn Api>;
/// An answer on its way.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + Send + 'a>>;

/// Why there is no answer to use. What it means for a meter event is decided in `sender`; everything else is repeated with
/// the same idempotency key while [`Trouble::passes`] (another key after `Broken`), and given up for the rest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// 400 or 404 in Stripe's own words, with its code (`resource_missing`) and message.
    #[error("Stripe refused ({status} {code}): {message}")]
    Refused { status: u16, code: String, message: String },
    /// 401 or 403: our key.
    #[error("Stripe refused our key ({status}): {message}")]
    Key { status: u16, message: String },
    /// 409, 424 or 429: not now.
    #[error("Stripe says not now ({status})")]
    Later { status: u16, after: Option<Duration> },
    /// No connection was made: nothing was asked.
    #[error("Stripe cannot be reached: {0}")]
    Unreached(String),
    /// No answer came: a timeout, a reset. The request may have been done.
    #[error("Stripe did not answer: {0}")]
    Silent(String),
    /// A 5xx, or a body that is no answer of theirs: what stands between may say anything. The request may have been done.
    #[error("Stripe's answer cannot be used ({status}): {what}")]
    Broken { status: u16, what: String },
}

impl Trouble {
    /// Whether asking again may help, later.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Later { .. } | Self::Unreached(_) | Self::Silent(_) | Self::Broken { .. })
    }

    /// Whether it is about what was asked for, and says nothing about anything else.
    pub fn is_of_one(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Broken { status: 200, .. })
    }

    /// Whether Stripe does not know what was asked for. Something that was deleted there is answered so, too.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
            || matches!(self, Self::Refused { code, .. } if code == "resource_missing")
    }
}

/// As a client sees it. The trouble itself stays its cause, for whoever decides what is next.
impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        if trouble.passes() {
            let after = match &trouble {
                Trouble::Later { after, .. } => after.unwrap_or(Duration::from_secs(5)),
                _ => Duration::from_secs(5),
            };
            return Self::new(&codes::PAYMENTS_UNAVAILABLE).retry_after(after).source(trouble);
        }
        // Neither a refused key nor a refused request is something that a client could mend.
        Self::internal(trouble)
    }
}

/// Text that makes two sendings of one request one request at Stripe.
pub type IdempotencyKey = String;

/// One meter event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterEvent {
    pub event_name: String,
    pub customer: String,
    pub value: i64,
    pub identifier: String,
    pub timestamp: DateTime<Utc>,
}

/// The part that speaks to Stripe's meters, small enough to be replaced when Stripe replaces them.
pub trait MeterSink: Send + Sync {
    /// Whether what is sent counts: live mode.
    fn livemode(&self) -> bool;
    /// Tells one total. A `Refused` whose message says that the identifier exists means that it was told before.
    fn meter_event<'a>(&'a self, event: &'a MeterEvent, key: IdempotencyKey) -> Asked<'a, ()>;
    /// What Stripe counted for a customer, a row per UTC day in `from..to` (both at 00:00).
    fn summaries<'a>(
        &'a self,
        meter: &'a str,
        customer: &'a str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Asked<'a, Vec<Summary>>;
    /// What Stripe counted for a customer in `from..to`, both at whole minutes: one total (no grouping window). None when it
    /// has nothing there. A batch shares its minute with its own late followers at most: this proves one absent or present.
    fn total_between<'a>(
        &'a self,
        meter: &'a str,
        customer: &'a str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Asked<'a, Option<i64>>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub value: i64,
}

/// All that is asked of Stripe. The clock that Stripe answered by, and its headers, are the adapter's business; it keeps the
/// `stripe_link` row true through what it returns.
pub trait Api: MeterSink {
    // -- catalogue: idempotent by our own name, which is in the object's metadata and lookup key
    fn meter_create<'a>(&'a self, new: &'a NewMeter) -> Asked<'a, String>;
    /// Meters by event name → id, active ones.
    fn meters(&self) -> Asked<'_, Vec<(String, String)>>;
    fn product_put<'a>(&'a self, new: &'a NewProduct) -> Asked<'a, String>;
    fn price_create<'a>(&'a self, new: &'a NewPrice) -> Asked<'a, String>;

    // -- customers, subscriptions
    fn customer_create<'a>(&'a self, new: &'a NewCustomer, key: IdempotencyKey) -> Asked<'a, Customer>;
    fn customer<'a>(&'a self, id: &'a str) -> Asked<'a, Customer>;
    fn customer_delete<'a>(&'a self, id: &'a str) -> Asked<'a, ()>;
    fn subscription_create<'a>(
        &'a self,
        new: &'a NewSubscription,
        key: IdempotencyKey,
    ) -> Asked<'a, Subscription>;
    fn subscription<'a>(&'a self, id: &'a str) -> Asked<'a, Subscription>;
    fn subscriptions_of<'a>(&'a self, customer: &'a str) -> Asked<'a, Vec<Subscription>>;
    /// Another plan: its prices instead of the present ones. `prorate` settles the rest of the period on the next invoice.
    fn subscription_change<'a>(
        &'a self,
        id: &'a str,
        prices: &'a [PriceItem],
        plan: &'a str,
        prorate: bool,
        key: IdempotencyKey,
    ) -> Asked<'a, Subscription>;
    /// At the end of the period, or at once. At once makes the last invoice too.
    fn subscription_cancel<'a>(
        &'a self,
        id: &'a str,
        at_once: bool,
        key: IdempotencyKey,
    ) -> Asked<'a, Subscription>;
    /// Takes back a cancellation at the end of the period.
    fn subscription_keep<'a>(&'a self, id: &'a str, key: IdempotencyKey) -> Asked<'a, Subscription>;

    // -- pages of Stripe's
    fn checkout<'a>(&'a self, new: &'a NewCheckout, key: IdempotencyKey) -> Asked<'a, Checkout>;
    fn checkout_by_id<'a>(&'a self, id: &'a str) -> Asked<'a, Checkout>;
    /// A customer's pages that can still be paid on, newest first; the newest hundred.
    fn checkouts_open<'a>(&'a self, customer: &'a str) -> Asked<'a, Vec<Checkout>>;
    /// Ends a page, so that nobody pays on it any more. False for one that had ended already, or was paid.
    fn checkout_expire<'a>(&'a self, id: &'a str) -> Asked<'a, bool>;
    /// The id of the promotion code that people type so. None when there is none that is active and for this customer.
    fn promotion_code<'a>(&'a self, code: &'a str, customer: &'a str) -> Asked<'a, Option<String>>;
    /// The address of the Billing Portal for this customer, good for minutes.
    fn portal<'a>(&'a self, customer: &'a str, return_url: &'a str) -> Asked<'a, String>;

    // -- invoices
    fn invoice<'a>(&'a self, id: &'a str) -> Asked<'a, Invoice>;
    fn invoices_of<'a>(&'a self, customer: &'a str, limit: u32) -> Asked<'a, Vec<Invoice>>;
    /// What the next one would say.
    fn invoice_preview<'a>(&'a self, subscription: &'a str) -> Asked<'a, Invoice>;
    /// Holds a draft (`auto_advance = false`), or lets it go again.
    fn invoice_hold<'a>(&'a self, id: &'a str, hold: bool) -> Asked<'a, Invoice>;
    fn credit_note<'a>(
        &'a self,
        invoice: &'a str,
        minor: i64,
        reason: &'a str,
        key: IdempotencyKey,
    ) -> Asked<'a, String>;
    /// Takes back a meter event of the last 24 hours by its identifier.
    fn meter_event_cancel<'a>(&'a self, event_name: &'a str, identifier: &'a str) -> Asked<'a, ()>;

    // -- events
    /// Snapshot events since a time, oldest first, each as Stripe sent it.
    fn events_since(&self, since: DateTime<Utc>) -> Asked<'_, Vec<serde_json::Value>>;
    /// Thin events since a time, oldest first.
    fn thin_events_since(&self, since: DateTime<Utc>) -> Asked<'_, Vec<serde_json::Value>>;
    /// A thin event with its data.
    fn thin_event<'a>(&'a self, id: &'a str) -> Asked<'a, serde_json::Value>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMeter {
    pub event_name: String,
    pub display_name: String,
    /// `sum` or `last`.
    pub aggregation: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewProduct {
    /// Ours, and the product's id at Stripe.
    pub id: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPrice {
    pub product: String,
    /// Ours; unique at Stripe among active prices.
    pub lookup_key: String,
    pub currency: String,
    /// Per month, or per unit of the meter.
    pub unit_minor: i64,
    /// A metered price: the meter's id at Stripe, and how many units cost nothing.
    pub meter: Option<(String, i64)>,
}

/// A price in a subscription. Metered ones have no quantity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceItem {
    pub price: String,
    pub metered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCustomer {
    /// `ten_…`, kept in the customer's metadata.
    pub tenant: String,
    pub name: String,
    pub email: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Customer {
    pub id: String,
    pub livemode: bool,
    pub deleted: bool,
    /// From its metadata.
    pub tenant: Option<String>,
    pub email: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSubscription {
    pub customer: String,
    pub plan: String,
    pub prices: Vec<PriceItem>,
    pub trial_days: u32,
    pub coupon: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub id: String,
    pub livemode: bool,
    pub customer: String,
    /// From its metadata.
    pub plan: Option<String>,
    /// Stripe's word: `trialing`, `active`, `past_due`, …
    pub status: String,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
    pub trial_end: Option<DateTime<Utc>>,
    pub cancel_at: Option<DateTime<Utc>>,
    pub canceled_at: Option<DateTime<Utc>>,
    pub latest_invoice: Option<String>,
    pub prices: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCheckout {
    pub customer: String,
    pub plan: String,
    pub prices: Vec<PriceItem>,
    pub trial_days: u32,
    /// Without a trial: when the first whole period begins. The time until then is charged by its part.
    pub anchor: Option<DateTime<Utc>>,
    /// When the page ends: half an hour to a day from now. None: after a day.
    pub expires_at: Option<DateTime<Utc>>,
    /// A promotion code's id at Stripe.
    pub promotion_code: Option<String>,
    /// Ours, to know it again by. At most 200 characters.
    pub reference: String,
    pub success_url: String,
    pub cancel_url: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    pub id: String,
    /// Where the browser goes. None once it has ended.
    pub url: Option<String>,
    /// `open`, `complete`, `expired`.
    pub status: String,
    pub subscription: Option<String>,
    /// Ours.
    pub reference: Option<String>,
    pub created_at: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    pub id: String,
    pub livemode: bool,
    pub customer: String,
    pub subscription: Option<String>,
    pub number: Option<String>,
    /// `draft`, `open`, `paid`, `uncollectible`, `void`.
    pub status: String,
    pub auto_advance: bool,
    pub currency: String,
    pub total_minor: i64,
    pub tax_minor: i64,
    pub paid_minor: i64,
    pub credited_minor: i64,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
    pub lines: Vec<InvoiceLine>,
    pub hosted_url: Option<String>,
    pub created_at: DateTime<Utc>,
    pub due_at: Option<DateTime<Utc>>,
    pub paid_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InvoiceLine {
    pub id: String,
    /// The price at Stripe.
    pub price: Option<String>,
    pub description: String,
    pub quantity: i64,
    pub amount_minor: i64,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
}
