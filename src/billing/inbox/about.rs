//! Which events are work, and of what kind.

/// What an event is about, and so what is asked of Stripe for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    Checkout,
    Customer,
    Subscription,
    /// A trial ends in three days: somebody wants to know.
    TrialEnds,
    Invoice,
    /// Stripe could not finalize it.
    NotFinalized,
    /// What the next invoice will be; there is none yet.
    Upcoming,
    /// Names its invoice.
    CreditNote,
    /// A refund: the customer's invoices are looked at again.
    Charge,
    DisputeOpened,
    DisputeClosed,
    Alert,
    /// Usage that Stripe could not count.
    MeterErrors,
}

/// What an event of this type is about; none for one that is nothing to us.
pub fn about(kind: &str) -> Option<About> {
    Some(match kind {
        "checkout.session.completed" | "checkout.session.expired" => About::Checkout,
        "customer.updated" | "customer.deleted" => About::Customer,
        "customer.subscription.created"
        | "customer.subscription.updated"
        | "customer.subscription.deleted"
        | "customer.subscription.paused"
        | "customer.subscription.resumed" => About::Subscription,
        "customer.subscription.trial_will_end" => About::TrialEnds,
        "invoice.created"
        | "invoice.finalized"
        | "invoice.paid"
        | "invoice.payment_failed"
        | "invoice.payment_action_required"
        | "invoice.overdue"
        | "invoice.marked_uncollectible"
        | "invoice.voided"
        | "invoice.deleted" => About::Invoice,
        "invoice.finalization_failed" => About::NotFinalized,
        "invoice.upcoming" => About::Upcoming,
        "charge.refunded" => About::Charge,
        "charge.dispute.created" => About::DisputeOpened,
        "charge.dispute.closed" => About::DisputeClosed,
        "billing.alert.triggered" => About::Alert,
        "v1.billing.meter.error_report_triggered" | "v1.billing.meter.no_meter_found" => About::MeterErrors,
        _ if kind.starts_with("credit_note.") => About::CreditNote,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nothing_to_us_is_no_work() {
        assert_eq!(about("customer.subscription.updated"), Some(About::Subscription));
        assert_eq!(about("credit_note.voided"), Some(About::CreditNote));
        for other in
            ["", "plan.created", "customer.subscription", "payment_intent.created", "v1.billing.meter"]
        {
            assert_eq!(about(other), None, "{other}");
        }
    }
}
