//! Lists of money as sheets: the columns of each, for a table and for a file. Files have money in major units and say so in
//! the header; JSON has it in minor units, and says so in its names.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::billing::finance::csv;
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
pub trait Sheet: Serialize {
    /// The header of the file.
    const COLUMNS: &'static [&'static str];
    /// The columns that a table shows: all would not fit.
    const SHOWN: &'static [usize];

    fn cells(&self) -> Vec<String>;
}

/// Prints a list: as a table, as JSON, or as a file.
pub fn print_sheet<T: Sheet>(globals: &Globals, page: &Page<T>) -> Result<()> {
    if globals.output == Output::Csv {
        let text = csv::file(T::COLUMNS, page.items.iter().map(Sheet::cells))?;
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
    let header: Vec<&str> = T::SHOWN.iter().map(|at| T::COLUMNS[*at]).collect();
    let row = |item: &T| {
        let cells = item.cells();
        T::SHOWN
            .iter()
            .map(|at| if cells[*at].is_empty() { "-".to_owned() } else { cells[*at].clone() })
            .collect()
    };
    table::sheet(&header, items.iter().map(row))
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

impl Sheet for ReportRow {
    const COLUMNS: &'static [&'static str] = &COLUMNS;
    const SHOWN: &'static [usize] = &[0, 1, 4, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16];

    fn cells(&self) -> Vec<String> {
        ReportRow::cells(self)
    }
}

impl Sheet for InvoiceRow {
    const COLUMNS: &'static [&'static str] = &[
        "invoice",
        "number",
        "tenant",
        "tenant_id",
        "subscription",
        "status",
        "held",
        "currency",
        "total_major",
        "tax_major",
        "paid_major",
        "credited_major",
        "period_start",
        "period_end",
        "created_at",
        "due_at",
        "paid_at",
    ];
    const SHOWN: &'static [usize] = &[0, 2, 5, 6, 8, 7, 10, 13, 16];

    fn cells(&self) -> Vec<String> {
        let money = |minor| major(minor, &self.currency);
        vec![
            self.id.clone(),
            some(self.number.as_ref()),
            self.slug.clone(),
            self.tenant.to_string(),
            some(self.subscription.as_ref()),
            self.status.clone(),
            yes(self.held),
            self.currency.to_uppercase(),
            money(self.total_minor),
            money(self.tax_minor),
            money(self.paid_minor),
            money(self.credited_minor),
            time(self.period_start),
            time(self.period_end),
            time(self.created_at),
            some(self.due_at.map(time)),
            some(self.paid_at.map(time)),
        ]
    }
}

impl Sheet for Batch {
    const COLUMNS: &'static [&'static str] = &[
        "identifier",
        "tenant_id",
        "meter",
        "window_start",
        "quantity",
        "facts",
        "event_at",
        "state",
        "delivered_via",
        "livemode",
        "customer",
        "attempts",
        "carried_forward",
        "error",
        "sealed_at",
        "settled_at",
    ];
    const SHOWN: &'static [usize] = &[0, 2, 4, 5, 6, 7, 8, 11, 13];

    fn cells(&self) -> Vec<String> {
        vec![
            self.identifier.clone(),
            self.tenant.to_string(),
            self.meter.clone(),
            time(self.window_start),
            self.quantity.to_string(),
            self.facts.to_string(),
            time(self.event_at),
            self.state.clone(),
            some(self.delivered_via.as_ref()),
            some(self.livemode),
            some(self.customer.as_ref()),
            self.attempts.to_string(),
            yes(self.carried_forward),
            some(self.error.as_ref()),
            time(self.sealed_at),
            some(self.settled_at.map(time)),
        ]
    }
}

impl Sheet for FactLine {
    const COLUMNS: &'static [&'static str] = &[
        "fact",
        "tenant_id",
        "meter",
        "source",
        "key",
        "quantity",
        "occurred_at",
        "received_at",
        "corrects",
        "reason",
        "asked_by",
        "approved_by",
    ];
    const SHOWN: &'static [usize] = &[0, 2, 3, 4, 5, 6, 9];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.tenant.to_string(),
            self.meter.clone(),
            self.source.clone(),
            self.key.clone(),
            self.quantity.to_string(),
            time(self.occurred_at),
            time(self.received_at),
            some(self.corrects),
            some(self.reason.as_ref()),
            some(self.actor.as_ref()),
            some(self.approved_by.as_ref()),
        ]
    }
}

impl Sheet for Quarantined {
    const COLUMNS: &'static [&'static str] = &[
        "fact",
        "tenant_id",
        "meter",
        "source",
        "key",
        "quantity",
        "occurred_at",
        "received_at",
        "why",
        "corrected",
    ];
    const SHOWN: &'static [usize] = &[0, 2, 5, 6, 7, 8, 9];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.tenant.to_string(),
            self.meter.clone(),
            self.source.clone(),
            self.key.clone(),
            self.quantity.to_string(),
            time(self.occurred_at),
            time(self.received_at),
            self.why.clone(),
            yes(self.corrected),
        ]
    }
}

impl Sheet for Correction {
    const COLUMNS: &'static [&'static str] = &[
        "correction",
        "tenant_id",
        "meter",
        "quantity",
        "occurred_at",
        "corrects",
        "reason",
        "state",
        "asked_by",
        "asked_at",
        "decided_by",
        "decided_at",
    ];
    const SHOWN: &'static [usize] = &[0, 2, 3, 4, 6, 7, 8, 10];

    fn cells(&self) -> Vec<String> {
        let state = serde_json::to_value(self.state).ok();
        vec![
            self.id.to_string(),
            self.tenant.to_string(),
            self.meter.clone(),
            self.quantity.to_string(),
            time(self.occurred_at),
            some(self.corrects),
            self.reason.clone(),
            state.as_ref().and_then(|state| state.as_str()).unwrap_or_default().to_owned(),
            self.asked_by.clone(),
            time(self.asked_at),
            some(self.decided_by.as_ref()),
            some(self.decided_at.map(time)),
        ]
    }
}

impl Sheet for Difference {
    const COLUMNS: &'static [&'static str] = &[
        "run",
        "level",
        "class",
        "tenant_id",
        "meter",
        "subject",
        "ours",
        "theirs",
        "diff",
        "fixed",
        "detail",
    ];
    const SHOWN: &'static [usize] = &[1, 2, 4, 5, 6, 7, 9, 10];

    fn cells(&self) -> Vec<String> {
        vec![
            self.run.to_string(),
            self.level.as_str().to_owned(),
            self.class.as_str().to_owned(),
            some(self.tenant),
            some(self.meter.as_ref()),
            self.subject.clone(),
            self.ours.to_string(),
            self.theirs.to_string(),
            (self.theirs - self.ours).to_string(),
            yes(self.fixed),
            self.detail.clone(),
        ]
    }
}

impl Sheet for Run {
    const COLUMNS: &'static [&'static str] = &[
        "run",
        "why",
        "state",
        "tenant_id",
        "invoice",
        "from",
        "to",
        "tenants",
        "fixed",
        "error",
        "started_at",
        "finished_at",
    ];
    const SHOWN: &'static [usize] = &[0, 1, 2, 5, 6, 7, 8, 10, 9];

    fn cells(&self) -> Vec<String> {
        let why = serde_json::to_value(self.why).ok();
        vec![
            self.id.to_string(),
            why.as_ref().and_then(|why| why.as_str()).unwrap_or_default().to_owned(),
            self.state.as_str().to_owned(),
            some(self.tenant),
            some(self.invoice.as_ref()),
            self.from_at.date_naive().to_string(),
            self.to_at.date_naive().to_string(),
            self.checked.to_string(),
            self.fixed.to_string(),
            some(self.error.as_ref()),
            time(self.started_at),
            some(self.finished_at.map(time)),
        ]
    }
}

impl Sheet for InboxEvent {
    const COLUMNS: &'static [&'static str] = &[
        "event",
        "type",
        "object",
        "state",
        "shape",
        "happened_at",
        "received_at",
        "deliveries",
        "found_by",
        "attempts",
        "error",
        "done_at",
        "api_version",
    ];
    const SHOWN: &'static [usize] = &[0, 1, 2, 3, 6, 7, 8, 9, 10];

    fn cells(&self) -> Vec<String> {
        vec![
            self.event_id.clone(),
            self.kind.clone(),
            some(self.object.as_ref()),
            self.state.clone(),
            self.shape.clone(),
            some(self.happened_at.map(time)),
            time(self.received_at),
            self.deliveries.to_string(),
            self.found_by.clone(),
            self.attempts.to_string(),
            some(self.error.as_ref()),
            some(self.done_at.map(time)),
            some(self.api_version.as_ref()),
        ]
    }
}

impl Sheet for Incident {
    const COLUMNS: &'static [&'static str] = &[
        "incident",
        "kind",
        "subject",
        "tenant_id",
        "opened_at",
        "seen",
        "settled_at",
        "settled_by",
        "detail",
    ];
    const SHOWN: &'static [usize] = &[0, 1, 2, 4, 5, 8];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.kind.clone(),
            self.subject.clone(),
            some(self.tenant),
            time(self.opened_at),
            self.seen.to_string(),
            some(self.settled_at.map(time)),
            some(self.settled_by.as_ref()),
            self.detail.to_string(),
        ]
    }
}
