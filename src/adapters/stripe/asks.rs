//! Requests, built by `async-stripe`'s types: what is misspelled does not compile.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use stripe_billing::billing_meter::{
    CreateBillingMeter, CreateBillingMeterCustomerMapping, CreateBillingMeterCustomerMappingType,
    CreateBillingMeterDefaultAggregation, CreateBillingMeterDefaultAggregationFormula,
    CreateBillingMeterValueSettings,
};
use stripe_billing::billing_meter_event::CreateBillingMeterEvent;
use stripe_billing::billing_portal_session::CreateBillingPortalSession;
use stripe_billing::subscription::{
    CreateSubscription, CreateSubscriptionItems, UpdateSubscription, UpdateSubscriptionItems,
    UpdateSubscriptionProrationBehavior,
};
use stripe_checkout::checkout_session::{
    CreateCheckoutSession, CreateCheckoutSessionDiscounts, CreateCheckoutSessionLineItems,
    CreateCheckoutSessionSubscriptionData, CreateCheckoutSessionSubscriptionDataProrationBehavior,
};
use stripe_product::price::{
    CreatePrice, CreatePriceRecurring, CreatePriceRecurringInterval, CreatePriceRecurringUsageType,
    CreatePriceTiers, CreatePriceTiersUpTo,
};
use stripe_types::Currency;

use super::answers::SubscriptionAnswer;
use crate::billing::stripe::{
    MeterEvent, NewCheckout, NewMeter, NewPrice, NewSubscription, PriceItem, Trouble,
};

/// In a customer's metadata: whose it is.
pub const TENANT: &str = "tenant";
/// In a subscription's metadata: the plan that it is for.
pub const PLAN: &str = "plan";

/// The names within a meter event's payload, as each of our meters is told to read them.
const CUSTOMER: &str = "stripe_customer_id";
const VALUE: &str = "value";

/// One entry.
pub fn metadata(name: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(name.to_owned(), value.to_owned())])
}

fn wrong(message: String) -> Trouble {
    Trouble::Refused { status: 400, code: "bad_request".to_owned(), message }
}

/// An id as it may stand in an address.
pub fn id(text: &str) -> Result<String, Trouble> {
    let good = !text.is_empty()
        && text.len() <= 255
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if good { Ok(text.to_owned()) } else { Err(wrong("this is no id of an object at Stripe".to_owned())) }
}

pub fn meter_event(event: &MeterEvent) -> CreateBillingMeterEvent {
    let payload = HashMap::from([
        (CUSTOMER.to_owned(), event.customer.clone()),
        (VALUE.to_owned(), event.value.to_string()),
    ]);
    CreateBillingMeterEvent::new(event.event_name.clone(), payload)
        .identifier(event.identifier.clone())
        .timestamp(event.timestamp.timestamp())
}

pub fn meter(new: &NewMeter) -> Result<CreateBillingMeter, Trouble> {
    let formula = match new.aggregation.as_str() {
        "sum" => CreateBillingMeterDefaultAggregationFormula::Sum,
        "last" => CreateBillingMeterDefaultAggregationFormula::Last,
        other => return Err(wrong(format!("{other:?} is no way to add up"))),
    };
    let aggregation = CreateBillingMeterDefaultAggregation::new(formula);
    Ok(CreateBillingMeter::new(aggregation, new.display_name.clone(), new.event_name.clone())
        .customer_mapping(CreateBillingMeterCustomerMapping::new(
            CUSTOMER,
            CreateBillingMeterCustomerMappingType::ById,
        ))
        .value_settings(CreateBillingMeterValueSettings::new(VALUE)))
}

/// A price per month. A metered one with an included amount has two steps: the first costs nothing.
pub fn price(new: &NewPrice) -> Result<CreatePrice, Trouble> {
    let currency: Currency =
        new.currency.parse().map_err(|_| wrong(format!("{:?} is no currency", new.currency)))?;
    if new.currency.len() != 3 || matches!(currency, Currency::Unknown(_)) {
        return Err(wrong(format!("{:?} is no currency of Stripe's", new.currency)));
    }
    let mut recurring = CreatePriceRecurring::new(CreatePriceRecurringInterval::Month);
    let mut price = CreatePrice::new(currency)
        .product(new.product.clone())
        .lookup_key(new.lookup_key.clone())
        // From the price that had it before, which stays for those who have it.
        .transfer_lookup_key(true);
    match &new.meter {
        None => price = price.unit_amount(new.unit_minor),
        Some((meter, included)) => {
            recurring.usage_type = Some(CreatePriceRecurringUsageType::Metered);
            recurring.meter = Some(meter.clone());
            if *included == 0 {
                price = price.unit_amount(new.unit_minor);
            } else {
                let mut free = CreatePriceTiers::new(CreatePriceTiersUpTo::I64(*included));
                free.unit_amount = Some(0);
                let mut rest = CreatePriceTiers::new(CreatePriceTiersUpTo::Inf);
                rest.unit_amount = Some(new.unit_minor);
                price = price
                    .billing_scheme(stripe_shared::PriceBillingScheme::Tiered)
                    .tiers_mode(stripe_shared::PriceTiersMode::Graduated)
                    .tiers(vec![free, rest]);
            }
        }
    }
    Ok(price.recurring(recurring))
}

/// When a trial of so many days ends: at 00:00 UTC, so that periods begin where days do.
pub fn trial_end(now: DateTime<Utc>, days: u32) -> Option<DateTime<Utc>> {
    if days == 0 {
        return None;
    }
    let end = now + TimeDelta::days(i64::from(days));
    let day = TimeDelta::days(1).num_seconds();
    DateTime::from_timestamp((end.timestamp() + day - 1).div_euclid(day) * day, 0)
}

pub fn subscription(new: &NewSubscription, now: DateTime<Utc>) -> CreateSubscription {
    let items: Vec<CreateSubscriptionItems> = new
        .prices
        .iter()
        .map(|item| {
            let mut asked = CreateSubscriptionItems::new();
            asked.price = Some(item.price.clone());
            asked.quantity = (!item.metered).then_some(1);
            asked
        })
        .collect();
    let mut request = CreateSubscription::new()
        .customer(new.customer.clone())
        .items(items)
        .metadata(metadata(PLAN, &new.plan));
    if let Some(end) = trial_end(now, new.trial_days) {
        request = request
            .trial_end(stripe_billing::subscription::CreateSubscriptionTrialEnd::Timestamp(end.timestamp()));
    }
    if let Some(coupon) = &new.coupon {
        let mut discount = stripe_billing::subscription::DiscountsDataParam::new();
        discount.coupon = Some(coupon.clone());
        request = request.discounts(vec![discount]);
    }
    request
}

/// Brings a subscription to these prices. None when it has them, and the plan, already.
pub fn subscription_change(
    present: &SubscriptionAnswer,
    prices: &[PriceItem],
    plan: &str,
    prorate: bool,
) -> Option<UpdateSubscription> {
    let items = &present.items.data;
    let mut changes = Vec::new();
    for gone in items.iter().filter(|item| !prices.iter().any(|wanted| wanted.price == item.price.id)) {
        let mut change = UpdateSubscriptionItems::new();
        change.id = Some(gone.id.clone());
        change.deleted = Some(true);
        changes.push(change);
    }
    for wanted in prices.iter().filter(|wanted| !items.iter().any(|item| item.price.id == wanted.price)) {
        let mut change = UpdateSubscriptionItems::new();
        change.price = Some(wanted.price.clone());
        change.quantity = (!wanted.metered).then_some(1);
        changes.push(change);
    }
    if changes.is_empty() && present.plan().as_deref() == Some(plan) {
        return None;
    }
    let proration = if prorate {
        UpdateSubscriptionProrationBehavior::CreateProrations
    } else {
        UpdateSubscriptionProrationBehavior::None
    };
    let mut request = UpdateSubscription::new(present.id.clone())
        .metadata(metadata(PLAN, plan))
        .proration_behavior(proration);
    if !changes.is_empty() {
        request = request.items(changes);
    }
    Some(request)
}

pub fn checkout(new: &NewCheckout, now: DateTime<Utc>) -> CreateCheckoutSession {
    let items: Vec<CreateCheckoutSessionLineItems> = new
        .prices
        .iter()
        .map(|item| {
            let mut asked = CreateCheckoutSessionLineItems::new();
            asked.price = Some(item.price.clone());
            asked.quantity = (!item.metered).then_some(1);
            asked
        })
        .collect();
    let mut subscription = CreateCheckoutSessionSubscriptionData::new();
    subscription.metadata = Some(metadata(PLAN, &new.plan));
    subscription.trial_end = trial_end(now, new.trial_days).map(|end| end.timestamp());
    // The end of a trial is an anchor by itself, and Stripe takes one or the other.
    if let Some(anchor) = new.anchor.filter(|_| subscription.trial_end.is_none()) {
        subscription.billing_cycle_anchor = Some(anchor.timestamp());
        subscription.proration_behavior =
            Some(CreateCheckoutSessionSubscriptionDataProrationBehavior::CreateProrations);
    }
    let request = match &new.promotion_code {
        Some(code) => {
            let mut discount = CreateCheckoutSessionDiscounts::new();
            discount.promotion_code = Some(code.clone());
            CreateCheckoutSession::new().discounts(vec![discount])
        }
        // Stripe takes one or the other.
        None => CreateCheckoutSession::new().allow_promotion_codes(true),
    };
    let request = match new.expires_at {
        Some(at) => request.expires_at(at.timestamp()),
        None => request,
    };
    request
        .client_reference_id(new.reference.clone())
        .mode(stripe_shared::CheckoutSessionMode::Subscription)
        .customer(new.customer.clone())
        .line_items(items)
        .metadata(metadata(PLAN, &new.plan))
        .subscription_data(subscription)
        .success_url(new.success_url.clone())
        .cancel_url(new.cancel_url.clone())
}

pub fn portal(customer: &str, return_url: &str, configuration: Option<&str>) -> CreateBillingPortalSession {
    let request =
        CreateBillingPortalSession::new().customer(customer.to_owned()).return_url(return_url.to_owned());
    match configuration {
        Some(configuration) => request.configuration(configuration.to_owned()),
        None => request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stripe_client_core::StripeRequest;

    /// What is sent, with its order and its percent signs made plain.
    fn fields(body: Option<String>) -> Vec<(String, String)> {
        let url = reqwest::Url::parse(&format!("http://x/?{}", body.unwrap_or_default())).unwrap();
        let mut fields: Vec<_> = url.query_pairs().into_owned().collect();
        fields.sort();
        fields
    }

    fn has(fields: &[(String, String)], name: &str, value: &str) -> bool {
        fields.iter().any(|(n, v)| n == name && v == value)
    }

    #[test]
    fn a_meter_event_is_written_as_stripe_reads_it() {
        let event = MeterEvent {
            event_name: "freehold_tasks_created".to_owned(),
            customer: "cus_1".to_owned(),
            value: 12,
            identifier: "ub:ten_1:tasks_created:1:0".to_owned(),
            timestamp: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        };
        let sent = fields(meter_event(&event).build().body);
        for (name, value) in [
            ("event_name", "freehold_tasks_created"),
            ("payload[stripe_customer_id]", "cus_1"),
            ("payload[value]", "12"),
            ("identifier", "ub:ten_1:tasks_created:1:0"),
            ("timestamp", "1800000000"),
        ] {
            assert!(has(&sent, name, value), "{name} in {sent:?}");
        }
    }

    #[test]
    fn an_included_amount_is_a_step_that_costs_nothing() {
        let mut new = NewPrice {
            product: "plan_team".to_owned(),
            lookup_key: "team:tasks".to_owned(),
            currency: "eur".to_owned(),
            unit_minor: 2,
            meter: Some(("mtr_1".to_owned(), 1000)),
        };
        let sent = fields(price(&new).unwrap().build().body);
        for (name, value) in [
            ("tiers[0][up_to]", "1000"),
            ("tiers[0][unit_amount]", "0"),
            ("tiers[1][up_to]", "inf"),
            ("tiers[1][unit_amount]", "2"),
            ("recurring[meter]", "mtr_1"),
            ("recurring[usage_type]", "metered"),
            ("transfer_lookup_key", "true"),
        ] {
            assert!(has(&sent, name, value), "{name} in {sent:?}");
        }
        new.meter = None;
        assert!(has(&fields(price(&new).unwrap().build().body), "unit_amount", "2"));
        new.currency = "money".to_owned();
        assert!(price(&new).is_err());
    }

    #[test]
    fn a_trial_ends_where_a_day_begins() {
        let noon = DateTime::from_timestamp(1_800_014_400, 0).unwrap();
        let end = trial_end(noon, 14).unwrap();
        assert_eq!(end.timestamp() % 86_400, 0);
        assert!(end - noon >= TimeDelta::days(14) && end - noon < TimeDelta::days(15));
        assert_eq!(trial_end(noon, 0), None);
    }

    #[test]
    fn without_a_trial_periods_begin_at_the_anchor() {
        let midnight = DateTime::from_timestamp(1_800_057_600, 0).unwrap();
        let new = NewCheckout {
            customer: "cus_1".to_owned(),
            plan: "team".to_owned(),
            prices: vec![PriceItem { price: "price_1".to_owned(), metered: false }],
            trial_days: 0,
            anchor: Some(midnight),
            expires_at: Some(midnight),
            promotion_code: Some("promo_1".to_owned()),
            reference: "team:0".to_owned(),
            success_url: "http://localhost/done".to_owned(),
            cancel_url: "http://localhost/".to_owned(),
        };
        let sent = fields(checkout(&new, midnight - TimeDelta::hours(3)).build().body);
        for (name, value) in [
            ("subscription_data[billing_cycle_anchor]", "1800057600"),
            ("subscription_data[proration_behavior]", "create_prorations"),
            ("discounts[0][promotion_code]", "promo_1"),
            ("expires_at", "1800057600"),
            ("client_reference_id", "team:0"),
        ] {
            assert!(has(&sent, name, value), "{name} in {sent:?}");
        }
        assert!(!sent.iter().any(|(name, _)| name == "allow_promotion_codes" || name.contains("trial")));
        let on_trial = NewCheckout { trial_days: 14, ..new };
        let sent = fields(checkout(&on_trial, midnight).build().body);
        assert!(
            !sent.iter().any(|(name, _)| name.contains("anchor") || name.contains("proration")),
            "{sent:?}"
        );
    }

    #[test]
    fn an_id_cannot_lead_elsewhere() {
        assert!(id("cus_NffrFeUfNV2Hib").is_ok());
        for bad in ["", "cus_1/../x", "cus_1?x=1", "cus 1", "cus_1%2f"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
