//! Lines of an invoice and what they come to.

use serde_json::{Value, json};

use super::super::state::{State, data, int, text};
use super::super::{facts, lists};
use super::meters;

/// What a line is about.
pub struct Line<'a> {
    pub price: &'a Value,
    pub quantity: Option<i64>,
    pub amount: i64,
    pub period: (i64, i64),
    pub description: String,
    pub subscription: &'a str,
    pub item: &'a str,
    pub proration: bool,
}

pub fn line(state: &mut State, about: Line<'_>) -> Value {
    let mut line = facts::object("line_item");
    line["id"] = json!(state.id("il"));
    line["amount"] = json!(about.amount);
    line["subtotal"] = json!(about.amount);
    line["currency"] = about.price["currency"].clone();
    line["description"] = json!(about.description);
    line["period"] = json!({ "start": about.period.0, "end": about.period.1 });
    line["quantity"] = json!(about.quantity);
    line["quantity_decimal"] = json!(about.quantity.map(|quantity| quantity.to_string()));
    line["subscription"] = json!(about.subscription);
    line["parent"] = json!({
        "type": "subscription_item_details", "invoice_item_details": null,
        "subscription_item_details": {
            "invoice_item": null, "proration": about.proration, "proration_details": { "credited_items": null },
            "subscription": about.subscription, "subscription_item": about.item,
        },
    });
    line["pricing"] = json!({
        "type": "price_details", "unit_amount_decimal": about.price["unit_amount_decimal"],
        "price_details": { "price": about.price["id"], "product": about.price["product"] },
    });
    line
}

pub fn is_metered(price: &Value) -> bool {
    price["recurring"]["usage_type"] == "metered"
}

/// Minor units for so many at a decimal unit price.
pub fn amount_of(quantity: i64, of: &Value) -> i64 {
    let unit: f64 = match &of["unit_amount"] {
        Value::Number(number) => number.as_f64().unwrap_or_default(),
        _ => text(of, "unit_amount_decimal").parse().unwrap_or_default(),
    };
    (quantity as f64 * unit).round() as i64
}

pub fn product_name(state: &State, price: &Value) -> String {
    let product = state.find("product", text(price, "product"));
    product.map_or_else(String::new, |product| text(product, "name").to_owned())
}

/// The lines for what a metered item used. Graduated tiers have a line each, as at Stripe: their quantities add up.
pub fn metered_lines(
    state: &mut State,
    subscription: &Value,
    item: &Value,
    from: i64,
    to: i64,
) -> Vec<Value> {
    let price = item["price"].clone();
    let customer = text(subscription, "customer");
    let meter = state.find("billing.meter", text(&price["recurring"], "meter")).cloned();
    let used =
        meter.and_then(|meter| meters::aggregate(state, &meter, customer, from, to)).unwrap_or(0).max(0);
    let name = product_name(state, &price);
    let mut lines = Vec::new();
    for (quantity, amount, tier) in shares(&price, used) {
        let description = match tier {
            Some(tier) => format!("{quantity} × {name} (Tier {tier})"),
            None => format!("{quantity} × {name}"),
        };
        let (subscription, item) = (text(subscription, "id"), text(item, "id"));
        let about = Line {
            price: &price,
            quantity: Some(quantity),
            amount,
            period: (from, to),
            description,
            subscription,
            item,
            proration: false,
        };
        let mut made = line(state, about);
        made["_metered"] = json!(true);
        lines.push(made);
    }
    lines
}

/// How a quantity is charged: parts with their amounts, and the tier of each.
fn shares(price: &Value, used: i64) -> Vec<(i64, i64, Option<usize>)> {
    let Some(tiers) = price["_tiers"].as_array() else { return vec![(used, amount_of(used, price), None)] };
    let flat = |tier: &Value| tier["flat_amount"].as_i64().unwrap_or(0);
    if price["tiers_mode"] == "volume" {
        let fits = |tier: &&Value| tier["up_to"].as_i64().is_none_or(|up_to| used <= up_to);
        let tier = tiers.iter().find(fits).unwrap_or(&Value::Null);
        return vec![(used, amount_of(used, tier) + flat(tier), None)];
    }
    let (mut shares, mut below) = (Vec::new(), 0);
    for (at, tier) in tiers.iter().enumerate() {
        let up_to = tier["up_to"].as_i64().unwrap_or(i64::MAX);
        let part = used.min(up_to) - below;
        if part > 0 || at == 0 {
            shares.push((part.max(0), amount_of(part.max(0), tier) + flat(tier), Some(at + 1)));
        }
        below = up_to;
        if used <= up_to {
            break;
        }
    }
    shares
}

/// Brings the sums of an invoice up to its lines, discounts, credit notes and payments.
pub fn total_up(state: &State, invoice: &mut Value) {
    let subtotal: i64 = data(invoice, "lines").iter().map(|line| int(line, "amount")).sum();
    let (mut left, mut given) = (subtotal, Vec::new());
    for id in invoice["discounts"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let coupon = state
            .find("discount", id)
            .and_then(|discount| state.find("coupon", text(&discount["source"], "coupon")));
        let Some(coupon) = coupon else { continue };
        let off = match coupon["percent_off"].as_f64() {
            Some(percent) => (left.max(0) as f64 * percent / 100.0).round() as i64,
            None => int(coupon, "amount_off").min(left.max(0)),
        };
        left -= off;
        given.push(json!({ "amount": off, "discount": id }));
    }
    let total = left;
    invoice["subtotal"] = json!(subtotal);
    invoice["subtotal_excluding_tax"] = json!(subtotal);
    invoice["total_discount_amounts"] = json!(given);
    invoice["total"] = json!(total);
    invoice["total_excluding_tax"] = json!(total);
    let due =
        (total + int(invoice, "_balance_used")).max(0) - int(invoice, "pre_payment_credit_notes_amount");
    invoice["amount_due"] = json!(due.max(0));
    invoice["amount_remaining"] = json!((due - int(invoice, "amount_paid")).max(0));
    let url = format!("/v1/invoices/{}/lines", text(invoice, "id"));
    invoice["lines"] = lists::held(data(invoice, "lines"), url);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_included_costs_nothing() {
        let tier = |up_to: Value, unit: i64| json!({ "up_to": up_to, "unit_amount": unit });
        let price =
            json!({ "tiers_mode": "graduated", "_tiers": [tier(json!(10), 0), tier(Value::Null, 5)] });
        assert_eq!(shares(&price, 0), [(0, 0, Some(1))]);
        assert_eq!(shares(&price, 10), [(10, 0, Some(1))]);
        assert_eq!(shares(&price, 13), [(10, 0, Some(1)), (3, 15, Some(2))]);
        assert_eq!(shares(&json!({ "unit_amount": null, "unit_amount_decimal": "0.5" }), 3), [(3, 2, None)]);
    }
}
