//! What the operations do. One file for each kind of object.

use serde_json::Value;

use super::errors::{Answer, Refusal};
use super::state::State;

pub mod catalogue;
pub mod checkout;
pub mod credit_notes;
pub mod customers;
pub mod events;
pub mod invoices;
pub mod meters;
pub mod payments;
pub mod portal;
pub mod promotions;
pub mod prorations;
pub mod subscriptions;
pub mod totals;

/// One call: an operation's name, the ids of its path, its parameters.
pub struct Call<'a> {
    pub operation: &'a str,
    pub ids: &'a [String],
    pub params: &'a Value,
}

impl Call<'_> {
    /// The id in the path.
    pub fn id(&self) -> &str {
        self.ids.first().map(String::as_str).unwrap_or_default()
    }
}

/// Does it. The answer still has what is the stand-in's own in it.
pub fn call(state: &mut State, call: &Call<'_>) -> Answer {
    let family = call.operation.rsplit_once('.').map_or("", |(family, _)| family);
    match family {
        "Products" | "Prices" | "Coupons" => catalogue::call(state, call),
        "PromotionCodes" => promotions::call(state, call),
        "Customers" => customers::call(state, call),
        "Billing.Meters" | "Billing.MeterEvents" | "Billing.MeterEventAdjustments" => {
            meters::call(state, call)
        }
        "Subscriptions" | "SubscriptionItems" => subscriptions::call(state, call),
        "Invoices" => invoices::call(state, call),
        "CreditNotes" => credit_notes::call(state, call),
        "Checkout.Sessions" => checkout::call(state, call),
        "BillingPortal.Sessions" => portal::call(state, call),
        "Events" | "V2.Core.Events" | "WebhookEndpoints" => events::call(state, call),
        _ => Err(unknown(call)),
    }
}

/// The facts name an operation that nothing here does.
pub fn unknown(call: &Call<'_>) -> Refusal {
    Refusal::not_here(&format!("the operation {}", call.operation))
}
