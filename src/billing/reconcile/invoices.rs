//! L4: what an invoice says of a period. L5: what was paid.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound, TimeDelta, Timelike, Utc};
use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::class::{Class, InvoiceSides, Level, PeriodAtHome, PeriodAtStripe, of_invoice, of_period};
use super::runs::{Found, Span};
use super::usage::{Account, MeterAtStripe};
use super::{SETTLED, ask};
use crate::billing::Billing;
use crate::billing::ledger::Aggregation;
use crate::billing::stripe::Invoice;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Invoices of a customer that are compared: some two years of months.
const MOST: u32 = 24;
/// Stripe brings a draft up to date until it is final, which is an hour after it was made.
const SETTLING: TimeDelta = TimeDelta::hours(1);

/// A line as it was written down when the invoice was last fetched. See the column `invoice.lines`.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub id: String,
    #[serde(default)]
    pub meter: Option<String>,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
}

/// An invoice as it was written down.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Stored {
    id: String,
    total_minor: i64,
    paid_minor: i64,
    created_at: DateTime<Utc>,
    lines: Json<Vec<Line>>,
}

async fn stored(
    conn: &mut PgConnection,
    tenant: TenantId,
    span: Span,
    only: Option<&str>,
) -> Result<BTreeMap<String, Stored>> {
    let rows: Vec<Stored> = sqlx::query_as(
        "SELECT id, total_minor, paid_minor, created_at, lines FROM invoice
          WHERE tenant = $1 AND (id = $4 OR $4::text IS NULL AND created_at >= $2 AND created_at < $3)",
    )
    .bind(tenant)
    .bind(span.from)
    .bind(span.to)
    .bind(only)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id.clone(), row)).collect())
}

/// Compares the invoices that were made in a time; with `only`, that one alone.
///
/// # Errors
/// `payments_unavailable` when Stripe does not answer.
pub async fn invoices(
    billing: &Billing,
    account: &Account,
    meters: &[MeterAtStripe],
    span: Span,
    only: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Vec<Found>> {
    let customer = &account.customer;
    let theirs: Vec<Invoice> = match only {
        Some(id) => vec![ask(|| billing.stripe.invoice(id)).await?],
        None => ask(|| billing.stripe.invoices_of(customer, MOST)).await?,
    };
    let complete = only.is_none() && theirs.len() < MOST as usize;
    let oldest = theirs.iter().map(|one| one.created_at).min();
    let ours = stored(&mut *billing.cp.db.acquire().await?, account.tenant, span, only).await?;
    let mut found = Vec::new();
    for invoice in
        theirs.iter().filter(|one| only.is_some() || (span.from..span.to).contains(&one.created_at))
    {
        if invoice.status == "void" {
            continue;
        }
        let mine = ours.get(&invoice.id);
        found.extend(paid(invoice, mine, now));
        if let Some(mine) = mine {
            found.extend(lines(billing, account, meters, invoice, mine, now).await?);
        }
    }
    let seen = |id: &str| theirs.iter().any(|one| one.id == id);
    let listed = |one: &Stored| complete || oldest.is_some_and(|oldest| one.created_at > oldest);
    for mine in ours.values().filter(|one| only.is_none() && !seen(&one.id) && listed(one)) {
        let sides = InvoiceSides {
            ours: Some((mine.total_minor, mine.paid_minor)),
            theirs: None,
            paid: false,
            lines: 0,
            fresh: mine.created_at > now - SETTLED,
        };
        found.extend(of_invoice(&sides).map(|class| Found {
            level: Level::L5,
            meter: None,
            subject: mine.id.clone(),
            ours: mine.paid_minor,
            theirs: 0,
            class,
            detail: "Stripe does not list it".to_owned(),
        }));
    }
    Ok(found)
}

/// L5 of one invoice.
fn paid(invoice: &Invoice, mine: Option<&Stored>, now: DateTime<Utc>) -> Option<Found> {
    let lately = |at: DateTime<Utc>| at > now - SETTLED;
    let amounts: i64 = invoice.lines.iter().map(|line| line.amount_minor).sum();
    let sides = InvoiceSides {
        ours: mine.map(|mine| (mine.total_minor, mine.paid_minor)),
        theirs: Some((invoice.total_minor, invoice.paid_minor, invoice.credited_minor)),
        paid: invoice.status == "paid",
        lines: amounts + invoice.tax_minor,
        fresh: lately(invoice.created_at) || invoice.paid_at.is_some_and(lately),
    };
    let class = of_invoice(&sides)?;
    let detail = format!(
        "{} {}: total {}, paid {}, credited {}; lines and tax {}",
        invoice.currency,
        invoice.status,
        invoice.total_minor,
        invoice.paid_minor,
        invoice.credited_minor,
        sides.lines
    );
    Some(Found {
        level: Level::L5,
        meter: None,
        subject: invoice.id.clone(),
        ours: mine.map_or(0, |mine| mine.paid_minor),
        theirs: invoice.paid_minor,
        class,
        detail,
    })
}

/// L4 of one invoice: a meter's lines of one period together, because tiers make several.
async fn lines(
    billing: &Billing,
    account: &Account,
    meters: &[MeterAtStripe],
    invoice: &Invoice,
    mine: &Stored,
    now: DateTime<Utc>,
) -> Result<Vec<Found>> {
    type Key<'a> = (&'a str, DateTime<Utc>, DateTime<Utc>);
    let mut groups: BTreeMap<Key<'_>, i64> = BTreeMap::new();
    for line in &mine.lines.0 {
        let Some(meter) = &line.meter else { continue };
        // What the line says now, and not when it was written down. One that is gone says nothing.
        let said = invoice.lines.iter().find(|one| one.id == line.id).map_or(0, |one| one.quantity);
        *groups.entry((meter.as_str(), line.period_start, line.period_end)).or_default() += said;
    }
    let mut found = Vec::new();
    for ((name, from, to), invoiced) in groups {
        let Some(meter) = meters.iter().find(|known| known.meter == name) else { continue };
        let (from, to) = (whole_minute(from), whole_minute(to));
        if from >= to {
            continue;
        }
        let (id, customer) = (&meter.stripe_id, &account.customer);
        let counted = ask(|| billing.stripe.total_between(id, customer, from, to)).await?.unwrap_or(0);
        let mut conn = billing.cp.db.acquire().await?;
        let home = period_at_home(&mut conn, account.tenant, meter, (from, to), now).await?;
        drop(conn);
        let settling = invoice.status == "draft" && invoice.created_at > now - SETTLING;
        let credited = invoice.credited_minor > 0;
        let stripe = PeriodAtStripe { counted, invoiced, settling, credited };
        let Some(class) = of_period(&home, &stripe) else { continue };
        let PeriodAtHome { sealed, carried_in, carried_out, .. } = home;
        let owed = match home.net() {
            less if less < 0 => format!("; {} units are owed to the customer", less.saturating_neg()),
            _ => String::new(),
        };
        found.push(Found {
            level: Level::L4,
            meter: Some(meter.meter.clone()),
            subject: format!("{}:{}:{}", invoice.id, meter.meter, from.date_naive()),
            ours: if class == Class::CreditDue { home.net() } else { home.billable() },
            theirs: invoiced,
            class,
            detail: format!(
                "sealed {sealed}, carried in {carried_in}, carried out {carried_out}; Stripe counted {counted}, invoiced {invoiced}{owed}"
            ),
        });
    }
    Ok(found)
}

fn whole_minute(at: DateTime<Utc>) -> DateTime<Utc> {
    at.with_second(0).unwrap_or(at).trunc_subsecs(0)
}

/// What we know of a meter in a period.
async fn period_at_home(
    conn: &mut PgConnection,
    tenant: TenantId,
    meter: &MeterAtStripe,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
) -> Result<PeriodAtHome> {
    if meter.aggregation == Aggregation::Last {
        let last: Option<(i64, bool, bool)> = sqlx::query_as(
            "SELECT quantity, state IN ('ready', 'sending', 'unknown'), state IN ('rejected', 'quarantined') FROM usage_batch
              WHERE tenant = $1 AND meter = $2 AND event_at >= $3 AND event_at < $4 AND state <> 'void'
              ORDER BY event_at DESC, seq DESC LIMIT 1",
        )
        .bind(tenant)
        .bind(&meter.meter)
        .bind(from)
        .bind(to)
        .fetch_optional(conn)
        .await?;
        let (sealed, young, refused) = last.unwrap_or_default();
        let when = |is: bool| if is { sealed } else { 0 };
        return Ok(PeriodAtHome {
            sealed,
            young: when(young),
            refused: when(refused),
            ..PeriodAtHome::default()
        });
    }
    let (told, carried_in, carried_out, young, refused): (i64, i64, i64, i64, i64) = sqlx::query_as(
        "SELECT coalesce(sum(quantity) FILTER (WHERE inside), 0)::bigint,
                coalesce(sum(quantity) FILTER (WHERE inside AND carried_forward AND window_start < $3), 0)::bigint,
                coalesce(sum(quantity) FILTER (WHERE NOT inside AND carried_forward), 0)::bigint,
                coalesce(sum(quantity) FILTER (WHERE inside AND (
                    state IN ('ready', 'sending', 'unknown') AND greatest(sealed_at, requeued_at) > $5
                    OR state = 'delivered' AND settled_at > $5)), 0)::bigint,
                coalesce(sum(quantity) FILTER (WHERE inside AND state IN ('rejected', 'quarantined')), 0)::bigint
           FROM (SELECT quantity, carried_forward, window_start, state, sealed_at, requeued_at, settled_at,
                        event_at >= $3 AND event_at < $4 AS inside FROM usage_batch
                  WHERE tenant = $1 AND meter = $2 AND state <> 'void'
                    AND (event_at >= $3 AND event_at < $4 OR window_start >= $3 AND window_start < $4)) AS b",
    )
    .bind(tenant)
    .bind(&meter.meter)
    .bind(from)
    .bind(to)
    .bind(now - SETTLED)
    .fetch_one(conn)
    .await?;
    Ok(PeriodAtHome { sealed: told - carried_in + carried_out, carried_in, carried_out, young, refused })
}
