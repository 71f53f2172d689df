//! Credit notes: money given back on an invoice, before or after it was paid.

use serde_json::{Value, json};

use super::super::errors::{Answer, Refusal};
use super::super::facts;
use super::super::lists::{held, matches, page};
use super::super::state::{State, int, merge_metadata, text};
use super::totals::total_up;
use super::{Call, payments, unknown};

pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    let params = call.params;
    match call.operation {
        "CreditNotes.create" => create(state, params),
        "CreditNotes.retrieve" => state.get("credit_note", call.id()),
        "CreditNotes.voidCreditNote" => void(state, call.id()),
        "CreditNotes.list" => {
            let fits = |note: &&&Value| matches(note, params, &["customer", "invoice"]);
            page(
                state.all("credit_note").iter().filter(fits).map(|one| (*one).clone()).collect(),
                params,
                "/v1/credit_notes",
            )
        }
        _ => Err(unknown(call)),
    }
}

fn create(state: &mut State, params: &Value) -> Answer {
    let id = text(params, "invoice").to_owned();
    let mut invoice = state.named("invoice", &id, "invoice")?;
    if !matches!(text(&invoice, "status"), "open" | "paid") {
        return Err(
            Refusal::invalid("Credit notes can be issued for open and paid invoices only.").at("invoice")
        );
    }
    if params["lines"].is_array() && params["amount"].is_null() {
        return Err(Refusal::not_here("credit notes by lines: give an amount"));
    }
    let amount = params["amount"].as_i64().ok_or_else(|| {
        Refusal::invalid("One of `amount`, `lines` or `shipping_cost` must be provided.").at("amount")
    })?;
    let open = text(&invoice, "status") == "open";
    let given =
        int(&invoice, "pre_payment_credit_notes_amount") + int(&invoice, "post_payment_credit_notes_amount");
    let most = if open { int(&invoice, "amount_remaining") } else { int(&invoice, "total") - given };
    if amount <= 0 || amount > most {
        let why = format!("The amount {amount} is not between 1 and what can be credited, {most}.");
        return Err(Refusal::invalid(why).at("amount"));
    }
    let part = |name: &str| params[name].as_i64().unwrap_or(0);
    let (credit, refund, outside) =
        (part("credit_amount"), part("refund_amount"), part("out_of_band_amount"));
    if !open && credit + refund + outside != amount {
        let why = "The sum of credit amount, refund amount and out of band amount must equal the credit note's amount.";
        return Err(Refusal::invalid(why));
    }
    let mut note = state.new_object("credit_note", "cn");
    let number = format!("{}-CN-{:02}", text(&invoice, "number"), 1 + matches_of(state, &id));
    for (name, value) in [
        ("amount", amount),
        ("subtotal", amount),
        ("subtotal_excluding_tax", amount),
        ("total", amount),
        ("total_excluding_tax", amount),
    ] {
        note[name] = json!(value);
    }
    note["currency"] = invoice["currency"].clone();
    note["customer"] = invoice["customer"].clone();
    note["invoice"] = json!(id);
    note["number"] = json!(number);
    note["effective_at"] = json!(state.now);
    note["memo"] = params["memo"].clone();
    note["reason"] = params["reason"].clone();
    note["out_of_band_amount"] = if outside > 0 { json!(outside) } else { Value::Null };
    note["type"] = json!(if open { "pre_payment" } else { "post_payment" });
    note["pre_payment_amount"] = json!(if open { amount } else { 0 });
    note["post_payment_amount"] = json!(if open { 0 } else { amount });
    note["pdf"] = json!(format!("{}/credit-note/{}", state.base_url, text(&note, "id")));
    note["_credit"] = json!(credit);
    merge_metadata(&mut note, params);
    let mut line = facts::object("credit_note_line_item");
    line["id"] = json!(state.id("cnli"));
    line["amount"] = json!(amount);
    line["description"] = json!("Credit");
    line["quantity"] = json!(1);
    line["unit_amount"] = json!(amount);
    line["unit_amount_decimal"] = json!(amount.to_string());
    note["lines"] = held(vec![line], format!("/v1/credit_notes/{}/lines", text(&note, "id")));
    state.put("credit_note", note.clone());
    let field = if open { "pre_payment_credit_notes_amount" } else { "post_payment_credit_notes_amount" };
    invoice[field] = json!(int(&invoice, field) + amount);
    total_up(state, &mut invoice);
    state.put("invoice", invoice.clone());
    balance(state, text(&invoice, "customer"), -credit);
    state.emit("credit_note.created", &note);
    state.emit("invoice.updated", &invoice);
    if refund > 0 {
        let charge = json!({
            "id": state.id("ch"), "object": "charge", "amount": int(&invoice, "amount_paid"), "amount_refunded": refund,
            "currency": invoice["currency"], "customer": invoice["customer"], "refunded": refund == int(&invoice, "amount_paid"),
            "livemode": false, "created": state.now, "metadata": {},
        });
        state.put("charge", charge.clone());
        state.emit("charge.refunded", &charge);
    }
    if open && int(&invoice, "amount_remaining") == 0 {
        payments::paid(state, &id)?;
    }
    Ok(note)
}

fn matches_of(state: &State, invoice: &str) -> usize {
    state.all("credit_note").iter().filter(|note| text(note, "invoice") == invoice).count()
}

fn balance(state: &mut State, customer: &str, by: i64) {
    let found = state.find("customer", customer).cloned();
    if let Some(mut owner) = found.filter(|owner| by != 0 && owner["deleted"] != true) {
        owner["balance"] = json!(int(&owner, "balance") + by);
        state.put("customer", owner.clone());
        state.emit("customer.updated", &owner);
    }
}

fn void(state: &mut State, id: &str) -> Answer {
    let mut note = state.get("credit_note", id)?;
    let mut invoice = state.get("invoice", text(&note, "invoice"))?;
    if text(&note, "status") == "void"
        || text(&note, "type") != "pre_payment"
        || text(&invoice, "status") != "open"
    {
        return Err(Refusal::invalid("Only credit notes of open invoices can be voided."));
    }
    note["status"] = json!("void");
    note["voided_at"] = json!(state.now);
    state.put("credit_note", note.clone());
    let left = int(&invoice, "pre_payment_credit_notes_amount") - int(&note, "amount");
    invoice["pre_payment_credit_notes_amount"] = json!(left);
    total_up(state, &mut invoice);
    state.put("invoice", invoice);
    state.emit("credit_note.voided", &note);
    Ok(note)
}
