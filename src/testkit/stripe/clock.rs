//! What time does: trials and periods end, drafts become final, payments are tried again, sessions expire.

use serde_json::{Value, json};

use super::errors::Answer;
use super::operations::invoices::{self, New};
use super::operations::{meters, prorations, subscriptions};
use super::state::{DAY, State, int, some_int, text};

/// `invoice.upcoming` comes this long before a period ends.
const UPCOMING_BEFORE: i64 = 7 * DAY;
/// More steps than any test's time needs: a mistake of the stand-in's own.
const MOST_STEPS: usize = 200_000;

/// What is due, of which object.
enum Due {
    Reports,
    PeriodEnds(String),
    Cancels(String),
    Incomplete(String),
    TrialWillEnd(String),
    Upcoming(String),
    Finalizes(String),
    Collects(String),
    Overdue(String),
    Expires(String),
}

/// Does everything that is due up to a time, each thing at its own time.
///
/// # Panics
/// When time stands still: a mistake of the stand-in's own.
pub fn run_to(state: &mut State, to: i64) {
    for _ in 0..MOST_STEPS {
        let Some((at, due)) = next_due(state).filter(|(at, _)| *at <= to) else {
            state.now = to;
            return;
        };
        state.now = state.now.max(at);
        if let Err(refusal) = perform(state, due) {
            panic!("the stand-in cannot do what is due: {}", refusal.body(""));
        }
    }
    panic!("the stand-in's time does not get on");
}

fn next_due(state: &State) -> Option<(i64, Due)> {
    let mut first: Option<(i64, Due)> = None;
    let mut note = |at: Option<i64>, due: &dyn Fn() -> Due| {
        if let Some(at) = at.filter(|at| first.as_ref().is_none_or(|(best, _)| at < best)) {
            first = Some((at, due()));
        }
    };
    note(state.uncounted.first().map(|one| one.at + meters::REPORT_AFTER), &|| Due::Reports);
    for one in state.objects.get("subscription").into_iter().flat_map(|all| all.values()) {
        let id = || text(one, "id").to_owned();
        let (_, end) = prorations::period(one);
        match text(one, "status") {
            "canceled" | "incomplete_expired" | "paused" => {}
            "incomplete" => {
                note(Some(int(one, "created") + subscriptions::INCOMPLETE_FOR), &|| Due::Incomplete(id()));
            }
            status => {
                note(some_int(one, "cancel_at").filter(|at| *at < end), &|| Due::Cancels(id()));
                note(Some(end), &|| Due::PeriodEnds(id()));
                let told = |field: &str, before: i64| (int(one, field) != end).then_some(end - before);
                if status == "trialing" {
                    note(told("_trial_told", subscriptions::TOLD_BEFORE), &|| Due::TrialWillEnd(id()));
                } else if !subscriptions::ends_with_period(one) {
                    note(told("_upcoming_told", UPCOMING_BEFORE), &|| Due::Upcoming(id()));
                }
            }
        }
    }
    for one in state.objects.get("invoice").into_iter().flat_map(|all| all.values()) {
        let id = || text(one, "id").to_owned();
        match text(one, "status") {
            "draft" => note(some_int(one, "automatically_finalizes_at"), &|| Due::Finalizes(id())),
            "open" => {
                note(some_int(one, "next_payment_attempt"), &|| Due::Collects(id()));
                note(some_int(one, "due_date").filter(|_| one["_overdue_told"] != true), &|| {
                    Due::Overdue(id())
                });
            }
            _ => {}
        }
    }
    for one in state.objects.get("checkout.session").into_iter().flat_map(|all| all.values()) {
        if text(one, "status") == "open" {
            note(some_int(one, "expires_at"), &|| Due::Expires(text(one, "id").to_owned()));
        }
    }
    first
}

fn perform(state: &mut State, due: Due) -> Answer<()> {
    match due {
        Due::Reports => meters::report(state),
        Due::PeriodEnds(id) => cycle(state, &id)?,
        Due::Cancels(id) => subscriptions::end(state, &id, "cancellation_requested")?,
        Due::Incomplete(id) => {
            let latest = text(&state.get("subscription", &id)?, "latest_invoice").to_owned();
            subscriptions::set_status(state, &id, "incomplete_expired")?;
            if let Some(mut invoice) =
                state.find("invoice", &latest).cloned().filter(|one| text(one, "status") == "open")
            {
                invoice["status"] = json!("void");
                invoice["status_transitions"]["voided_at"] = json!(state.now);
                state.put("invoice", invoice.clone());
                state.emit("invoice.voided", &invoice);
            }
        }
        Due::TrialWillEnd(id) => {
            let told = mark_told(state, &id, "_trial_told")?;
            state.emit("customer.subscription.trial_will_end", &told);
        }
        Due::Upcoming(id) => {
            let told = mark_told(state, &id, "_upcoming_told")?;
            let period = prorations::period(&told);
            let past = Some(period);
            let new = New {
                subscription: &id,
                reason: "upcoming",
                past,
                next: None,
                free: false,
                whole: None,
                period,
            };
            let mut upcoming = invoices::draft(state, &new, false)?;
            // An invoice that is to come has no id.
            upcoming.as_object_mut().map(|fields| fields.remove("id"));
            state.emit("invoice.upcoming", &upcoming);
        }
        Due::Finalizes(id) => {
            invoices::finalize(state, &id)?;
            invoices::advance(state, &id)?;
        }
        Due::Collects(id) => invoices::advance(state, &id)?,
        Due::Overdue(id) => {
            let mut invoice = state.get("invoice", &id)?;
            invoice["_overdue_told"] = json!(true);
            state.put("invoice", invoice.clone());
            state.emit("invoice.overdue", &invoice);
            let subscription = text(&invoice, "_subscription");
            if state.find("subscription", subscription).is_some_and(|one| text(one, "status") == "active") {
                subscriptions::set_status(state, subscription, "past_due")?;
            }
        }
        Due::Expires(id) => {
            let mut session = state.get("checkout.session", &id)?;
            session["status"] = json!("expired");
            session["url"] = Value::Null;
            state.put("checkout.session", session.clone());
            state.emit("checkout.session.expired", &session);
        }
    }
    Ok(())
}

fn mark_told(state: &mut State, id: &str, field: &str) -> Answer {
    let mut subscription = state.get("subscription", id)?;
    let (_, end) = prorations::period(&subscription);
    subscription[field] = json!(end);
    state.put("subscription", subscription.clone());
    Ok(subscription)
}

/// A period has ended: its use is charged, and the next period's price, unless it was the last.
pub fn cycle(state: &mut State, id: &str) -> Answer<()> {
    let mut subscription = state.get("subscription", id)?;
    let (start, end) = prorations::period(&subscription);
    let was_trial = text(&subscription, "status") == "trialing";
    let past = (!was_trial).then_some((start, end));
    let period = (start, end);
    if subscriptions::ends_with_period(&subscription) {
        if past.is_some() {
            let new = New {
                subscription: id,
                reason: "subscription_cycle",
                past,
                next: None,
                free: false,
                whole: None,
                period,
            };
            invoices::draft(state, &new, true)?;
        }
        return subscriptions::end(state, id, "cancellation_requested");
    }
    let card = state.card_of(text(&subscription, "customer")).is_some()
        || subscription["default_payment_method"].is_string();
    if was_trial && !card {
        match text(&subscription["trial_settings"]["end_behavior"], "missing_payment_method") {
            "cancel" => return subscriptions::end(state, id, "payment_failed"),
            "pause" => {
                subscription["status"] = json!("paused");
                state.put("subscription", subscription.clone());
                state.emit("customer.subscription.paused", &subscription);
                return Ok(());
            }
            _ => {}
        }
    }
    let recurring = subscription["items"]["data"][0]["price"]["recurring"].clone();
    let next_end = prorations::boundary_after(int(&subscription, "billing_cycle_anchor"), &recurring, end);
    let old_status = text(&subscription, "status").to_owned();
    if was_trial {
        subscription["status"] = json!("active");
    }
    prorations::set_period(&mut subscription, end, next_end);
    let discounts = subscription["discounts"].as_array().cloned().unwrap_or_default();
    let lasts = |id: &Value| {
        let discount = state.find("discount", id.as_str().unwrap_or_default());
        discount.is_some_and(|discount| some_int(discount, "end").is_none_or(|until| until > end))
    };
    subscription["discounts"] = Value::Array(discounts.into_iter().filter(lasts).collect());
    state.put("subscription", subscription);
    let full = prorations::length_before(&recurring, next_end);
    let new = New {
        subscription: id,
        reason: "subscription_cycle",
        past,
        next: Some((end, next_end)),
        free: false,
        // From the end of a trial to the anchor is less than a period.
        whole: (was_trial && next_end - end < full).then_some(full),
        period,
    };
    invoices::draft(state, &new, true)?;
    let subscription = state.get("subscription", id)?;
    let previous = json!({ "status": old_status, "current_period_start": start, "current_period_end": end });
    state.emit_changed("customer.subscription.updated", &subscription, Some(previous));
    Ok(())
}
