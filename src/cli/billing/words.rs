//! Single things of money, for people.

use crate::billing::finance::explain::Explained;
use crate::billing::finance::lists::TenantAccess;
use crate::billing::finance::money::{amount, grouped};
use crate::billing::finance::preview::Preview;
use crate::billing::finance::quarantine::Settled;
use crate::billing::finance::standing::Standing;
use crate::billing::finance::tenant::{MeterUse, TenantUse};
use crate::billing::reconcile::RunDetail;
use crate::cli::table;

use super::sheet;

/// An invoice walked down: each level further to the right.
pub fn explained(all: &Explained) -> String {
    let money = |minor| amount(minor, &all.currency);
    let mut text =
        format!("{}  {}  {}  of {}\n", all.invoice, all.status, money(all.total_minor), all.tenant);
    for line in &all.lines {
        let what = line.meter.as_deref().unwrap_or("-");
        text += &format!(
            "\n{}  {what}  {} units  {}  {}\n    {} to {}\n",
            line.id,
            grouped(line.quantity),
            money(line.amount_minor),
            line.description,
            table::time(line.period_start),
            table::time(line.period_end)
        );
        if !line.together_with.is_empty() {
            let others = line.together_with.join(", ");
            text += &format!("    with {others}: {} units together\n", grouped(line.lines_quantity));
        }
        if line.meter.is_some() && !line.batches.is_empty() && line.batches_quantity != line.lines_quantity {
            text += &format!(
                "    DIFFERS: the batches come to {}, the invoice says {}\n",
                grouped(line.batches_quantity),
                grouped(line.lines_quantity)
            );
        }
        for one in &line.batches {
            let batch = &one.batch;
            let late = if batch.carried_forward { ", carried forward" } else { "" };
            text += &format!(
                "    {}  {} units  {}{late}\n",
                batch.identifier,
                grouped(batch.quantity),
                batch.state
            );
            for fact in &one.because_of {
                let why = fact.reason.as_ref().map(|why| format!("  {why}")).unwrap_or_default();
                text += &format!(
                    "        {}  {:+}  {}  {}:{}{why}\n",
                    table::time(fact.occurred_at),
                    fact.quantity,
                    fact.id,
                    fact.source,
                    fact.key
                );
            }
            if one.facts_left_out > 0 {
                text += &format!(
                    "        and {} more: freehold billing facts {}\n",
                    one.facts_left_out, batch.identifier
                );
            }
        }
        if line.batches_left_out > 0 {
            text += &format!("    and {} more batches\n", line.batches_left_out);
        }
    }
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn meters(meters: &[MeterUse], currency: &str) -> String {
    let money = |minor: Option<i64>| minor.map(|minor| amount(minor, currency));
    table::table(
        ["meter", "unit", "today", "period", "forecast", "included", "so far", "forecast costs"],
        meters.iter().map(|one| {
            [
                one.meter.clone(),
                one.unit.clone(),
                grouped(one.today),
                grouped(one.period),
                grouped(one.forecast),
                table::or_dash(one.included.map(grouped)),
                table::or_dash(money(one.amount_minor)),
                table::or_dash(money(one.forecast_minor)),
            ]
        }),
    )
}

/// A tenant's use.
pub fn usage(all: &TenantUse) -> String {
    let head = table::fields([
        ("tenant", all.tenant.to_string()),
        ("plan", all.plan.clone()),
        ("period", format!("{} to {}", table::time(all.period_start), table::time(all.period_end))),
        ("subscription", table::or_dash(all.subscription.as_ref())),
    ]);
    format!("{head}\n{}", meters(&all.meters, all.currency.as_deref().unwrap_or("eur")))
}

/// The next invoice.
pub fn preview(all: &Preview) -> String {
    let money = |minor| amount(minor, &all.currency);
    let head = table::fields([
        ("tenant", all.tenant.to_string()),
        ("subscription", all.subscription.clone()),
        ("period", format!("{} to {}", table::time(all.period_start), table::time(all.period_end))),
        ("total", money(all.total_minor)),
        ("tax", money(all.tax_minor)),
    ]);
    let lines = table::table(
        ["line", "units", "amount"],
        all.lines
            .iter()
            .map(|line| [line.description.clone(), grouped(line.quantity), money(line.amount_minor)]),
    );
    format!("{head}\n{lines}\nby our books:\n{}", meters(&all.used, &all.currency))
}

/// How money stands.
pub fn standing(all: &Standing) -> String {
    let last = all.last_run.as_ref();
    table::fields([
        (
            "undelivered",
            format!("{} since {}", all.undelivered, table::or_dash(all.oldest_undelivered.map(table::time))),
        ),
        ("unknown", all.unknown.to_string()),
        ("rejected", all.rejected.to_string()),
        ("quarantined", format!("{} batches, {} facts", all.quarantined, all.quarantined_facts)),
        ("open facts", all.open_facts.to_string()),
        ("differences", all.differences.to_string()),
        (
            "compared",
            table::or_dash(last.map(|run| format!("{} {}", run.state.as_str(), table::time(run.started_at)))),
        ),
        ("drafts held", all.drafts_held.to_string()),
        ("corrections", format!("{} wait for a second person", all.corrections_asked)),
        ("inbox", format!("{} waiting, {} dead", all.inbox_ready, all.inbox_dead)),
        ("incidents", all.incidents_open.to_string()),
    ])
}

/// A comparison with what it found.
pub fn compared(all: &RunDetail) -> String {
    let run = &all.run;
    let mut text = format!(
        "{}  {}  {} to {}  {} tenants  {} put right\n",
        run.id,
        run.state.as_str(),
        run.from_at.date_naive(),
        run.to_at.date_naive(),
        run.checked,
        run.fixed
    );
    if let Some(error) = &run.error {
        text += &format!("{error}\n");
    }
    if all.differences.is_empty() {
        return text + "nothing differs\n";
    }
    text += &format!("\n{}", sheet::shown(&all.differences));
    if all.left_out > 0 {
        text += &format!("and {} more: freehold billing differences --run {} --all\n", all.left_out, run.id);
    }
    text
}

/// A batch after it was settled.
pub fn settled(all: &Settled) -> String {
    let fate = all.fate.map(|fate| format!("{fate:?}").to_lowercase());
    table::fields([
        ("batch", all.batch.identifier.clone()),
        ("state", all.batch.state.clone()),
        ("found", table::or_dash(fate)),
    ])
}

/// How a tenant's access stands.
pub fn access(all: &TenantAccess) -> String {
    let word = |access| serde_json::to_value(access).ok().and_then(|word| word.as_str().map(str::to_owned));
    table::fields([
        ("tenant", all.tenant.to_string()),
        ("access", table::or_dash(word(all.access))),
        ("since", table::time(all.access_since)),
        ("override", table::or_dash(all.override_access.and_then(word))),
        ("until", table::or_dash(all.override_until.map(table::time))),
        ("because", table::or_dash(all.override_reason.as_ref())),
    ])
}
