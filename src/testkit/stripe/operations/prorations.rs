//! Calendar months, and what a part of one costs.

use chrono::{DateTime, Datelike, Days, Duration, Months, NaiveDate, Utc};
use serde_json::{Value, json};

use super::super::state::{State, int, text};
use super::totals::{Line, amount_of, line, product_name};

fn time(at: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(at, 0).unwrap_or_default()
}

/// `count` intervals of a price after `anchor`. The 31st of a short month is its last day.
fn steps(anchor: i64, recurring: &Value, count: u32) -> i64 {
    let count = count * u32::try_from(recurring["interval_count"].as_i64().unwrap_or(1)).unwrap_or(1).max(1);
    let anchor = time(anchor);
    let moved = match text(recurring, "interval") {
        "day" => anchor.checked_add_days(Days::new(count.into())),
        "week" => anchor.checked_add_days(Days::new(u64::from(count) * 7)),
        "year" => anchor.checked_add_months(Months::new(count * 12)),
        _ => anchor.checked_add_months(Months::new(count)),
    };
    moved.unwrap_or(anchor).timestamp()
}

/// The first boundary after a time, for cycles that begin at `anchor`.
pub fn boundary_after(anchor: i64, recurring: &Value, at: i64) -> i64 {
    if anchor > at {
        return anchor;
    }
    (1..).map(|count| steps(anchor, recurring, count)).find(|end| *end > at).unwrap_or(at)
}

/// The whole interval that ends at `end`.
pub fn length_before(recurring: &Value, end: i64) -> i64 {
    let months = match text(recurring, "interval") {
        "day" => return 86_400,
        "week" => return 7 * 86_400,
        "year" => 12,
        _ => 1,
    };
    let begin = time(end).checked_sub_months(Months::new(months)).unwrap_or_default();
    (end - begin.timestamp()).max(1)
}

/// The next time that fits `billing_cycle_anchor_config`: a day of the month, at 00:00 unless said otherwise.
pub fn anchor_of(config: &Value, now: i64) -> i64 {
    let part = |name: &str, or: u32| config[name].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(or);
    let present = time(now);
    let (day, hour, minute, second) =
        (part("day_of_month", 1).clamp(1, 31), part("hour", 0), part("minute", 0), part("second", 0));
    let mut month = present.date_naive().with_day(1).unwrap_or_default();
    for _ in 0..13 {
        let next = month.checked_add_months(Months::new(1)).unwrap_or(month);
        let last = next.pred_opt().map_or(28, |date| date.day());
        let date = NaiveDate::from_ymd_opt(month.year(), month.month(), day.min(last)).unwrap_or(month);
        let at = date.and_hms_opt(hour, minute, second).unwrap_or_default().and_utc();
        if at > present {
            return at.timestamp();
        }
        month = next;
    }
    (present + Duration::days(30)).timestamp()
}

/// A credit for the rest of the old item and a charge for the rest of the new one.
pub struct Swap<'a> {
    pub subscription: &'a Value,
    pub item: &'a Value,
    pub from: i64,
    pub to: i64,
    /// Seconds of the whole period.
    pub whole: i64,
}

impl Swap<'_> {
    /// One line: `sign` is -1 for what was not used, 1 for what is to come.
    pub fn line(&self, state: &mut State, sign: i64) -> Value {
        let price = &self.item["price"];
        let quantity = self.item["quantity"].as_i64().unwrap_or(1);
        let full = amount_of(quantity, price);
        let part = (full as f64 * (self.to - self.from) as f64 / self.whole.max(1) as f64).round() as i64;
        let name = product_name(state, price);
        let what = if sign < 0 { "Unused time on" } else { "Remaining time on" };
        let about = Line {
            price,
            quantity: Some(quantity),
            amount: sign * part,
            period: (self.from, self.to),
            description: format!("{what} {name} after {}", time(self.from).format("%d %b %Y")),
            subscription: text(self.subscription, "id"),
            item: text(self.item, "id"),
            proration: true,
        };
        line(state, about)
    }
}

/// Begin and end of a subscription's present period: its items have it.
pub fn period(subscription: &Value) -> (i64, i64) {
    let item = &subscription["items"]["data"][0];
    (int(item, "current_period_start"), int(item, "current_period_end"))
}

pub fn set_period(subscription: &mut Value, start: i64, end: i64) {
    for item in subscription["items"]["data"].as_array_mut().into_iter().flatten() {
        item["current_period_start"] = json!(start);
        item["current_period_end"] = json!(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp()
    }

    #[test]
    fn months_end_where_the_calendar_says() {
        let month = json!({ "interval": "month", "interval_count": 1 });
        let anchor = at("2026-01-31T00:00:00Z");
        assert_eq!(boundary_after(anchor, &month, anchor), at("2026-02-28T00:00:00Z"));
        assert_eq!(boundary_after(anchor, &month, at("2026-02-28T00:00:00Z")), at("2026-03-31T00:00:00Z"));
        assert_eq!(
            anchor_of(&json!({ "day_of_month": 1 }), at("2026-11-21T10:00:00Z")),
            at("2026-12-01T00:00:00Z")
        );
        assert_eq!(
            anchor_of(&json!({ "day_of_month": 31, "hour": 12 }), at("2026-02-01T10:00:00Z")),
            at("2026-02-28T12:00:00Z")
        );
        assert_eq!(length_before(&month, at("2026-03-01T00:00:00Z")), 28 * 86_400);
    }
}
