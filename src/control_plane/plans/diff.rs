//! What applying a plan file changes, in words that the one who sells reads. Pure.

use serde::{Deserialize, Serialize};

use super::{Plan, PlanMeter, Price};

/// One thing about one plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Difference {
    pub plan: String,
    /// `price`, `seats`, `meter tasks_created`, …
    pub what: String,
    /// None: it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// None: it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// How a plan differs from what was applied before; `true` with a plan that was retired.
pub(super) fn of(old: Option<(&Plan, bool)>, new: &Plan) -> Vec<Difference> {
    let before = old.map(|(plan, _)| said(plan)).unwrap_or_default();
    let after = said(new);
    let mut differences = Vec::new();
    let mut note = |what: &str, from: Option<&String>, to: Option<&String>| {
        if from != to {
            differences.push(Difference {
                plan: new.id.clone(),
                what: what.to_owned(),
                from: from.cloned(),
                to: to.cloned(),
            });
        }
    };
    if let Some((_, true)) = old {
        note("sold", Some(&"no".to_owned()), Some(&"yes".to_owned()));
    }
    let value = |list: &[(String, String)], what: &str| -> Option<String> {
        list.iter().find(|(key, _)| key == what).map(|(_, value)| value.clone())
    };
    for (what, to) in &after {
        note(what, value(&before, what).as_ref(), Some(to));
    }
    for (what, from) in before.iter().filter(|(what, _)| value(&after, what).is_none()) {
        note(what, Some(from), None);
    }
    differences
}

/// All that a plan says, in a fixed order.
fn said(plan: &Plan) -> Vec<(String, String)> {
    let e = &plan.entitlements;
    let no_limit = || "no limit".to_owned();
    let mut said: Vec<(String, String)> = [
        ("name", plan.name.clone()),
        ("price", plan.price.as_ref().map_or_else(|| "free of charge".to_owned(), price)),
        ("tier", plan.tier.as_str().to_owned()),
        ("shard pool", plan.shard_pool.clone()),
        ("resources in the cloud", if plan.resources { "yes" } else { "no" }.to_owned()),
        ("requests per second", e.requests_per_second.to_string()),
        ("burst", e.burst.to_string()),
        ("requests per month", e.requests_per_month.map_or_else(no_limit, |limit| limit.to_string())),
        ("connections", e.connections.to_string()),
        ("statement timeout", format!("{} ms", e.statement_timeout_ms)),
        ("projects", e.projects.to_string()),
        ("seats", e.seats.to_string()),
        ("stored bytes", e.stored_bytes.map_or_else(no_limit, bytes_text)),
    ]
    .into_iter()
    .map(|(what, value)| (what.to_owned(), value))
    .collect();
    let currency = plan.price.as_ref().map_or("", |price| price.currency.as_str());
    said.extend(plan.meters.iter().map(|meter| (format!("meter {}", meter.meter), charged(meter, currency))));
    said
}

fn price(price: &Price) -> String {
    let monthly = money_text(price.monthly_minor, &price.currency);
    match price.trial_days {
        0 => format!("{monthly} a month"),
        days => format!("{monthly} a month after {days} days"),
    }
}

fn charged(meter: &PlanMeter, currency: &str) -> String {
    match meter.unit_price_minor {
        0 => "counted, not charged".to_owned(),
        minor => format!("{} included, then {} each", meter.included, money_text(minor, currency)),
    }
}

/// `49.00 EUR`. All currencies that plans may have are written with hundredths.
pub fn money_text(minor: i64, currency: &str) -> String {
    let (sign, minor) = (if minor < 0 { "-" } else { "" }, minor.unsigned_abs());
    format!("{sign}{}.{:02} {}", minor / 100, minor % 100, currency.to_uppercase())
}

/// `1.5 GiB`: at most one digit after the point, rounded down.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let power = UNITS.iter().enumerate().rposition(|(n, _)| bytes >> (10 * n) > 0).unwrap_or(0);
    let unit = 1u64 << (10 * power);
    match (bytes % unit) * 10 / unit {
        0 => format!("{} {}", bytes / unit, UNITS[power]),
        tenths => format!("{}.{tenths} {}", bytes / unit, UNITS[power]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SHIPPED, parse};
    use super::*;

    #[test]
    fn only_what_differs_is_said() {
        let old = parse(SHIPPED).unwrap().swap_remove(1);
        assert_eq!(of(Some((&old, false)), &old), []);
        let mut new = old.clone();
        new.price.as_mut().unwrap().monthly_minor = 5_950;
        new.entitlements.stored_bytes = None;
        let gone = new.meters.pop().unwrap();
        let said: Vec<_> =
            of(Some((&old, false)), &new).into_iter().map(|d| (d.what, d.from, d.to)).collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!(
            said[0],
            (
                "price".to_owned(),
                text("49.00 EUR a month after 14 days"),
                text("59.50 EUR a month after 14 days")
            )
        );
        assert_eq!(said[1], ("stored bytes".to_owned(), text("10 GiB"), text("no limit")));
        assert_eq!((said[2].0.clone(), said[2].2.clone()), (format!("meter {}", gone.meter), None));
        let again = of(Some((&old, true)), &old);
        assert_eq!((again.len(), again[0].what.as_str()), (1, "sold"));
        assert!(of(None, &new).iter().all(|d| d.from.is_none() && d.to.is_some()));
    }

    #[test]
    fn amounts_read_well() {
        assert_eq!(money_text(4_905, "eur"), "49.05 EUR");
        assert_eq!(money_text(-5, "usd"), "-0.05 USD");
        assert_eq!(bytes_text(0), "0 bytes");
        assert_eq!(bytes_text(1_023), "1023 bytes");
        assert_eq!(bytes_text(1_536), "1.5 KiB");
        assert_eq!(bytes_text(10 << 30), "10 GiB");
        assert_eq!(bytes_text(2 << 40), "2 TiB");
    }
}
