//! Promotion codes: what people type to get a coupon.

use serde_json::{Value, json};

use super::super::errors::{Answer, Refusal};
use super::super::lists::{matches, page};
use super::super::state::{State, copy, int, merge_metadata, some_int, text};
use super::{Call, unknown};

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    let params = call.params;
    match call.operation {
        "PromotionCodes.create" => create(state, params),
        "PromotionCodes.retrieve" => state.get("promotion_code", call.id()),
        "PromotionCodes.update" => {
            let mut code = state.get("promotion_code", call.id())?;
            copy(&mut code, params, &["active"]);
            merge_metadata(&mut code, params);
            state.put("promotion_code", code.clone());
            state.emit("promotion_code.updated", &code);
            Ok(code)
        }
        "PromotionCodes.list" => {
            let fits = |one: &&&Value| {
                let typed = params["code"].as_str();
                let coupon = params["coupon"].as_str();
                typed.is_none_or(|typed| text(one, "code").eq_ignore_ascii_case(typed))
                    && coupon.is_none_or(|coupon| text(&one["promotion"], "coupon") == coupon)
                    && matches(one, params, &["active", "customer"])
            };
            page(
                state.all("promotion_code").iter().filter(fits).map(|one| (*one).clone()).collect(),
                params,
                "/v1/promotion_codes",
            )
        }
        _ => Err(unknown(call)),
    }
}

fn create(state: &mut State, params: &Value) -> Answer {
    let coupon = text(&params["promotion"], "coupon");
    state.named("coupon", coupon, "promotion[coupon]")?;
    let mut code = state.new_object("promotion_code", "promo");
    let typed = params["code"].as_str().map_or_else(|| text(&code, "id").to_uppercase(), str::to_owned);
    let taken = |one: &&Value| {
        one["active"] == true
            && text(one, "code").eq_ignore_ascii_case(&typed)
            && one["customer"] == params["customer"]
    };
    if state.all("promotion_code").into_iter().any(|one| taken(&one)) {
        let why = format!("An active promotion code with `code: {typed}` already exists.");
        return Err(Refusal::invalid(why).code("resource_already_exists").at("code"));
    }
    code["code"] = json!(typed);
    code["promotion"]["coupon"] = json!(coupon);
    copy(&mut code, params, &["active", "customer", "expires_at", "max_redemptions"]);
    merge_metadata(&mut code, params);
    state.put("promotion_code", code.clone());
    state.emit("promotion_code.created", &code);
    Ok(code)
}

/// The code of this id, if this customer may use it now.
///
/// # Errors
/// 400 otherwise.
pub fn usable(state: &State, id: &str, customer: Option<&str>) -> Answer {
    let code = state.named("promotion_code", id, "discounts[0][promotion_code]")?;
    let spent = some_int(&code, "max_redemptions").is_some_and(|most| int(&code, "times_redeemed") >= most);
    let over = some_int(&code, "expires_at").is_some_and(|at| at <= state.now);
    let others = code["customer"].as_str().is_some_and(|only| Some(only) != customer);
    if code["active"] != true || spent || over || others {
        let why = "This promotion code cannot be redeemed.";
        return Err(Refusal::invalid(why).code("promotion_code_invalid").at("discounts[0][promotion_code]"));
    }
    Ok(code)
}

/// Uses a code up by one, and gives its coupon.
pub fn redeem(state: &mut State, id: &str, customer: &str) -> Answer<String> {
    let mut code = usable(state, id, Some(customer))?;
    code["times_redeemed"] = json!(int(&code, "times_redeemed") + 1);
    let coupon = text(&code["promotion"], "coupon").to_owned();
    state.put("promotion_code", code);
    Ok(coupon)
}
