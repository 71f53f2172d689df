//! Stripe, asked by `async-stripe`'s typed requests over one pooled client of our own.
//!
//! | file | holds |
//! |---|---|
//! | `wire` | one call: headers, limits, what a status and a body mean |
//! | `asks` | requests, typed |
//! | `answers` | what the objects say, read leniently |
//!
//! Their own client opens a connection for each request, has no time limit, and loses what the headers say. Their answers'
//! types refuse an object with a value that they do not know. So the requests are theirs, and the rest is ours.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use parking_lot::Mutex;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::PgPool;
use stripe_billing::billing_meter::ListBillingMeter;
use stripe_billing::billing_meter_event_adjustment::{
    CreateBillingMeterEventAdjustment, CreateBillingMeterEventAdjustmentCancel,
};
use stripe_billing::billing_meter_event_summary::{
    ListIdBillingMeterEventSummary, ListIdBillingMeterEventSummaryValueGroupingWindow,
};
use stripe_billing::credit_note::CreateCreditNote;
use stripe_billing::invoice::{CreatePreviewInvoice, ListInvoice, RetrieveInvoice, UpdateInvoice};
use stripe_billing::subscription::{
    CancelSubscription, ListSubscription, ListSubscriptionStatus, RetrieveSubscription, UpdateSubscription,
};
use stripe_checkout::checkout_session::{
    ExpireCheckoutSession, ListCheckoutSession, RetrieveCheckoutSession,
};
use stripe_client_core::{RequestBuilder, StripeRequest};
use stripe_core::customer::{CreateCustomer, DeleteCustomer, RetrieveCustomer};
use stripe_core::event::ListEvent;
use stripe_product::product::{CreateProduct, UpdateProduct};
use tokio::time::Instant;

use crate::billing::sender::link;
use crate::billing::settings::Settings;
use crate::billing::stripe::{
    Api, Asked, Checkout, Customer, IdempotencyKey, Invoice, MeterEvent, MeterSink, NewCheckout, NewCustomer,
    NewMeter, NewPrice, NewProduct, NewSubscription, PriceItem, Stripe, Subscription, Summary, Trouble,
};
use crate::control_plane::ControlPlane;
use crate::kernel::secret::sha256;
use crate::kernel::{Clock, Result};
use answers::{
    CheckoutAnswer, CustomerAnswer, InvoiceAnswer, LineAnswer, MeterAnswer, Named, Page, PageOfV2,
    PortalAnswer, PromotionAnswer, SubscriptionAnswer, SummaryAnswer,
};
use wire::{Said, Wire};

mod answers;
mod asks;
mod wire;

pub use wire::VERSION;

const PAGE: i64 = 100;
/// A list that is longer is given up rather than read by halves.
const PAGES_AT_MOST: usize = 500;
/// Good news is written down this often.
const NOTED: Duration = Duration::from_secs(5);
/// And bad news this often.
const NOTED_TROUBLE: Duration = Duration::from_secs(1);

/// Stripe as the settings say. Without a key in them, everything is answered with [`Trouble::Key`] and nobody is asked.
///
/// # Errors
/// `internal` when the TLS stack cannot be set up.
pub fn client(cp: &ControlPlane, settings: &Settings) -> Result<Stripe> {
    Ok(Arc::new(Client {
        wire: Wire::new(settings, cp.clock.clone())?,
        db: cp.db.clone(),
        clock: cp.clock.clone(),
        livemode: settings.livemode(),
        enabled: settings.enabled(),
        portal_configuration: settings.portal_configuration.clone(),
        noted: Mutex::new(None),
    }))
}

struct Client {
    wire: Wire,
    db: PgPool,
    clock: Clock,
    livemode: bool,
    enabled: bool,
    portal_configuration: Option<String>,
    noted: Mutex<Option<Noted>>,
}

/// What was last written down about Stripe.
struct Noted {
    at: Instant,
    good: bool,
    skew_seconds: Option<i32>,
}

type Answer<T> = std::result::Result<T, Trouble>;

impl Client {
    /// Asks, and reads the answer.
    async fn ask<T: DeserializeOwned>(&self, request: &impl StripeRequest, key: Option<&str>) -> Answer<T> {
        self.send(request.build(), key).await
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder, key: Option<&str>) -> Answer<T> {
        let (answer, said) = self.wire.ask(request, key).await;
        self.note(&answer, &said).await;
        answers::read(&answer?)
    }

    /// A question that the typed requests do not know.
    async fn get<T: DeserializeOwned>(&self, path: &str, query: Option<&str>) -> Answer<T> {
        let (answer, said) = self.wire.call(Method::GET, path, query, None, None).await;
        self.note(&answer, &said).await;
        answers::read(&answer?)
    }

    /// Every page of a list. `ask` makes the request that begins after an id.
    async fn every<T: DeserializeOwned>(
        &self,
        ask: impl Fn(Option<String>) -> RequestBuilder,
        id: impl Fn(&T) -> &str,
    ) -> Answer<Vec<T>> {
        let mut all: Vec<T> = Vec::new();
        for _ in 0..PAGES_AT_MOST {
            let page: Page<T> = self.send(ask(all.last().map(|last| id(last).to_owned())), None).await?;
            let empty = page.data.is_empty();
            all.extend(page.data);
            if !page.has_more || empty {
                return Ok(all);
            }
        }
        Err(Trouble::Broken { status: 200, what: "the list has no end".to_owned() })
    }

    /// Keeps `stripe_link` true: seldom while all is well, at once when that changes.
    async fn note(&self, answer: &Answer<Bytes>, said: &Said) {
        if !self.enabled {
            return;
        }
        let trouble = match answer {
            Ok(_) | Err(Trouble::Refused { .. } | Trouble::Later { .. }) => None,
            Err(trouble) => Some(trouble),
        };
        if !self.is_news(trouble.is_none(), said.skew_seconds) {
            return;
        }
        let now = self.clock.now();
        let noted = match trouble {
            None => link::answered(&self.db, self.livemode, now, said.skew_seconds).await,
            Some(trouble) => {
                link::troubled(&self.db, self.livemode, now, &trouble.to_string(), said.skew_seconds).await
            }
        };
        if let Err(error) = noted {
            tracing::debug!(?error, "how Stripe fares could not be written down");
            *self.noted.lock() = None;
        }
    }

    fn is_news(&self, good: bool, skew_seconds: Option<i32>) -> bool {
        let mut noted = self.noted.lock();
        let age = if good { NOTED } else { NOTED_TROUBLE };
        let same_skew = |before: Option<i32>| match (before, skew_seconds) {
            (Some(before), Some(now)) => before.abs_diff(now) <= 2,
            (_, None) => true,
            (None, Some(_)) => false,
        };
        let old = noted.as_ref().is_some_and(|noted| {
            noted.good == good && noted.at.elapsed() < age && same_skew(noted.skew_seconds)
        });
        if !old {
            let skew_seconds = skew_seconds.or(noted.as_ref().and_then(|noted| noted.skew_seconds));
            *noted = Some(Noted { at: Instant::now(), good, skew_seconds });
        }
        !old
    }

    async fn subscription_now(&self, id: &str) -> Answer<SubscriptionAnswer> {
        self.ask(&RetrieveSubscription::new(asks::id(id)?), None).await
    }

    /// An invoice with all of its lines: it comes with the first few.
    async fn whole(&self, mut invoice: InvoiceAnswer) -> Answer<Invoice> {
        if invoice.lines.has_more && !invoice.id().is_empty() {
            let path = format!("/invoices/{}/lines", asks::id(invoice.id())?);
            let lines = self.every::<LineAnswer>(
                |after| {
                    let after = after.map(|id| format!("&starting_after={id}")).unwrap_or_default();
                    let mut request =
                        RequestBuilder::new(stripe_client_core::StripeMethod::Get, path.clone());
                    request.query = Some(format!("limit={PAGE}{after}"));
                    request
                },
                |line| &line.id,
            );
            invoice.lines = Page { data: lines.await?, has_more: false };
        }
        invoice.invoice()
    }
}

impl MeterSink for Client {
    fn livemode(&self) -> bool {
        self.livemode
    }

    fn meter_event<'a>(&'a self, event: &'a MeterEvent, key: IdempotencyKey) -> Asked<'a, ()> {
        Box::pin(async move {
            self.ask::<Value>(&asks::meter_event(event), Some(&key)).await?;
            Ok(())
        })
    }

    fn summaries<'a>(
        &'a self,
        meter: &'a str,
        customer: &'a str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Asked<'a, Vec<Summary>> {
        Box::pin(async move {
            let meter = asks::id(meter)?;
            let days = self.every::<SummaryAnswer>(
                |after| {
                    let request = ListIdBillingMeterEventSummary::new(
                        meter.clone(),
                        customer,
                        to.timestamp(),
                        from.timestamp(),
                    )
                    .value_grouping_window(ListIdBillingMeterEventSummaryValueGroupingWindow::Day)
                    .limit(PAGE);
                    match after {
                        Some(after) => request.starting_after(after).build(),
                        None => request.build(),
                    }
                },
                |day| &day.id,
            );
            days.await?.iter().map(SummaryAnswer::summary).collect()
        })
    }

    fn total_between<'a>(
        &'a self,
        meter: &'a str,
        customer: &'a str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Asked<'a, Option<i64>> {
        Box::pin(async move {
            let (from, to) = (from.timestamp(), to.timestamp());
            let request = ListIdBillingMeterEventSummary::new(asks::id(meter)?, customer, to, from);
            let page: Page<SummaryAnswer> = self.ask(&request, None).await?;
            page.data.first().map(|total| total.summary().map(|total| total.value)).transpose()
        })
    }
}

impl Api for Client {
    fn meter_create<'a>(&'a self, new: &'a NewMeter) -> Asked<'a, String> {
        Box::pin(async move {
            let key = format!("meter:{}", new.event_name);
            let made: Answer<Named> = self.ask(&asks::meter(new)?, Some(&key)).await;
            match made {
                Ok(made) => Ok(made.id),
                // Made before, and the answer was lost: its name is taken.
                Err(refused @ Trouble::Refused { .. }) => {
                    let meters = self.meters().await?;
                    let there = meters.into_iter().find(|(name, _)| *name == new.event_name);
                    there.map(|(_, id)| id).ok_or(refused)
                }
                Err(trouble) => Err(trouble),
            }
        })
    }

    fn meters(&self) -> Asked<'_, Vec<(String, String)>> {
        Box::pin(async move {
            let meters = self.every::<MeterAnswer>(
                |after| {
                    let request = ListBillingMeter::new()
                        .limit(PAGE)
                        .status(stripe_billing::BillingMeterStatus::Active);
                    match after {
                        Some(after) => request.starting_after(after).build(),
                        None => request.build(),
                    }
                },
                |meter| &meter.id,
            );
            Ok(meters.await?.into_iter().map(|meter| (meter.event_name, meter.id)).collect())
        })
    }

    fn product_put<'a>(&'a self, new: &'a NewProduct) -> Asked<'a, String> {
        Box::pin(async move {
            let update = UpdateProduct::new(asks::id(&new.id)?).name(new.name.clone()).active(true);
            match self.ask::<Named>(&update, None).await {
                Ok(there) => return Ok(there.id),
                Err(Trouble::Refused { status: 404, .. }) => {}
                Err(trouble) => return Err(trouble),
            }
            let create = CreateProduct::new(new.name.clone()).id(new.id.clone());
            // No saved answer here: one from before a removal would be believed.
            Ok(self.ask::<Named>(&create, None).await?.id)
        })
    }

    fn price_create<'a>(&'a self, new: &'a NewPrice) -> Asked<'a, String> {
        Box::pin(async move {
            let what = data_encoding::HEXLOWER.encode(&sha256(format!("{new:?}").as_bytes())[..16]);
            let key = format!("price:{what}");
            Ok(self.ask::<Named>(&asks::price(new)?, Some(&key)).await?.id)
        })
    }

    fn customer_create<'a>(&'a self, new: &'a NewCustomer, key: IdempotencyKey) -> Asked<'a, Customer> {
        Box::pin(async move {
            let mut request = CreateCustomer::new()
                .name(new.name.clone())
                .metadata(asks::metadata(asks::TENANT, &new.tenant));
            if let Some(email) = &new.email {
                request = request.email(email.clone());
            }
            let answer: CustomerAnswer = self.ask(&request, Some(&key)).await?;
            Ok(answer.customer(self.livemode))
        })
    }

    fn customer<'a>(&'a self, id: &'a str) -> Asked<'a, Customer> {
        Box::pin(async move {
            let answer: CustomerAnswer = self.ask(&RetrieveCustomer::new(asks::id(id)?), None).await?;
            Ok(answer.customer(self.livemode))
        })
    }

    fn customer_delete<'a>(&'a self, id: &'a str) -> Asked<'a, ()> {
        Box::pin(async move {
            match self.ask::<Value>(&DeleteCustomer::new(asks::id(id)?), None).await {
                Ok(_) | Err(Trouble::Refused { status: 404, .. }) => Ok(()),
                Err(trouble) => Err(trouble),
            }
        })
    }

    fn subscription_create<'a>(
        &'a self,
        new: &'a NewSubscription,
        key: IdempotencyKey,
    ) -> Asked<'a, Subscription> {
        Box::pin(async move {
            let request = asks::subscription(new, self.clock.now());
            self.ask::<SubscriptionAnswer>(&request, Some(&key)).await?.subscription()
        })
    }

    fn subscription<'a>(&'a self, id: &'a str) -> Asked<'a, Subscription> {
        Box::pin(async move { self.subscription_now(id).await?.subscription() })
    }

    fn subscriptions_of<'a>(&'a self, customer: &'a str) -> Asked<'a, Vec<Subscription>> {
        Box::pin(async move {
            let all = self.every::<SubscriptionAnswer>(
                |after| {
                    // Without a status it leaves the canceled ones out.
                    let request = ListSubscription::new()
                        .customer(customer)
                        .status(ListSubscriptionStatus::All)
                        .limit(PAGE);
                    match after {
                        Some(after) => request.starting_after(after).build(),
                        None => request.build(),
                    }
                },
                |subscription| &subscription.id,
            );
            all.await?.into_iter().map(SubscriptionAnswer::subscription).collect()
        })
    }

    fn subscription_change<'a>(
        &'a self,
        id: &'a str,
        prices: &'a [PriceItem],
        plan: &'a str,
        prorate: bool,
        key: IdempotencyKey,
    ) -> Asked<'a, Subscription> {
        Box::pin(async move {
            let present = self.subscription_now(id).await?;
            match asks::subscription_change(&present, prices, plan, prorate) {
                None => present.subscription(),
                Some(request) => self.ask::<SubscriptionAnswer>(&request, Some(&key)).await?.subscription(),
            }
        })
    }

    fn subscription_cancel<'a>(
        &'a self,
        id: &'a str,
        at_once: bool,
        key: IdempotencyKey,
    ) -> Asked<'a, Subscription> {
        Box::pin(async move {
            let id = asks::id(id)?;
            let answer: SubscriptionAnswer = if at_once {
                self.ask(&CancelSubscription::new(id).invoice_now(true), Some(&key)).await?
            } else {
                self.ask(&UpdateSubscription::new(id).cancel_at_period_end(true), Some(&key)).await?
            };
            answer.subscription()
        })
    }

    fn subscription_keep<'a>(&'a self, id: &'a str, key: IdempotencyKey) -> Asked<'a, Subscription> {
        Box::pin(async move {
            let request = UpdateSubscription::new(asks::id(id)?).cancel_at_period_end(false);
            self.ask::<SubscriptionAnswer>(&request, Some(&key)).await?.subscription()
        })
    }

    fn checkout<'a>(&'a self, new: &'a NewCheckout, key: IdempotencyKey) -> Asked<'a, Checkout> {
        Box::pin(async move {
            let request = asks::checkout(new, self.clock.now());
            self.ask::<CheckoutAnswer>(&request, Some(&key)).await?.checkout()
        })
    }

    fn checkout_by_id<'a>(&'a self, id: &'a str) -> Asked<'a, Checkout> {
        Box::pin(async move {
            let request = RetrieveCheckoutSession::new(asks::id(id)?);
            self.ask::<CheckoutAnswer>(&request, None).await?.checkout()
        })
    }

    fn checkouts_open<'a>(&'a self, customer: &'a str) -> Asked<'a, Vec<Checkout>> {
        Box::pin(async move {
            let open = stripe_shared::CheckoutSessionStatus::Open;
            let request = ListCheckoutSession::new().customer(customer).status(open).limit(PAGE);
            let page: Page<CheckoutAnswer> = self.ask(&request, None).await?;
            page.data.into_iter().map(CheckoutAnswer::checkout).collect()
        })
    }

    fn checkout_expire<'a>(&'a self, id: &'a str) -> Asked<'a, bool> {
        Box::pin(async move {
            match self.ask::<Value>(&ExpireCheckoutSession::new(asks::id(id)?), None).await {
                Ok(_) => Ok(true),
                Err(Trouble::Refused { .. }) => Ok(false),
                Err(trouble) => Err(trouble),
            }
        })
    }

    fn promotion_code<'a>(&'a self, code: &'a str, customer: &'a str) -> Asked<'a, Option<String>> {
        Box::pin(async move {
            let query = format!("active=true&code={}&limit={PAGE}", asks::id(code)?);
            let found: Page<PromotionAnswer> = self.get("v1/promotion_codes", Some(&query)).await?;
            // One name may be several customers' codes, one each.
            let fits = |one: &&PromotionAnswer| one.only().is_none_or(|only| only == customer);
            let own = found.data.iter().filter(fits).max_by_key(|one| one.only().is_some());
            Ok(own.map(|one| one.id.clone()))
        })
    }

    fn portal<'a>(&'a self, customer: &'a str, return_url: &'a str) -> Asked<'a, String> {
        Box::pin(async move {
            let request = asks::portal(customer, return_url, self.portal_configuration.as_deref());
            Ok(self.ask::<PortalAnswer>(&request, None).await?.url)
        })
    }

    fn invoice<'a>(&'a self, id: &'a str) -> Asked<'a, Invoice> {
        Box::pin(async move {
            let answer = self.ask(&RetrieveInvoice::new(asks::id(id)?), None).await?;
            self.whole(answer).await
        })
    }

    fn invoices_of<'a>(&'a self, customer: &'a str, limit: u32) -> Asked<'a, Vec<Invoice>> {
        Box::pin(async move {
            let limit = i64::from(limit).clamp(1, PAGE);
            let page: Page<InvoiceAnswer> =
                self.ask(&ListInvoice::new().customer(customer).limit(limit), None).await?;
            let mut all = Vec::with_capacity(page.data.len());
            for invoice in page.data {
                all.push(self.whole(invoice).await?);
            }
            Ok(all)
        })
    }

    fn invoice_preview<'a>(&'a self, subscription: &'a str) -> Asked<'a, Invoice> {
        Box::pin(async move {
            let answer: InvoiceAnswer =
                self.ask(&CreatePreviewInvoice::new().subscription(subscription), None).await?;
            self.whole(answer).await
        })
    }

    fn invoice_hold<'a>(&'a self, id: &'a str, hold: bool) -> Asked<'a, Invoice> {
        Box::pin(async move {
            let answer = self.ask(&UpdateInvoice::new(asks::id(id)?).auto_advance(!hold), None).await?;
            self.whole(answer).await
        })
    }

    fn credit_note<'a>(
        &'a self,
        invoice: &'a str,
        minor: i64,
        reason: &'a str,
        key: IdempotencyKey,
    ) -> Asked<'a, String> {
        Box::pin(async move {
            let now: InvoiceAnswer = self.ask(&RetrieveInvoice::new(asks::id(invoice)?), None).await?;
            let memo: String = reason.chars().take(500).collect();
            let mut request = CreateCreditNote::new(invoice).amount(minor).memo(memo);
            if now.is_paid() {
                // What is paid goes to the customer's balance, for the next invoice; nothing is sent back.
                request = request.credit_amount(minor);
            }
            Ok(self.ask::<Named>(&request, Some(&key)).await?.id)
        })
    }

    fn meter_event_cancel<'a>(&'a self, event_name: &'a str, identifier: &'a str) -> Asked<'a, ()> {
        Box::pin(async move {
            let mut cancel = CreateBillingMeterEventAdjustmentCancel::new();
            cancel.identifier = Some(identifier.to_owned());
            let kind = stripe_billing::BillingMeterEventAdjustmentType::Cancel;
            let request = CreateBillingMeterEventAdjustment::new(event_name, kind).cancel(cancel);
            let key = format!("cancel:{identifier}");
            self.ask::<Value>(&request, Some(&key)).await?;
            Ok(())
        })
    }

    fn events_since(&self, since: DateTime<Utc>) -> Asked<'_, Vec<Value>> {
        Box::pin(async move {
            let all = self.every::<Value>(
                |after| {
                    let created = stripe_types::RangeQueryTs::gte(since.timestamp());
                    let request = ListEvent::new().created(created).limit(PAGE);
                    match after {
                        Some(after) => request.starting_after(after).build(),
                        None => request.build(),
                    }
                },
                |event| event["id"].as_str().unwrap_or_default(),
            );
            let mut events = all.await?;
            // The newest comes first.
            events.reverse();
            Ok(events)
        })
    }

    fn thin_events_since(&self, since: DateTime<Utc>) -> Asked<'_, Vec<Value>> {
        Box::pin(async move {
            let since = since.to_rfc3339_opts(SecondsFormat::Millis, true).replace(':', "%3A");
            let mut query = Some(format!("limit={PAGE}&created%5Bgte%5D={since}"));
            let mut events = Vec::new();
            for _ in 0..PAGES_AT_MOST {
                let page: PageOfV2 = self.get("v2/core/events", query.as_deref()).await?;
                events.extend(page.data);
                // Only its query: the address is ours.
                query = page
                    .next_page_url
                    .and_then(|next| next.split_once('?').map(|(_, query)| query.to_owned()));
                if query.is_none() {
                    events.sort_by(|a, b| a["created"].as_str().cmp(&b["created"].as_str()));
                    return Ok(events);
                }
            }
            Err(Trouble::Broken { status: 200, what: "the list has no end".to_owned() })
        })
    }

    fn thin_event<'a>(&'a self, id: &'a str) -> Asked<'a, Value> {
        Box::pin(async move { self.get(&format!("v2/core/events/{}", asks::id(id)?), None).await })
    }
}
