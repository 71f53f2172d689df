//! The plan file, read and checked. An error says the line, the plan and the reason; a file with one error changes nothing.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Plan, PlanMeter, Price};
use crate::kernel::{Error, Result, codes};

/// Currencies that have hundredths: two-digit amounts are what every report and export here writes.
const CURRENCIES: [&str; 12] =
    ["aud", "cad", "chf", "czk", "dkk", "eur", "gbp", "nok", "nzd", "pln", "sek", "usd"];
/// A million of the currency: what Stripe takes for one line, with room.
const MOST_MINOR: i64 = 99_999_999;
/// Stripe's longest trial.
const MOST_TRIAL_DAYS: u32 = 730;
/// More than any tenant uses in a month; keeps sums of prices far from the end of an i64.
const MOST_INCLUDED: i64 = 1_000_000_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    plan: Vec<Plan>,
}

/// What is wrong, and by which word its line is found.
struct Wrong(&'static str, String);

/// Reads and checks a plan file.
///
/// # Errors
/// `bad_request` with the line and the reason.
pub fn parse(text: &str) -> Result<Vec<Plan>> {
    let bad =
        |why: String| Error::new(&codes::BAD_REQUEST).detail(format!("the plan file is not valid: {why}"));
    let file: PlanFile = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
    if file.plan.is_empty() {
        return Err(bad("it has no plan".to_owned()));
    }
    let (mut seen, mut currency) = (BTreeSet::new(), None);
    for (position, plan) in file.plan.iter().enumerate() {
        let at = |Wrong(word, why)| match line_of(text, position, word) {
            Some(line) => bad(format!("line {line}: plan {}: {why}", plan.id)),
            None => bad(format!("plan {}: {why}", plan.id)),
        };
        if !seen.insert(&plan.id) {
            return Err(at(Wrong("id", "it appears twice".to_owned())));
        }
        sound(plan).map_err(at)?;
        if let Some(price) = &plan.price
            && *currency.get_or_insert(&price.currency) != &price.currency
        {
            let why = format!("its currency is {}, and another plan's is not", price.currency);
            return Err(at(Wrong("currency", why)));
        }
    }
    Ok(file.plan)
}

/// Whether one plan can be sold.
fn sound(plan: &Plan) -> std::result::Result<(), Wrong> {
    let e = &plan.entitlements;
    if !is_id(&plan.id) {
        return Err(Wrong("id", "an id is lower case letters, digits, - and _, at most 31".to_owned()));
    }
    if plan.name.trim().is_empty() || plan.name.chars().count() > 60 {
        return Err(Wrong("name", "a name has 1 to 60 characters".to_owned()));
    }
    let limits = [
        ("requests_per_second", u64::from(e.requests_per_second)),
        ("connections", e.connections.into()),
        ("statement_timeout_ms", e.statement_timeout_ms.into()),
        ("projects", e.projects.into()),
        ("seats", e.seats.into()),
        ("requests_per_month", e.requests_per_month.unwrap_or(1)),
        ("stored_bytes", e.stored_bytes.unwrap_or(1)),
    ];
    if let Some((name, _)) = limits.iter().find(|(_, limit)| *limit == 0) {
        return Err(Wrong(name, format!("it grants nothing to work with: {name} is 0")));
    }
    // PostgreSQL counts in i64, and so does what is compared with it.
    if let Some((name, _)) = limits.iter().find(|(_, limit)| i64::try_from(*limit).is_err()) {
        return Err(Wrong(name, format!("{name} is too large")));
    }
    if let Some(price) = &plan.price {
        price_sound(price)?;
    } else if !plan.meters.is_empty() {
        return Err(Wrong("meters", "it charges for use and has no price: nobody would be asked".to_owned()));
    }
    let mut seen = BTreeSet::new();
    for meter in &plan.meters {
        if !seen.insert(&meter.meter) {
            return Err(Wrong("meter", format!("the meter {} appears twice", meter.meter)));
        }
        meter_sound(meter)?;
    }
    Ok(())
}

fn price_sound(price: &Price) -> std::result::Result<(), Wrong> {
    if !(1..=MOST_MINOR).contains(&price.monthly_minor) {
        let why = format!(
            "monthly_minor is {}; it is from 1 to {MOST_MINOR}, and a free plan has no price",
            price.monthly_minor
        );
        return Err(Wrong("monthly_minor", why));
    }
    if !CURRENCIES.contains(&price.currency.as_str()) {
        let why = format!("the currency {:?} is none of: {}", price.currency, CURRENCIES.join(", "));
        return Err(Wrong("currency", why));
    }
    if price.trial_days > MOST_TRIAL_DAYS {
        return Err(Wrong("trial_days", format!("a trial lasts at most {MOST_TRIAL_DAYS} days")));
    }
    Ok(())
}

fn meter_sound(meter: &PlanMeter) -> std::result::Result<(), Wrong> {
    if !is_id(&meter.meter) {
        return Err(Wrong("meter", format!("{:?} is no meter's id", meter.meter)));
    }
    if !(0..=MOST_INCLUDED).contains(&meter.included) {
        let why =
            format!("the meter {} includes {}: not from 0 to {MOST_INCLUDED}", meter.meter, meter.included);
        return Err(Wrong("included", why));
    }
    if !(0..=MOST_MINOR).contains(&meter.unit_price_minor) {
        let why = format!(
            "a unit of the meter {} costs {}: not from 0 to {MOST_MINOR}",
            meter.meter, meter.unit_price_minor
        );
        return Err(Wrong("unit_price_minor", why));
    }
    Ok(())
}

fn is_id(text: &str) -> bool {
    text.len() <= 31
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
}

/// The line (from 1) where a word is set in the plan at this position, or else where the plan begins. A file that writes
/// its plans in another of TOML's forms gets its errors without a line.
fn line_of(text: &str, position: usize, word: &str) -> Option<usize> {
    let starts_plan = |line: &str| line.trim_start().starts_with("[[plan]]");
    let start =
        text.lines().enumerate().filter(|(_, line)| starts_plan(line)).nth(position).map(|(line, _)| line)?;
    let sets_word = |line: &str| {
        let begins = line.trim_start().trim_start_matches('[').trim_start_matches("plan.");
        let whole = |rest: &str| rest.starts_with([' ', '=', ']']);
        begins.strip_prefix(word).is_some_and(whole) || line.contains(&format!(" {word} ="))
    };
    let line = text
        .lines()
        .enumerate()
        .skip(start + 1)
        .take_while(|(_, line)| !starts_plan(line))
        .find(|(_, line)| sets_word(line))
        .map_or(start, |(line, _)| line);
    Some(line + 1)
}

#[cfg(test)]
mod tests {
    use super::super::SHIPPED;
    use super::*;

    #[test]
    fn the_shipped_plans_are_valid_and_grow() {
        let plans = parse(SHIPPED).unwrap();
        assert_eq!(
            plans.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(),
            ["free", "team", "business", "enterprise"]
        );
        for pair in plans.windows(2) {
            let (less, more) = (&pair[0], &pair[1]);
            assert!(less.entitlements.requests_per_second < more.entitlements.requests_per_second);
            assert!(less.entitlements.connections <= more.entitlements.connections);
            assert!(less.entitlements.requests_per_month < more.entitlements.requests_per_month);
            assert!(less.entitlements.stored_bytes < more.entitlements.stored_bytes);
            let monthly = |plan: &Plan| plan.price.as_ref().map_or(0, |price| price.monthly_minor);
            assert!(monthly(less) < monthly(more));
        }
    }

    const GOOD: &str = "\
[[plan]]
id = 'small'
name = 'Small'
tier = 'pooled'
shard_pool = 'default'
[plan.entitlements]
requests_per_second = 1
burst = 1
connections = 1
statement_timeout_ms = 1
projects = 1
seats = 1
requests_per_month = 1
stored_bytes = 1
[plan.price]
monthly_minor = 100
currency = 'eur'
trial_days = 14
[[plan.meters]]
meter = 'tasks_created'
included = 1
unit_price_minor = 2
";

    /// Shown to fail: `sound` left out.
    #[test]
    fn a_wrong_file_says_the_line_and_the_reason() {
        parse(GOOD).unwrap();
        for (old, new, want) in [
            ("id = 'small'", "id = 'Small'", "line 2: plan Small: an id is"),
            ("name = 'Small'", "name = ' '", "line 3: plan small: a name"),
            ("seats = 1", "seats = 0", "line 12: plan small: it grants nothing to work with: seats is 0"),
            ("stored_bytes = 1", "stored_bytes = 0", "line 14:"),
            ("requests_per_month = 1", "requests_per_month = -1", "line 13"),
            ("monthly_minor = 100", "monthly_minor = 0", "line 16: plan small: monthly_minor is 0"),
            ("monthly_minor = 100", "monthly_minor = 49.00", "line 16"),
            ("monthly_minor = 100", "monthly_minor = 100000000", "line 16:"),
            ("'eur'", "'jpy'", "line 17: plan small: the currency \"jpy\" is none of"),
            ("'eur'", "'EUR'", "line 17: plan small: the currency \"EUR\" is none of"),
            ("trial_days = 14", "trial_days = 731", "line 18: plan small: a trial lasts"),
            ("'tasks_created'", "'Tasks!'", "line 20: plan small: \"Tasks!\" is no meter's id"),
            ("included = 1", "included = -1", "line 21: plan small: the meter tasks_created includes -1"),
            ("unit_price_minor = 2", "unit_price_minor = -2", "line 22: plan small: a unit of the meter"),
            ("unit_price_minor = 2", "unit_price = 2", "unknown field `unit_price`"),
            ("burst = 1", "burst = 1\nbusrt = 2", "unknown field `busrt`"),
        ] {
            let said = parse(&GOOD.replace(old, new)).expect_err(new).to_string();
            assert!(said.contains(want), "{new}: {said}");
        }
    }

    #[test]
    fn plans_must_agree() {
        let said = |text: String| parse(&text).unwrap_err().to_string();
        assert!(said(format!("{GOOD}{GOOD}")).contains("line 24: plan small: it appears twice"));
        let other = GOOD.replace("'small'", "'large'").replace("'eur'", "'usd'");
        assert!(said(format!("{GOOD}{other}")).contains("line 39: plan large: its currency is usd"));
        let meter = "[[plan.meters]]\nmeter = 'tasks_created'\nincluded = 1\nunit_price_minor = 2\n";
        assert!(said(format!("{GOOD}{meter}")).contains("the meter tasks_created appears twice"));
        let free = GOOD.replace("[plan.price]\nmonthly_minor = 100\ncurrency = 'eur'\ntrial_days = 14\n", "");
        assert!(said(free).contains("it charges for use and has no price"));
        assert!(said("plan = []".to_owned()).contains("it has no plan"));
    }
}
