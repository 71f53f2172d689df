//! Products, prices, coupons.

use serde_json::{Value, json};

use super::super::errors::{Answer, Refusal};
use super::super::lists::{matches, page};
use super::super::state::{State, copy, int, merge_metadata, text};
use super::{Call, unknown};

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    let params = call.params;
    match call.operation {
        "Products.create" => product_create(state, params),
        "Products.retrieve" => state.get("product", call.id()),
        "Products.update" => product_update(state, call.id(), params),
        "Products.del" => product_delete(state, call.id()),
        "Products.list" => {
            let fits = |product: &&&Value| {
                let wanted = params["ids"].as_array();
                wanted.is_none_or(|ids| ids.contains(&product["id"])) && matches(product, params, &["active"])
            };
            page(
                state.all("product").iter().filter(fits).map(|one| (*one).clone()).collect(),
                params,
                "/v1/products",
            )
        }
        "Prices.create" => price_create(state, params),
        "Prices.retrieve" => state.get("price", call.id()),
        "Prices.update" => price_update(state, call.id(), params),
        "Prices.list" => {
            let fits = |price: &&&Value| {
                let wanted = params["lookup_keys"].as_array();
                wanted.is_none_or(|keys| keys.contains(&price["lookup_key"]))
                    && matches(price, params, &["active", "currency", "product", "type"])
                    && params["recurring"].as_object().is_none_or(|asked| {
                        asked.iter().all(|(name, value)| price["recurring"][name.as_str()] == *value)
                    })
            };
            page(
                state.all("price").iter().filter(fits).map(|one| (*one).clone()).collect(),
                params,
                "/v1/prices",
            )
        }
        "Coupons.create" => coupon_create(state, params),
        "Coupons.retrieve" => state.get("coupon", call.id()),
        "Coupons.del" => {
            let coupon = state.get("coupon", call.id())?;
            state.emit("coupon.deleted", &coupon);
            Ok(state.delete("coupon", call.id()))
        }
        "Coupons.list" => page(state.all("coupon").into_iter().cloned().collect(), params, "/v1/coupons"),
        _ => Err(unknown(call)),
    }
}

/// Ids that the caller may choose.
fn chosen_id(state: &State, kind: &str, params: &Value) -> Answer<Option<String>> {
    let Some(id) = params["id"].as_str() else { return Ok(None) };
    if state.find(kind, id).is_some_and(|found| found["deleted"] != true) {
        let name = if kind == "product" { "Product" } else { "Coupon" };
        return Err(Refusal::invalid(format!("{name} already exists."))
            .code("resource_already_exists")
            .at("id"));
    }
    Ok(Some(id.to_owned()))
}

fn product_create(state: &mut State, params: &Value) -> Answer {
    let chosen = chosen_id(state, "product", params)?;
    let mut product = state.new_object("product", "prod");
    if let Some(id) = chosen {
        product["id"] = json!(id);
    }
    product["updated"] = json!(state.now);
    copy(
        &mut product,
        params,
        &["active", "description", "name", "unit_label", "tax_code", "url", "statement_descriptor"],
    );
    merge_metadata(&mut product, params);
    state.put("product", product.clone());
    state.emit("product.created", &product);
    Ok(product)
}

fn product_update(state: &mut State, id: &str, params: &Value) -> Answer {
    let mut product = state.get("product", id)?;
    copy(
        &mut product,
        params,
        &["active", "description", "name", "unit_label", "tax_code", "url", "default_price"],
    );
    merge_metadata(&mut product, params);
    product["updated"] = json!(state.now);
    state.put("product", product.clone());
    state.emit("product.updated", &product);
    Ok(product)
}

fn product_delete(state: &mut State, id: &str) -> Answer {
    let product = state.get("product", id)?;
    if state.all("price").iter().any(|price| text(price, "product") == id) {
        return Err(Refusal::invalid(
            "This product cannot be deleted because it has one or more user-created prices.",
        ));
    }
    state.emit("product.deleted", &product);
    Ok(state.delete("product", id))
}

fn price_create(state: &mut State, params: &Value) -> Answer {
    let product = match params["product"].as_str() {
        Some(id) => text(&state.named("product", id, "product")?, "id").to_owned(),
        None if params["product_data"].is_object() => {
            text(&product_create(state, &params["product_data"])?, "id").to_owned()
        }
        None => {
            return Err(
                Refusal::invalid("You must specify either `product` or `product_data`.").at("product")
            );
        }
    };
    let recurring = recurring(state, params)?;
    let (tiers, mode) = tiers(params)?;
    if tiers.is_none() && params["unit_amount"].is_null() && params["unit_amount_decimal"].is_null() {
        return Err(Refusal::invalid(
            "Prices require an `unit_amount`, `unit_amount_decimal` or `tiers` parameter to be set.",
        ));
    }
    let unit = unit_amount(params)?;
    let mut price = state.new_object("price", "price");
    if let Some(key) = params["lookup_key"].as_str() {
        lookup_key_take(state, key, params["transfer_lookup_key"] == true)?;
        price["lookup_key"] = json!(key);
    }
    copy(&mut price, params, &["active", "currency", "nickname", "tax_behavior"]);
    merge_metadata(&mut price, params);
    price["product"] = json!(product);
    price["type"] = json!(if recurring.is_null() { "one_time" } else { "recurring" });
    price["recurring"] = recurring;
    match tiers {
        Some(tiers) => {
            price["billing_scheme"] = json!("tiered");
            price["tiers_mode"] = json!(mode);
            price["_tiers"] = tiers;
        }
        None => {
            price["unit_amount"] = if unit.fract() == 0.0 { json!(unit as i64) } else { Value::Null };
            price["unit_amount_decimal"] = json!(unit.to_string());
        }
    }
    state.put("price", price.clone());
    state.emit("price.created", &price);
    Ok(price)
}

/// In minor units; Stripe takes fractions of a cent as a decimal.
fn unit_amount(of: &Value) -> Answer<f64> {
    let amount = match (&of["unit_amount"], of["unit_amount_decimal"].as_str()) {
        (Value::Number(number), _) => number.as_f64().unwrap_or_default(),
        (_, Some(decimal)) => decimal.parse().unwrap_or_default(),
        _ => 0.0,
    };
    if amount < 0.0 {
        return Err(Refusal::invalid("This value must be greater than or equal to 0.").at("unit_amount"));
    }
    if of["unit_amount"].is_number() && amount.fract() != 0.0 {
        return Err(Refusal::invalid("Invalid integer: unit_amount")
            .code("parameter_invalid_integer")
            .at("unit_amount"));
    }
    Ok(amount)
}

fn recurring(state: &State, params: &Value) -> Answer {
    let asked = &params["recurring"];
    if !asked.is_object() {
        return Ok(Value::Null);
    }
    let usage = asked["usage_type"].as_str().unwrap_or("licensed");
    if let Some(meter) = asked["meter"].as_str() {
        let meter = state.named("billing.meter", meter, "recurring[meter]")?;
        if text(&meter, "status") != "active" {
            return Err(
                Refusal::invalid("You cannot create a price with an inactive meter.").at("recurring[meter]")
            );
        }
        if usage != "metered" {
            return Err(Refusal::invalid("A price with a meter must have usage_type `metered`.")
                .at("recurring[usage_type]"));
        }
    } else if usage == "metered" {
        return Err(Refusal::invalid("Metered prices must be backed by meters: set `recurring[meter]`.")
            .at("recurring[meter]"));
    }
    Ok(json!({
        "interval": asked["interval"], "interval_count": asked["interval_count"].as_i64().unwrap_or(1),
        "meter": asked["meter"], "usage_type": usage, "trial_period_days": null,
    }))
}

fn tiers(params: &Value) -> Answer<(Option<Value>, String)> {
    let wrong = |why: &str| Err(Refusal::invalid(why).at("tiers"));
    if params["billing_scheme"] != "tiered" {
        return match params.get("tiers") {
            Some(_) => wrong("`tiers` needs `billing_scheme=tiered`."),
            None => Ok((None, String::new())),
        };
    }
    let (Some(tiers), Some(mode)) = (params["tiers"].as_array(), params["tiers_mode"].as_str()) else {
        return wrong("`billing_scheme=tiered` needs `tiers` and `tiers_mode`.");
    };
    let mut kept = Vec::new();
    let mut above = 0;
    for (at, tier) in tiers.iter().enumerate() {
        let last = at + 1 == tiers.len();
        if last != (tier["up_to"] == "inf") {
            return wrong("Only the last tier's `up_to` is `inf`.");
        }
        if !last {
            let up_to = int(tier, "up_to");
            if up_to <= above {
                return wrong("Each tier's `up_to` must be greater than the one before.");
            }
            above = up_to;
        }
        let unit = unit_amount(tier)?;
        kept.push(json!({
            "up_to": if last { Value::Null } else { tier["up_to"].clone() },
            "unit_amount": if unit.fract() == 0.0 { json!(unit as i64) } else { Value::Null },
            "unit_amount_decimal": unit.to_string(),
            "flat_amount": tier["flat_amount"], "flat_amount_decimal": null,
        }));
    }
    Ok((Some(Value::Array(kept)), mode.to_owned()))
}

/// A lookup key belongs to one active price.
fn lookup_key_take(state: &mut State, key: &str, transfer: bool) -> Answer<()> {
    let holder = state.all("price").into_iter().find(|price| price["lookup_key"] == key).cloned();
    let Some(mut holder) = holder else { return Ok(()) };
    if !transfer {
        let why = format!("A price (`{}`) already uses that lookup key.", text(&holder, "id"));
        return Err(Refusal::invalid(why).at("lookup_key"));
    }
    holder["lookup_key"] = Value::Null;
    state.put("price", holder.clone());
    state.emit("price.updated", &holder);
    Ok(())
}

fn price_update(state: &mut State, id: &str, params: &Value) -> Answer {
    let mut price = state.get("price", id)?;
    if let Some(key) = params["lookup_key"].as_str().filter(|key| price["lookup_key"] != **key) {
        lookup_key_take(state, key, params["transfer_lookup_key"] == true)?;
    }
    copy(&mut price, params, &["active", "lookup_key", "nickname", "tax_behavior"]);
    merge_metadata(&mut price, params);
    state.put("price", price.clone());
    state.emit("price.updated", &price);
    Ok(price)
}

fn coupon_create(state: &mut State, params: &Value) -> Answer {
    if params["percent_off"].is_null() == params["amount_off"].is_null() {
        return Err(Refusal::invalid("Must pass exactly one of `percent_off` or `amount_off`."));
    }
    if params["amount_off"].is_number() && params["currency"].is_null() {
        return Err(Refusal::invalid("You must pass currency when passing amount_off.").at("currency"));
    }
    if params["percent_off"].as_f64().is_some_and(|percent| !(percent > 0.0 && percent <= 100.0)) {
        return Err(
            Refusal::invalid("Invalid percent_off: must be over 0 and at most 100.").at("percent_off")
        );
    }
    let duration = params["duration"].as_str().unwrap_or("once");
    if (duration == "repeating") == params["duration_in_months"].is_null() {
        return Err(
            Refusal::invalid("`duration_in_months` goes with `duration=repeating`.").at("duration_in_months")
        );
    }
    let chosen = chosen_id(state, "coupon", params)?;
    let mut coupon = state.new_object("coupon", "coupon");
    if let Some(id) = chosen {
        coupon["id"] = json!(id);
    }
    coupon["duration"] = json!(duration);
    copy(
        &mut coupon,
        params,
        &[
            "amount_off",
            "currency",
            "duration_in_months",
            "max_redemptions",
            "name",
            "percent_off",
            "redeem_by",
        ],
    );
    merge_metadata(&mut coupon, params);
    state.put("coupon", coupon.clone());
    state.emit("coupon.created", &coupon);
    Ok(coupon)
}
