//! `freehold billing …`: what finance reads and corrects.

use std::path::PathBuf;

use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand, ValueEnum};

use super::Globals;
use super::output::print;
use super::paging::Paging;
use crate::billing::access::Access;
use crate::billing::finance::explain::{ExplainFilter, FactsFilter};
use crate::billing::finance::inbox::InboxFilter;
use crate::billing::finance::lists::ListFilter;
use crate::billing::finance::quarantine::{QuarantineFilter, Settle, SettleAs};
use crate::billing::finance::report::ReportFilter;
use crate::billing::ledger::{CorrectionId, CorrectionState, FactId};
use crate::billing::reconcile::close::Release;
use crate::billing::reconcile::settle::Fate;
use crate::billing::reconcile::{Ask, DifferenceFilter, ReconcileId, RunsFilter};
use crate::http::operator::billing::{AskCorrection, OverrideAccess};
use crate::kernel::page::Page;
use crate::kernel::{Error, Result, codes};

mod ask;
mod incident;
mod sheet;
mod words;

use ask::Till;
use sheet::{Sheet, print_sheet};

#[derive(Debug, Args)]
pub struct Billing {
    /// How Stripe is reached: the same TOML file as the servers' (docs/STRIPE.md, infra/stripe.example.toml). Next to freehold dev,
    /// its own is used by default
    #[arg(long, global = true, env = "FREEHOLD_STRIPE", value_name = "FILE")]
    stripe: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show where things stand, in figures: what is waiting, what differs
    #[command(
        after_help = "Examples:\n  freehold billing status\n  freehold billing status --output json | jq .rejected"
    )]
    Status,
    /// List what was used, reported, counted, invoiced and paid: a row for each tenant, meter and period
    #[command(after_help = "\
Examples:
  freehold billing report --all
  freehold billing report --from 2026-10-01 --to 2026-10-31 --all --output csv > october.csv
  freehold billing report --tenant acme --output json | jq '.items[] | select(.diff != 0)'

What Stripe counted is as of the last reconciliation. CSV has money in major units (…_major), JSON in minor (…_minor). \
A page holds the rows of up to --limit tenants. An invoice's tax and credit notes stand in its first row only.")]
    Report(Days),
    /// Compare the ledger, what was delivered, what Stripe counted, invoices and payments
    #[command(after_help = "\
Examples:
  freehold billing reconcile
  freehold billing reconcile --fail-on-diff --output json > found.json
  freehold billing reconcile --tenant acme --from 2026-11-01 --look-only

What Stripe provably does not have goes back into the queue, once. Nothing else is changed, and nothing is ever reduced. \
With --fail-on-diff it ends with 1 when something differs that does not explain itself.")]
    Reconcile(Reconcile),
    /// List what a comparison found; by default, the last one of all tenants
    #[command(after_help = "\
Examples:
  freehold billing differences --all --output csv > differences.csv
  freehold billing differences --class missing_at_stripe")]
    Differences(Differences),
    /// List comparisons, newest first
    #[command(after_help = "Examples:\n  freehold billing runs --limit 5")]
    Runs(Pages),
    /// Trace an invoice down to its lines, batches and single facts
    #[command(after_help = "\
Examples:
  freehold billing explain in_1Pabc
  freehold billing explain in_1Pabc --line il_1Pdef --facts 10000 --output json")]
    Explain(Explain),
    /// List the facts of a batch
    #[command(
        after_help = "Examples:\n  freehold billing facts ub:ten_06fqv3k1s9t4m7b2n8c5v0r6e4:api_calls:1795219200:0 --all"
    )]
    Facts(Facts),
    /// Show a tenant's next invoice as Stripe would make it now, and what our own books say
    #[command(after_help = "Examples:\n  freehold billing preview acme")]
    Preview(Tenant),
    /// Show what a tenant used today and in the current period, with a forecast
    #[command(after_help = "Examples:\n  freehold billing usage acme")]
    Usage(Tenant),
    /// Correct what was counted: one person asks, another one agrees
    #[command(subcommand)]
    Correct(Correct),
    /// Process a webhook again, whether it was given up or is done
    #[command(after_help = "Examples:\n  freehold billing replay evt_1Pabc")]
    Replay(Event),
    /// Batches and facts that are waiting for a person
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// List the webhooks received, newest first
    #[command(after_help = "\
Examples:
  freehold billing inbox --state dead
  freehold billing inbox --type invoice. --object in_1Pabc --all --output csv > webhooks.csv")]
    Inbox(Inbox),
    /// Incidents: what somebody has to look at
    #[command(subcommand)]
    Incident(incident::Incidents),
    /// Release a held draft invoice although something differs
    #[command(after_help = "Examples:\n  freehold billing release in_1Pabc --reason 'credited by hand'")]
    Release(Released),
    /// Fix a tenant's access for a time, whatever it owes
    #[command(subcommand)]
    Override(Overrides),
    /// Export a whole list
    #[command(after_help = "\
Examples:
  freehold billing export batches --from 2026-11-01 --output csv > batches.csv
  freehold billing export invoices --tenant acme --output json")]
    Export(Export),
}

#[derive(Clone, Debug, Args)]
struct Days {
    /// Only this tenant: slug or id
    #[arg(long)]
    tenant: Option<String>,
    /// The first day, in UTC; by default the first of this month
    #[arg(long, value_name = "DAY")]
    from: Option<NaiveDate>,
    /// The last day; by default the last of the same month
    #[arg(long, value_name = "DAY")]
    to: Option<NaiveDate>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
struct Reconcile {
    /// Only this tenant: slug or id
    #[arg(long)]
    tenant: Option<String>,
    /// The first day, in UTC; by default 34 days ago
    #[arg(long, value_name = "DAY")]
    from: Option<NaiveDate>,
    /// The last day; by default today
    #[arg(long, value_name = "DAY")]
    to: Option<NaiveDate>,
    /// Only compare; put nothing back into the queue
    #[arg(long)]
    look_only: bool,
    /// Exit with 1 if there is an unexplained difference
    #[arg(long)]
    fail_on_diff: bool,
}

#[derive(Debug, Args)]
struct Differences {
    /// Only those of this comparison
    #[arg(long, value_name = "ID")]
    run: Option<ReconcileId>,
    /// Only of this class, for example missing_at_stripe
    #[arg(long)]
    class: Option<String>,
    /// Only of this level, for example L3
    #[arg(long)]
    level: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
struct Pages {
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
struct Explain {
    /// The invoice's id at Stripe, for example in_1Pabc
    invoice: String,
    /// Only this line
    #[arg(long, value_name = "ID")]
    line: Option<String>,
    /// The most facts to show, 1 to 10000 (default 1000)
    #[arg(long, value_name = "N")]
    facts: Option<u32>,
}

#[derive(Debug, Args)]
struct Facts {
    /// The batch: its identifier at Stripe, or its id
    batch: String,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
struct Tenant {
    /// Its slug or id
    tenant: String,
}

#[derive(Debug, Args)]
struct Event {
    /// The event at Stripe
    event: String,
}

#[derive(Debug, Subcommand)]
enum Correct {
    /// Ask for a correction. It counts only once another person has agreed
    #[command(after_help = "\
Examples:
  freehold billing correct ask acme --meter tasks_created --quantity -12 --reason 'ticket 4711: imported twice'
  freehold billing correct ask acme --meter tasks_created --quantity 3 --at 2026-11-20T12:00:00Z --reason 'came too late'")]
    Ask(AskArgs),
    /// List corrections that are waiting for a second person
    #[command(
        after_help = "Examples:\n  freehold billing correct list\n  freehold billing correct list --decided --output csv > corrections.csv"
    )]
    List(Decided),
    /// Agree to a correction that another person asked for
    #[command(after_help = "\
Examples:
  freehold billing correct approve cor_06fqv3k1s9t4m7b2n8c5v0r6e4

Use --server, with a key of your own (created with --owner): a login on the databases is nobody in particular.")]
    Approve(Which),
    /// Refuse a correction that another person asked for
    #[command(after_help = "\
Examples:
  freehold billing correct refuse cor_06fqv3k1s9t4m7b2n8c5v0r6e4

Use --server, with a key of your own (created with --owner): a login on the databases is nobody in particular.")]
    Refuse(Which),
}

#[derive(Debug, Args)]
struct AskArgs {
    /// Its slug or id
    tenant: String,
    /// Which meter
    #[arg(long)]
    meter: String,
    /// What to add, or, below 0, to take away. For a meter whose newest reading counts: the reading itself
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    quantity: i64,
    /// The moment it counts for, at most 34 days ago; now by default
    #[arg(long, value_name = "TIME")]
    at: Option<DateTime<Utc>>,
    /// The fact that was wrong or was kept aside
    #[arg(long, value_name = "FACT")]
    corrects: Option<FactId>,
    /// Why, for the audit log
    #[arg(long)]
    reason: String,
    /// A reference of your own: asking again with the same one does not make a second correction
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
}

#[derive(Debug, Args)]
struct Decided {
    /// Include those already decided
    #[arg(long)]
    decided: bool,
}

#[derive(Debug, Args)]
struct Which {
    /// The correction's id
    id: CorrectionId,
}

#[derive(Debug, Subcommand)]
enum Quarantine {
    /// List batches that Stripe refused or that were set aside
    #[command(after_help = "Examples:\n  freehold billing quarantine list --all --output csv > waiting.csv")]
    List(Pages),
    /// List facts that were too old or from the future. A correction that names one makes it count
    #[command(after_help = "Examples:\n  freehold billing quarantine facts")]
    Facts,
    /// Settle a batch that is waiting
    #[command(after_help = "\
Examples:
  freehold billing quarantine settle ub:ten_06fqv3k1s9t4m7b2n8c5v0r6e4:api_calls:1795219200:0 --as check --reason 'monthly look'

check asks what Stripe counted in the batch's minute, and does what that proves. resend sends a refused batch again. \
delivered means that somebody has seen it at Stripe; void, that it is never sent and never billed.")]
    Settle(SettleArgs),
}

#[derive(Debug, Args)]
struct SettleArgs {
    /// The batch's identifier
    batch: String,
    /// How
    #[arg(long, value_enum)]
    r#as: SettleAs,
    /// Why, for the audit log
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Args)]
struct Inbox {
    /// Only those in this state: ready, done, dead or ignored
    #[arg(long)]
    state: Option<String>,
    /// Only of this type (invoice.paid), or of every type that begins like this (invoice.)
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only about this object, for example sub_1Pabc
    #[arg(long, value_name = "ID")]
    object: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
struct Released {
    /// The invoice at Stripe
    invoice: String,
    /// Why, for the audit log
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Subcommand)]
enum Overrides {
    /// Fix a tenant's access until a given time
    #[command(after_help = "\
Examples:
  freehold billing override set acme --access active --until 2026-12-01T00:00:00Z --reason 'bank transfer on its way'")]
    Set(OverrideArgs),
    /// Remove the override: access follows what is owed again
    #[command(after_help = "Examples:\n  freehold billing override clear acme")]
    Clear(Tenant),
}

#[derive(Debug, Args)]
struct OverrideArgs {
    /// Its slug or id
    tenant: String,
    /// The access it is to have
    #[arg(long, value_enum)]
    access: Access,
    /// Until when, within a year
    #[arg(long, value_name = "TIME")]
    until: DateTime<Utc>,
    /// Why, for the audit log
    #[arg(long)]
    reason: String,
}

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The same as freehold billing report
    Report,
    /// One row for each meter event at Stripe
    Batches,
    Invoices,
    /// What the last comparison of all tenants found
    Differences,
    /// Corrections, decided or not
    Corrections,
}

#[derive(Debug, Args)]
struct Export {
    /// Which list
    #[arg(value_enum)]
    what: What,
    /// Only this tenant: slug or id
    #[arg(long)]
    tenant: Option<String>,
    /// The first day, in UTC; by default the first of this month
    #[arg(long, value_name = "DAY")]
    from: Option<NaiveDate>,
    /// The last day; by default the last of the same month
    #[arg(long, value_name = "DAY")]
    to: Option<NaiveDate>,
}

pub async fn run(globals: &Globals, args: Billing) -> Result<()> {
    let till = Till::open(globals, args.stripe.as_deref()).await?;
    let output = globals.output;
    match args.command {
        Command::Status => print(output, &till.standing().await?, words::standing),
        Command::Report(days) => print_sheet(globals, &report(&till, &days).await?),
        Command::Reconcile(args) => reconcile(globals, &till, args).await,
        Command::Differences(args) => differences(globals, &till, &args).await,
        Command::Runs(Pages { paging }) => {
            let page = paging.collect(async |limit, cursor| till.runs(&RunsFilter { limit, cursor }).await);
            print_sheet(globals, &page.await?)
        }
        Command::Explain(Explain { invoice, line, facts }) => {
            let found = till.explain(&invoice, &ExplainFilter { line, facts }).await?;
            print(output, &found, words::explained)
        }
        Command::Facts(Facts { batch, paging }) => {
            let page = paging
                .collect(async |limit, cursor| till.facts(&batch, &FactsFilter { limit, cursor }).await);
            print_sheet(globals, &page.await?)
        }
        Command::Preview(args) => print(output, &till.preview(&args.tenant).await?, words::preview),
        Command::Usage(args) => print(output, &till.usage(&args.tenant).await?, words::usage),
        Command::Correct(command) => correct(globals, &till, command).await,
        Command::Replay(args) => one(globals, till.replay(&args.event).await?),
        Command::Quarantine(command) => quarantine(globals, &till, command).await,
        Command::Inbox(Inbox { state, kind, object, paging }) => {
            let filter = InboxFilter { state, kind, object, ..InboxFilter::default() };
            let page = paging.collect(async |limit, cursor| {
                till.inbox(&InboxFilter { limit, cursor, ..filter.clone() }).await
            });
            print_sheet(globals, &page.await?)
        }
        Command::Incident(command) => incident::run(globals, &till, command).await,
        Command::Release(Released { invoice, reason }) => {
            one(globals, till.release(&invoice, &Release { reason }).await?)
        }
        Command::Override(Overrides::Set(OverrideArgs { tenant, access, until, reason })) => {
            let word = OverrideAccess { access, reason, until };
            print(output, &till.override_set(&tenant, &word).await?, words::access)
        }
        Command::Override(Overrides::Clear(Tenant { tenant })) => {
            print(output, &till.override_clear(&tenant).await?, words::access)
        }
        Command::Export(args) => export(globals, &till, args).await,
    }
}

/// One row as what it is: in a file, with its header.
fn one<T: Sheet>(globals: &Globals, item: T) -> Result<()> {
    match globals.output {
        super::output::Output::Csv => print_sheet(globals, &Page::whole(vec![item])),
        output => print(output, &item, |item| sheet::shown(std::slice::from_ref(item))),
    }
}

async fn report(till: &Till, days: &Days) -> Result<Page<crate::billing::finance::report::ReportRow>> {
    let Days { tenant, from, to, paging } = days;
    let filter = ReportFilter { tenant: tenant.clone(), from: *from, to: *to, ..ReportFilter::default() };
    paging
        .collect(async |limit, cursor| till.report(&ReportFilter { limit, cursor, ..filter.clone() }).await)
        .await
}

async fn reconcile(globals: &Globals, till: &Till, args: Reconcile) -> Result<()> {
    let Reconcile { tenant, from, to, look_only, fail_on_diff } = args;
    let bar = globals.progress().wait("comparing");
    let found = till.reconcile(&Ask { tenant, from, to, look_only }).await?;
    bar.finish_and_clear();
    match globals.output {
        super::output::Output::Csv => print_sheet(globals, &Page::whole(found.differences.clone()))?,
        output => print(output, &found, words::compared)?,
    }
    if let Some(error) = &found.run.error {
        return Err(Error::new(&codes::PAYMENTS_UNAVAILABLE).detail(error.clone()));
    }
    if fail_on_diff && found.differs() {
        let many = found.differences.iter().filter(|one| !one.class.is_benign()).count();
        return Err(
            Error::new(&codes::INTERNAL).detail(format!("{many} differences do not explain themselves"))
        );
    }
    Ok(())
}

/// A word of a fixed set, as it is written in JSON.
fn word<T: serde::de::DeserializeOwned>(field: &str, text: Option<&String>) -> Result<Option<T>> {
    let read = |text: &String| {
        serde_json::from_value(serde_json::Value::String(text.clone()))
            .map_err(|error| Error::field(field, error.to_string()))
    };
    text.map(read).transpose()
}

async fn differences(globals: &Globals, till: &Till, args: &Differences) -> Result<()> {
    let filter = DifferenceFilter {
        run: args.run,
        class: word("class", args.class.as_ref())?,
        level: word("level", args.level.as_ref())?,
        ..DifferenceFilter::default()
    };
    let page = args.paging.collect(async |limit, cursor| {
        till.differences(&DifferenceFilter { limit, cursor, ..filter.clone() }).await
    });
    print_sheet(globals, &page.await?)
}

async fn correct(globals: &Globals, till: &Till, command: Correct) -> Result<()> {
    match command {
        Correct::Ask(AskArgs { tenant, meter, quantity, at, corrects, reason, reference }) => {
            let wish =
                AskCorrection { tenant, meter, quantity, occurred_at: at, corrects, reason, reference };
            let said = till.correction_ask(&wish).await?;
            // Asked again under its reference, it may be decided by now.
            let waits = said.state == CorrectionState::Asked;
            one(globals, said)?;
            if waits {
                globals.note("it counts when another person approves it");
            }
            Ok(())
        }
        Correct::List(Decided { decided }) => print_sheet(globals, &till.all_corrections(decided).await?),
        Correct::Approve(Which { id }) => {
            let said = till.correction_decide(id, true).await?;
            let waits = said.state == CorrectionState::Asked;
            one(globals, said)?;
            if waits {
                globals.note("who asked is not known: it counts when another operator agrees too");
            }
            Ok(())
        }
        Correct::Refuse(Which { id }) => one(globals, till.correction_decide(id, false).await?),
    }
}

async fn quarantine(globals: &Globals, till: &Till, command: Quarantine) -> Result<()> {
    match command {
        Quarantine::List(Pages { paging }) => {
            let page = paging
                .collect(async |limit, cursor| till.quarantine(&QuarantineFilter { limit, cursor }).await);
            print_sheet(globals, &page.await?)
        }
        Quarantine::Facts => print_sheet(globals, &till.quarantined_facts(&()).await?),
        Quarantine::Settle(SettleArgs { batch, r#as, reason }) => {
            let said = till.settle(&batch, &Settle { r#as, reason }).await?;
            print(globals.output, &said, words::settled)?;
            if said.fate == Some(Fate::Asked) {
                globals.note("nothing has changed yet: another operator has to settle it as void, too");
            }
            Ok(())
        }
    }
}

async fn export(globals: &Globals, till: &Till, args: Export) -> Result<()> {
    let Export { what, tenant, from, to } = args;
    let all = Paging { all: true, ..Paging::default() };
    let filter = ListFilter { tenant: tenant.clone(), from, to, ..ListFilter::default() };
    match what {
        What::Report => print_sheet(globals, &report(till, &Days { tenant, from, to, paging: all }).await?),
        What::Batches => {
            let page = all.collect(async |limit, cursor| {
                till.batches(&ListFilter { limit, cursor, ..filter.clone() }).await
            });
            print_sheet(globals, &page.await?)
        }
        What::Invoices => {
            let page = all.collect(async |limit, cursor| {
                till.invoices(&ListFilter { limit, cursor, ..filter.clone() }).await
            });
            print_sheet(globals, &page.await?)
        }
        What::Differences => {
            let page = all.collect(async |limit, cursor| {
                till.differences(&DifferenceFilter { limit, cursor, ..DifferenceFilter::default() }).await
            });
            print_sheet(globals, &page.await?)
        }
        What::Corrections => print_sheet(globals, &till.all_corrections(true).await?),
    }
}
