//! Lists of money as sheets: the columns of each, for a table and for a file. Files have money in major units and say so in
//! the header; JSON has it in minor units, and says so in its names.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::billing::finance::csv::{self, Column};
use crate::billing::finance::inbox::InboxEvent;
use crate::billing::finance::lists::InvoiceRow;
use crate::billing::finance::money::major;
use crate::billing::finance::report::{COLUMNS, ReportRow};
use crate::billing::incidents::Incident;
use crate::billing::ledger::{Batch, Correction, FactLine, Quarantined};
use crate::billing::reconcile::{Difference, Run};
use crate::cli::output::{Output, print_page, write_out};
use crate::cli::{Globals, table};
use crate::kernel::Result;
use crate::kernel::page::Page;

/// What can be printed as rows of cells.
pub trait Sheet: Serialize + Sized + 'static {
    /// The columns of the file, each with its cell.
    const COLUMNS: &'static [Column<Self>];
    /// Those that a table shows, in its order: all would not fit.
    const SHOWN: &'static [&'static str];
}

/// Prints a list: as a table, as JSON, or as a file.
pub fn print_sheet<T: Sheet>(globals: &Globals, page: &Page<T>) -> Result<()> {
    if globals.output == Output::Csv {
        let text = csv::file(T::COLUMNS, &page.items)?;
        write_out(text.as_bytes())?;
        // A file that looks whole and is not would be worse than none.
        if let Some(cursor) = &page.next_cursor {
            eprintln_more(cursor);
        }
        return Ok(());
    }
    print_page(globals, page, shown)
}

fn eprintln_more(cursor: &str) {
    use std::io::Write;
    writeln!(anstream::stderr(), "there is more: --all, or --cursor {cursor}").ok();
}

/// As a table.
pub fn shown<T: Sheet>(items: &[T]) -> String {
    let columns: Vec<&Column<T>> =
        T::SHOWN.iter().filter_map(|shown| T::COLUMNS.iter().find(|(title, _)| title == shown)).collect();
    let header: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let row = |item: &T| columns.iter().map(|(_, cell)| or_dash(cell(item))).collect();
    table::sheet(&header, items.iter().map(row))
}

fn or_dash(cell: String) -> String {
    if cell.is_empty() { "-".to_owned() } else { cell }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn some<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "" }.to_owned()
}

/// A word of a fixed set, as JSON has it.
fn word(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).ok();
    value.as_ref().and_then(|value| value.as_str()).unwrap_or_default().to_owned()
}

impl Sheet for ReportRow {
    const COLUMNS: &'static [Column<Self>] = COLUMNS;
    const SHOWN: &'static [&'static str] = &[
        "period",
        "tenant",
        "meter",
        "ledger_qty",
        "delivered_qty",
        "stripe_qty",
        "invoiced_qty",
        "diff",
        "diff_class",
        "amount_major",
        "currency",
        "invoice",
        "invoice_status",
    ];
}

impl Sheet for InvoiceRow {
    const COLUMNS: &'static [Column<Self>] = &[
        ("invoice", |row| row.id.clone()),
        ("number", |row| some(row.number.as_ref())),
        ("tenant", |row| row.slug.clone()),
        ("tenant_id", |row| row.tenant.to_string()),
        ("subscription", |row| some(row.subscription.as_ref())),
        ("status", |row| row.status.clone()),
        ("held", |row| yes(row.held)),
        ("currency", |row| row.currency.to_uppercase()),
        ("total_major", |row| major(row.total_minor, &row.currency)),
        ("tax_major", |row| major(row.tax_minor, &row.currency)),
        ("paid_major", |row| major(row.paid_minor, &row.currency)),
        ("credited_major", |row| major(row.credited_minor, &row.currency)),
        ("period_start", |row| time(row.period_start)),
        ("period_end", |row| time(row.period_end)),
        ("created_at", |row| time(row.created_at)),
        ("due_at", |row| some(row.due_at.map(time))),
        ("paid_at", |row| some(row.paid_at.map(time))),
    ];
    const SHOWN: &'static [&'static str] = &[
        "invoice",
        "tenant",
        "status",
        "held",
        "total_major",
        "currency",
        "paid_major",
        "period_end",
        "paid_at",
    ];
}

impl Sheet for Batch {
    const COLUMNS: &'static [Column<Self>] = &[
        ("identifier", |row| row.identifier.clone()),
        ("tenant_id", |row| row.tenant.to_string()),
        ("meter", |row| row.meter.clone()),
        ("window_start", |row| time(row.window_start)),
        ("quantity", |row| row.quantity.to_string()),
        ("facts", |row| row.facts.to_string()),
        ("event_at", |row| time(row.event_at)),
        ("state", |row| row.state.clone()),
        ("delivered_via", |row| some(row.delivered_via.as_ref())),
        ("livemode", |row| some(row.livemode)),
        ("customer", |row| some(row.customer.as_ref())),
        ("attempts", |row| row.attempts.to_string()),
        ("carried_forward", |row| yes(row.carried_forward)),
        ("error", |row| some(row.error.as_ref())),
        ("sealed_at", |row| time(row.sealed_at)),
        ("settled_at", |row| some(row.settled_at.map(time))),
    ];
    const SHOWN: &'static [&'static str] = &[
        "identifier",
        "meter",
        "quantity",
        "facts",
        "event_at",
        "state",
        "delivered_via",
        "attempts",
        "error",
    ];
}

/// What every fact has, and more.
macro_rules! columns_of_a_fact {
    ($($more:expr,)+) => {
        &[
            ("fact", |row| row.id.to_string()),
            ("tenant_id", |row| row.tenant.to_string()),
            ("meter", |row| row.meter.clone()),
            ("source", |row| row.source.clone()),
            ("key", |row| row.key.clone()),
            ("quantity", |row| row.quantity.to_string()),
            ("occurred_at", |row| time(row.occurred_at)),
            ("received_at", |row| time(row.received_at)),
            $($more,)+
        ]
    };
}

impl Sheet for FactLine {
    const COLUMNS: &'static [Column<Self>] = columns_of_a_fact![
        ("corrects", |row| some(row.corrects)),
        ("reason", |row| some(row.reason.as_ref())),
        ("asked_by", |row| some(row.actor.as_ref())),
        ("approved_by", |row| some(row.approved_by.as_ref())),
    ];
    const SHOWN: &'static [&'static str] =
        &["fact", "meter", "source", "key", "quantity", "occurred_at", "reason"];
}

impl Sheet for Quarantined {
    const COLUMNS: &'static [Column<Self>] =
        columns_of_a_fact![("why", |row| row.why.clone()), ("corrected", |row| yes(row.corrected)),];
    const SHOWN: &'static [&'static str] =
        &["fact", "meter", "quantity", "occurred_at", "received_at", "why", "corrected"];
}

impl Sheet for Correction {
    const COLUMNS: &'static [Column<Self>] = &[
        ("correction", |row| row.id.to_string()),
        ("tenant_id", |row| row.tenant.to_string()),
        ("meter", |row| row.meter.clone()),
        ("quantity", |row| row.quantity.to_string()),
        ("occurred_at", |row| time(row.occurred_at)),
        ("corrects", |row| some(row.corrects)),
        ("reason", |row| row.reason.clone()),
        ("state", |row| word(row.state)),
        ("asked_by", |row| row.asked_by.clone()),
        ("asked_at", |row| time(row.asked_at)),
        ("decided_by", |row| some(row.decided_by.as_ref())),
        ("decided_at", |row| some(row.decided_at.map(time))),
    ];
    const SHOWN: &'static [&'static str] =
        &["correction", "meter", "quantity", "occurred_at", "reason", "state", "asked_by", "decided_by"];
}

impl Sheet for Difference {
    const COLUMNS: &'static [Column<Self>] = &[
        ("run", |row| row.run.to_string()),
        ("level", |row| row.level.as_str().to_owned()),
        ("class", |row| row.class.as_str().to_owned()),
        ("tenant_id", |row| some(row.tenant)),
        ("meter", |row| some(row.meter.as_ref())),
        ("subject", |row| row.subject.clone()),
        ("ours", |row| row.ours.to_string()),
        ("theirs", |row| row.theirs.to_string()),
        ("diff", |row| (row.theirs - row.ours).to_string()),
        ("fixed", |row| yes(row.fixed)),
        ("detail", |row| row.detail.clone()),
    ];
    const SHOWN: &'static [&'static str] =
        &["level", "class", "meter", "subject", "ours", "theirs", "fixed", "detail"];
}

impl Sheet for Run {
    const COLUMNS: &'static [Column<Self>] = &[
        ("run", |row| row.id.to_string()),
        ("why", |row| word(row.why)),
        ("state", |row| row.state.as_str().to_owned()),
        ("tenant_id", |row| some(row.tenant)),
        ("invoice", |row| some(row.invoice.as_ref())),
        ("from", |row| row.from_at.date_naive().to_string()),
        ("to", |row| row.to_at.date_naive().to_string()),
        ("tenants", |row| row.checked.to_string()),
        ("fixed", |row| row.fixed.to_string()),
        ("error", |row| some(row.error.as_ref())),
        ("started_at", |row| time(row.started_at)),
        ("finished_at", |row| some(row.finished_at.map(time))),
    ];
    const SHOWN: &'static [&'static str] =
        &["run", "why", "state", "from", "to", "tenants", "fixed", "started_at", "error"];
}

impl Sheet for InboxEvent {
    const COLUMNS: &'static [Column<Self>] = &[
        ("event", |row| row.event_id.clone()),
        ("type", |row| row.kind.clone()),
        ("object", |row| some(row.object.as_ref())),
        ("state", |row| row.state.clone()),
        ("shape", |row| row.shape.clone()),
        ("happened_at", |row| some(row.happened_at.map(time))),
        ("received_at", |row| time(row.received_at)),
        ("deliveries", |row| row.deliveries.to_string()),
        ("found_by", |row| row.found_by.clone()),
        ("attempts", |row| row.attempts.to_string()),
        ("error", |row| some(row.error.as_ref())),
        ("done_at", |row| some(row.done_at.map(time))),
        ("api_version", |row| some(row.api_version.as_ref())),
    ];
    const SHOWN: &'static [&'static str] =
        &["event", "type", "object", "state", "received_at", "deliveries", "found_by", "attempts", "error"];
}

impl Sheet for Incident {
    const COLUMNS: &'static [Column<Self>] = &[
        ("incident", |row| row.id.to_string()),
        ("kind", |row| row.kind.clone()),
        ("subject", |row| row.subject.clone()),
        ("tenant_id", |row| some(row.tenant)),
        ("opened_at", |row| time(row.opened_at)),
        ("seen", |row| row.seen.to_string()),
        ("settled_at", |row| some(row.settled_at.map(time))),
        ("settled_by", |row| some(row.settled_by.as_ref())),
        ("detail", |row| row.detail.to_string()),
    ];
    const SHOWN: &'static [&'static str] = &["incident", "kind", "subject", "opened_at", "seen", "detail"];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A title that is shown and is no column's would be left out without a word.
    fn whole<T: Sheet>() {
        let titles: Vec<&str> = T::COLUMNS.iter().map(|(title, _)| *title).collect();
        for shown in T::SHOWN {
            assert!(titles.contains(shown), "{shown} is none of {titles:?}");
        }
        for (at, title) in titles.iter().enumerate() {
            assert!(!titles[..at].contains(title), "{title} is there twice");
        }
    }

    #[test]
    fn what_a_table_shows_is_in_the_file() {
        whole::<ReportRow>();
        whole::<InvoiceRow>();
        whole::<Batch>();
        whole::<FactLine>();
        whole::<Quarantined>();
        whole::<Correction>();
        whole::<Difference>();
        whole::<Run>();
        whole::<InboxEvent>();
        whole::<Incident>();
    }
}
