//! What Stripe's objects say, read leniently: only what is needed, wherever recent versions of the API keep it, and without
//! minding what is new. An object without what it must have is no answer.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Number;

use crate::billing::stripe::{Checkout, Customer, Invoice, InvoiceLine, Subscription, Summary, Trouble};

/// Reads an answer.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    // Where, not what: serde's words quote the answer.
    serde_json::from_slice(body).map_err(|error| {
        let what =
            format!("it is not what was asked for, at line {} column {}", error.line(), error.column());
        Trouble::Broken { status: 200, what }
    })
}

/// A moment; Stripe's are whole seconds.
pub fn moment(seconds: i64) -> Result<DateTime<Utc>, Trouble> {
    DateTime::from_timestamp(seconds, 0)
        .ok_or_else(|| Trouble::Broken { status: 200, what: "it holds a time that is none".to_owned() })
}

fn moment_if(seconds: Option<i64>) -> Result<Option<DateTime<Utc>>, Trouble> {
    seconds.map(moment).transpose()
}

/// One page of a list.
#[derive(Deserialize)]
pub struct Page<T> {
    pub data: Vec<T>,
    #[serde(default)]
    pub has_more: bool,
}

/// One page of a list of the second API.
#[derive(Deserialize)]
pub struct PageOfV2 {
    pub data: Vec<serde_json::Value>,
    #[serde(default)]
    pub next_page_url: Option<String>,
}

/// Only the id.
#[derive(Deserialize)]
pub struct Named {
    pub id: String,
}

/// A reference: the id, or the object that it was expanded to.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Id(String),
    Object { id: String },
}

impl Reference {
    fn id(self) -> String {
        match self {
            Self::Id(id) | Self::Object { id } => id,
        }
    }
}

type Metadata = Option<HashMap<String, String>>;

fn entry(metadata: &Metadata, name: &str) -> Option<String> {
    metadata.as_ref()?.get(name).filter(|value| !value.is_empty()).cloned()
}

/// A whole number, however it is written. A part of a unit is none.
fn whole(number: &Number) -> Result<i64, Trouble> {
    let whole = number.as_i64().or_else(|| {
        let number = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 9e15)?;
        #[allow(clippy::cast_possible_truncation)] // whole, and within what is exact
        Some(number as i64)
    });
    whole
        .ok_or_else(|| Trouble::Broken { status: 200, what: "it holds a count that is not whole".to_owned() })
}

#[derive(Deserialize)]
pub struct MeterAnswer {
    pub id: String,
    pub event_name: String,
}

#[derive(Deserialize)]
pub struct SummaryAnswer {
    pub id: String,
    aggregated_value: Number,
    start_time: i64,
    end_time: i64,
}

impl SummaryAnswer {
    pub fn summary(&self) -> Result<Summary, Trouble> {
        Ok(Summary {
            from: moment(self.start_time)?,
            to: moment(self.end_time)?,
            value: whole(&self.aggregated_value)?,
        })
    }
}

#[derive(Deserialize)]
pub struct CustomerAnswer {
    id: String,
    /// A deleted one says little else.
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    livemode: Option<bool>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    email: Option<String>,
}

impl CustomerAnswer {
    /// `livemode` for a deleted one, which does not say.
    pub fn customer(self, livemode: bool) -> Customer {
        Customer {
            tenant: entry(&self.metadata, super::asks::TENANT),
            livemode: self.livemode.unwrap_or(livemode),
            deleted: self.deleted,
            email: self.email,
            id: self.id,
        }
    }
}

#[derive(Deserialize)]
pub struct SubscriptionAnswer {
    pub id: String,
    livemode: bool,
    customer: Reference,
    #[serde(default)]
    metadata: Metadata,
    status: String,
    pub items: Page<ItemAnswer>,
    // Of older versions; newer ones keep the period with each item.
    #[serde(default)]
    current_period_start: Option<i64>,
    #[serde(default)]
    current_period_end: Option<i64>,
    #[serde(default)]
    start_date: Option<i64>,
    #[serde(default)]
    trial_end: Option<i64>,
    #[serde(default)]
    cancel_at: Option<i64>,
    #[serde(default)]
    cancel_at_period_end: bool,
    #[serde(default)]
    canceled_at: Option<i64>,
    #[serde(default)]
    latest_invoice: Option<Reference>,
}

#[derive(Deserialize)]
pub struct ItemAnswer {
    pub id: String,
    pub price: Named,
    #[serde(default)]
    current_period_start: Option<i64>,
    #[serde(default)]
    current_period_end: Option<i64>,
}

impl SubscriptionAnswer {
    pub fn subscription(self) -> Result<Subscription, Trouble> {
        let no_period =
            || Trouble::Broken { status: 200, what: "a subscription without a period".to_owned() };
        let of_items = |of: fn(&ItemAnswer) -> Option<i64>| self.items.data.iter().filter_map(of).max();
        let from =
            of_items(|item| item.current_period_start).or(self.current_period_start).or(self.start_date);
        let to = of_items(|item| item.current_period_end).or(self.current_period_end).or(from);
        let (from, to) = (moment(from.ok_or_else(no_period)?)?, moment(to.ok_or_else(no_period)?)?);
        let at_end = self.cancel_at_period_end.then_some(to);
        Ok(Subscription {
            plan: entry(&self.metadata, super::asks::PLAN),
            prices: self.items.data.iter().map(|item| item.price.id.clone()).collect(),
            id: self.id,
            livemode: self.livemode,
            customer: self.customer.id(),
            status: self.status,
            period_start: from,
            period_end: to,
            trial_end: moment_if(self.trial_end)?,
            cancel_at: moment_if(self.cancel_at)?.or(at_end),
            canceled_at: moment_if(self.canceled_at)?,
            latest_invoice: self.latest_invoice.map(Reference::id),
        })
    }

    /// Its plan, as its metadata has it.
    pub fn plan(&self) -> Option<String> {
        entry(&self.metadata, super::asks::PLAN)
    }
}

#[derive(Deserialize)]
pub struct CheckoutAnswer {
    id: String,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    subscription: Option<Reference>,
    #[serde(default)]
    client_reference_id: Option<String>,
    created: i64,
}

impl CheckoutAnswer {
    pub fn checkout(self) -> Result<Checkout, Trouble> {
        Ok(Checkout {
            id: self.id,
            url: self.url,
            status: self.status.unwrap_or_else(|| "open".to_owned()),
            subscription: self.subscription.map(Reference::id),
            reference: self.client_reference_id,
            created_at: moment(self.created)?,
        })
    }
}

/// A promotion code of a list.
#[derive(Deserialize)]
pub struct PromotionAnswer {
    pub id: String,
    #[serde(default)]
    customer: Option<Reference>,
}

impl PromotionAnswer {
    /// Whose alone it is; none for everybody's.
    pub fn only(&self) -> Option<&str> {
        match &self.customer {
            Some(Reference::Id(id) | Reference::Object { id }) => Some(id),
            None => None,
        }
    }
}

#[derive(Deserialize)]
pub struct PortalAnswer {
    pub url: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Transitions {
    paid_at: Option<i64>,
}

#[derive(Deserialize)]
struct Tax {
    #[serde(default)]
    amount: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Parent {
    subscription_details: Option<ParentSubscription>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ParentSubscription {
    subscription: Option<Reference>,
}

#[derive(Deserialize)]
pub struct InvoiceAnswer {
    /// A preview may have none.
    #[serde(default)]
    id: Option<String>,
    livemode: bool,
    #[serde(default)]
    customer: Option<Reference>,
    #[serde(default)]
    parent: Option<Parent>,
    // Of older versions.
    #[serde(default)]
    subscription: Option<Reference>,
    #[serde(default)]
    number: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    auto_advance: Option<bool>,
    currency: String,
    total: i64,
    #[serde(default)]
    total_taxes: Option<Vec<Tax>>,
    #[serde(default)]
    tax: Option<i64>,
    #[serde(default)]
    amount_paid: i64,
    #[serde(default)]
    pre_payment_credit_notes_amount: i64,
    #[serde(default)]
    post_payment_credit_notes_amount: i64,
    period_start: i64,
    period_end: i64,
    pub lines: Page<LineAnswer>,
    #[serde(default)]
    hosted_invoice_url: Option<String>,
    created: i64,
    #[serde(default)]
    due_date: Option<i64>,
    #[serde(default)]
    status_transitions: Option<Transitions>,
}

#[derive(Deserialize)]
struct Period {
    start: i64,
    end: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pricing {
    price_details: Option<PriceDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PriceDetails {
    price: Option<Reference>,
}

#[derive(Deserialize)]
pub struct LineAnswer {
    #[serde(default)]
    pub id: String,
    #[serde(default)]
    pricing: Option<Pricing>,
    // Of older versions.
    #[serde(default)]
    price: Option<Reference>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    quantity: Option<Number>,
    amount: i64,
    period: Period,
}

impl LineAnswer {
    fn line(self) -> Result<InvoiceLine, Trouble> {
        let details = self.pricing.and_then(|pricing| pricing.price_details);
        Ok(InvoiceLine {
            id: self.id,
            price: details.and_then(|details| details.price).or(self.price).map(Reference::id),
            description: self.description.unwrap_or_default(),
            quantity: self.quantity.as_ref().map_or(Ok(0), whole)?,
            amount_minor: self.amount,
            period_start: moment(self.period.start)?,
            period_end: moment(self.period.end)?,
        })
    }
}

impl InvoiceAnswer {
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    pub fn is_paid(&self) -> bool {
        self.status.as_deref() == Some("paid")
    }

    pub fn invoice(self) -> Result<Invoice, Trouble> {
        let details = self.parent.and_then(|parent| parent.subscription_details);
        let taxes = self.total_taxes.map(|taxes| taxes.iter().map(|tax| tax.amount).sum());
        Ok(Invoice {
            id: self.id.unwrap_or_default(),
            livemode: self.livemode,
            customer: self.customer.map(Reference::id).unwrap_or_default(),
            subscription: details
                .and_then(|details| details.subscription)
                .or(self.subscription)
                .map(Reference::id),
            number: self.number,
            status: self.status.unwrap_or_else(|| "draft".to_owned()),
            auto_advance: self.auto_advance.unwrap_or_default(),
            currency: self.currency,
            total_minor: self.total,
            tax_minor: taxes.or(self.tax).unwrap_or_default(),
            paid_minor: self.amount_paid,
            credited_minor: self.pre_payment_credit_notes_amount + self.post_payment_credit_notes_amount,
            period_start: moment(self.period_start)?,
            period_end: moment(self.period_end)?,
            lines: self.lines.data.into_iter().map(LineAnswer::line).collect::<Result<_, _>>()?,
            hosted_url: self.hosted_invoice_url,
            created_at: moment(self.created)?,
            due_at: moment_if(self.due_date)?,
            paid_at: moment_if(self.status_transitions.and_then(|transitions| transitions.paid_at))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer<T: DeserializeOwned>(value: &serde_json::Value) -> Result<T, Trouble> {
        read(value.to_string().as_bytes())
    }

    #[test]
    fn a_subscription_has_its_period_where_its_version_keeps_it() {
        let mut subscription = json!({
            "id": "sub_1", "livemode": false, "customer": "cus_1", "metadata": {"plan": "team"},
            "status": "active", "latest_invoice": {"id": "in_1"}, "cancel_at_period_end": true, "new": [1],
            "items": {"data": [{"id": "si_1", "price": {"id": "price_1"},
                "current_period_start": 100, "current_period_end": 200}], "has_more": false},
        });
        let read = answer::<SubscriptionAnswer>(&subscription).unwrap().subscription().unwrap();
        assert_eq!((read.period_start.timestamp(), read.period_end.timestamp()), (100, 200));
        assert_eq!((read.plan.as_deref(), read.latest_invoice.as_deref()), (Some("team"), Some("in_1")));
        assert_eq!(read.cancel_at, Some(read.period_end));
        subscription["items"]["data"][0] = json!({"id": "si_1", "price": {"id": "price_1"}});
        subscription["current_period_start"] = json!(1);
        subscription["current_period_end"] = json!(2);
        let read = answer::<SubscriptionAnswer>(&subscription).unwrap().subscription().unwrap();
        assert_eq!((read.period_start.timestamp(), read.period_end.timestamp()), (1, 2));
        subscription["status"] = json!(null);
        assert!(matches!(answer::<SubscriptionAnswer>(&subscription), Err(Trouble::Broken { .. })));
    }

    #[test]
    fn an_invoice_is_read_with_its_lines() {
        let invoice = json!({
            "id": "in_1", "livemode": false, "customer": "cus_1", "currency": "eur", "total": 4902, "amount_paid": 4902,
            "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_1"}},
            "status": "paid", "auto_advance": false, "total_taxes": [{"amount": 2}], "period_start": 1, "period_end": 2,
            "pre_payment_credit_notes_amount": 3, "post_payment_credit_notes_amount": 4, "created": 5,
            "status_transitions": {"paid_at": 6, "finalized_at": null},
            "lines": {"data": [{"id": "il_1", "amount": 4900, "quantity": null, "description": null,
                "period": {"start": 1, "end": 2}, "pricing": {"price_details": {"price": "price_1"}}}], "has_more": false},
        });
        let read = answer::<InvoiceAnswer>(&invoice).unwrap().invoice().unwrap();
        assert_eq!(
            (read.tax_minor, read.credited_minor, read.subscription.as_deref()),
            (2, 7, Some("sub_1"))
        );
        assert_eq!(read.lines[0].price.as_deref(), Some("price_1"));
        assert_eq!(read.paid_at.map(|at| at.timestamp()), Some(6));
    }

    #[test]
    fn a_count_is_whole() {
        let summary = |value: serde_json::Value| {
            let summary =
                json!({"id": "mtrusg_1", "aggregated_value": value, "start_time": 1, "end_time": 2});
            answer::<SummaryAnswer>(&summary).and_then(|summary| summary.summary())
        };
        assert_eq!(summary(json!(25)).unwrap().value, 25);
        assert_eq!(summary(json!(25.0)).unwrap().value, 25);
        assert!(summary(json!(25.5)).is_err());
    }

    #[test]
    fn a_deleted_customer_says_so() {
        let read =
            answer::<CustomerAnswer>(&json!({"id": "cus_1", "object": "customer", "deleted": true})).unwrap();
        let customer = read.customer(true);
        assert!(customer.deleted && customer.livemode);
    }
}
