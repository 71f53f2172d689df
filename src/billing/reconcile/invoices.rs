//! L4: what an invoice says of a period. L5: what was paid.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound, TimeDelta, Timelike, Utc};
use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::class::{
    Class, InvoiceSides, Level, PeriodAtHome, PeriodAtStripe, Signed, is_credited, of_invoice, of_period,
    with_tax,
};
use super::duties::{self, Decisions, is_decided, subject_of};
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
    #[serde(default)]
    pub unit_minor: Option<i64>,
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
    also: &[String],
) -> Result<BTreeMap<String, Stored>> {
    let rows: Vec<Stored> = sqlx::query_as(
        "SELECT id, total_minor, paid_minor, created_at, lines FROM invoice
          WHERE tenant = $1
            AND (id = $4 OR $4::text IS NULL AND (created_at >= $2 AND created_at < $3 OR id = ANY($5)))",
    )
    .bind(tenant)
    .bind(span.from)
    .bind(span.to)
    .bind(only)
    .bind(also)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id.clone(), row)).collect())
}

/// Compares the invoices that were made in a time, and older ones on which something is owed; with `only`, that one alone.
/// Gives those whose lines were compared, too.
///
/// # Errors
/// `payments_unavailable` when Stripe does not answer.
pub async fn invoices(
    billing: &Billing,
    account: &Account,
    meters: &[MeterAtStripe],
    decisions: &Decisions,
    span: Span,
    only: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(Vec<Found>, Vec<String>)> {
    let customer = &account.customer;
    let theirs: Vec<Invoice> = match only {
        Some(id) => vec![ask(|| billing.stripe.invoice(id)).await?],
        None => ask(|| billing.stripe.invoices_of(customer, MOST)).await?,
    };
    let complete = only.is_none() && theirs.len() < MOST as usize;
    let oldest = theirs.iter().map(|one| one.created_at).min();
    let mut conn = billing.cp.db.acquire().await?;
    let owing = duties::invoices_that_owe(&mut conn, account.tenant).await?;
    let ours = stored(&mut conn, account.tenant, span, only, &owing).await?;
    drop(conn);
    let (mut found, mut compared) = (Vec::new(), Vec::new());
    let meant = |one: &Invoice| {
        only.is_some() || (span.from..span.to).contains(&one.created_at) || owing.contains(&one.id)
    };
    for invoice in theirs.iter().filter(|one| meant(one)) {
        if invoice.status == "void" {
            // Nothing of it was ever to be paid.
            compared.push(invoice.id.clone());
            continue;
        }
        let mine = ours.get(&invoice.id);
        found.extend(paid(invoice, mine, now));
        if let Some(mine) = mine {
            found.extend(lines(billing, account, meters, decisions, invoice, mine, now).await?);
            compared.push(invoice.id.clone());
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
    Ok((found, compared))
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

/// A meter's lines of one period.
struct Group {
    home: PeriodAtHome,
    counted: i64,
    invoiced: i64,
    subject: String,
    /// What is owed for less than nothing, without tax; none when nobody knows. Zero where nothing is, and where finance has
    /// decided.
    owed: Option<i64>,
    /// Finance has decided.
    decided: bool,
}

/// L4 of one invoice: a meter's lines of one period together, because tiers make several.
async fn lines(
    billing: &Billing,
    account: &Account,
    meters: &[MeterAtStripe],
    decisions: &Decisions,
    invoice: &Invoice,
    mine: &Stored,
    now: DateTime<Utc>,
) -> Result<Vec<Found>> {
    type Key<'a> = (&'a str, DateTime<Utc>, DateTime<Utc>);
    let mut sums: BTreeMap<Key<'_>, (i64, Option<i64>)> = BTreeMap::new();
    for line in &mine.lines.0 {
        let Some(meter) = &line.meter else { continue };
        // What the line says now, and not when it was written down. One that is gone says nothing.
        let said = invoice.lines.iter().find(|one| one.id == line.id).map_or(0, |one| one.quantity);
        let (invoiced, unit) = sums.entry((meter.as_str(), line.period_start, line.period_end)).or_default();
        *invoiced += said;
        *unit = (*unit).max(line.unit_minor);
    }
    let mut groups = Vec::new();
    for ((name, from, to), (invoiced, unit_minor)) in sums {
        let Some(meter) = meters.iter().find(|known| known.meter == name) else { continue };
        let Some(counted) = counted_between(billing, account, meter, (from, to)).await? else { continue };
        let mut conn = billing.cp.db.acquire().await?;
        let home = period_at_home(&mut conn, account.tenant, meter, (from, to), now).await?;
        let subject = subject_of(&invoice.id, &meter.meter, from);
        let less = home.net().min(0).saturating_neg();
        let decided = less > 0 && is_decided(decisions, &subject, less);
        let owed = match less {
            0 => Some(0),
            _ if decided => Some(0),
            units => duties::owed(&mut conn, (account.tenant, name), (from, to), (units, unit_minor)).await?,
        };
        groups.push((meter, Group { home, counted, invoiced, subject, owed, decided }));
    }
    let owed: Vec<Option<i64>> = groups.iter().map(|(_, one)| one.owed).collect();
    let covered = is_credited(invoice.credited_minor, &owed, invoice.total_minor, invoice.tax_minor);
    let settling = invoice.status == "draft" && invoice.created_at > now - SETTLING;
    let named = |(meter, one): &(&MeterAtStripe, Group)| {
        // What is worth nothing, or decided, waits for no credit note that another meter does.
        let credited = covered || one.owed == Some(0);
        let stripe = PeriodAtStripe { counted: one.counted, invoiced: one.invoiced, settling, credited };
        let class = of_period(&one.home, &stripe)?;
        let PeriodAtHome { sealed, carried_in, carried_out, .. } = one.home;
        let (counted, invoiced) = (one.counted, one.invoiced);
        let mut detail = format!(
            "sealed {sealed}, carried in {carried_in}, carried out {carried_out}; Stripe counted {counted}, invoiced {invoiced}"
        );
        if one.home.net() < 0 {
            detail += &of_less(one, invoice);
        }
        let less = matches!(class, Class::CreditDue | Class::Settled);
        Some(Found {
            level: Level::L4,
            meter: Some(meter.meter.clone()),
            subject: one.subject.clone(),
            ours: if less { one.home.net() } else { one.home.billable() },
            theirs: one.invoiced,
            class,
            detail,
        })
    };
    Ok(groups.iter().filter_map(named).collect())
}

/// What is to be said of less than nothing. Pure.
fn of_less(one: &Group, invoice: &Invoice) -> String {
    let units = one.home.net().saturating_neg();
    let worth = match one.owed {
        _ if one.decided => "finance decided about them".to_owned(),
        Some(0) => "nothing was charged for them".to_owned(),
        Some(minor) => format!(
            "worth {} {} in minor units, with tax; credited so far {}",
            with_tax(minor, invoice.total_minor, invoice.tax_minor),
            invoice.currency,
            invoice.credited_minor
        ),
        None => "what they are worth is not known here".to_owned(),
    };
    format!("; {units} units less than nothing: {worth}")
}

/// What Stripe counted for a period. It says that for whole minutes; a period that begins or ends within one has that minute's
/// part by what we delivered for it. None for a period of less than a minute.
async fn counted_between(
    billing: &Billing,
    account: &Account,
    meter: &MeterAtStripe,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Option<i64>> {
    let (first, last) = (whole_minute(from), whole_minute(to));
    if first >= last {
        return Ok(None);
    }
    let (id, customer) = (&meter.stripe_id, &account.customer);
    let counted = ask(|| billing.stripe.total_between(id, customer, first, last)).await?.unwrap_or(0);
    if (first, last) == (from, to) {
        return Ok(Some(counted));
    }
    // Before the period in its first minute, in it, and in its last minute.
    let edges: (Option<i64>, Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT CASE $7 WHEN 'sum' THEN sum(quantity) FILTER (WHERE event_at < $5)::bigint
                ELSE (array_agg(quantity ORDER BY event_at DESC, seq DESC) FILTER (WHERE event_at < $5))[1] END,
                CASE $7 WHEN 'sum' THEN NULL
                ELSE (array_agg(quantity ORDER BY event_at DESC, seq DESC) FILTER (WHERE event_at >= $5))[1] END,
                CASE $7 WHEN 'sum' THEN sum(quantity) FILTER (WHERE event_at >= $6)::bigint
                ELSE (array_agg(quantity ORDER BY event_at DESC, seq DESC) FILTER (WHERE event_at >= $6))[1] END
           FROM usage_batch
          WHERE tenant = $1 AND meter = $2 AND customer = $3 AND state = 'delivered' AND event_at >= $4 AND event_at < $8",
    )
    .bind(account.tenant)
    .bind(&meter.meter)
    .bind(customer)
    .bind(first)
    .bind(from)
    .bind(last)
    .bind(meter.aggregation.as_str())
    .bind(to)
    .fetch_one(&billing.cp.db)
    .await?;
    Ok(Some(at_edges(meter.aggregation, counted, edges)))
}

/// What whole minutes counted, brought to a period that begins and ends within some: what we delivered in its first minute
/// `before` it, `within` it, and in its last minute, `after` the last whole one. Pure.
fn at_edges(
    aggregation: Aggregation,
    counted: i64,
    (before, within, after): (Option<i64>, Option<i64>, Option<i64>),
) -> i64 {
    match aggregation {
        Aggregation::Sum => counted - before.unwrap_or(0) + after.unwrap_or(0),
        // The newest counts: the one in the last minute, if there is any; and none from before the period.
        Aggregation::Last => match (before, within, after) {
            (_, _, Some(newest)) => newest,
            (Some(_), None, None) => 0,
            _ => counted,
        },
    }
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
        // Without the newest, the one before it counts, which may be any.
        let when = |is: bool| if is { Signed::ANY } else { Signed::default() };
        return Ok(PeriodAtHome {
            sealed,
            young: when(young),
            refused: when(refused),
            ..PeriodAtHome::default()
        });
    }
    type Sums = (i64, i64, i64, i64, i64, i64, i64);
    let (told, carried_in, carried_out, young_more, young_less, refused_more, refused_less): Sums = sqlx::query_as(
        "SELECT coalesce(sum(quantity) FILTER (WHERE inside), 0)::bigint,
                coalesce(sum(quantity) FILTER (WHERE inside AND carried_forward AND window_start < $3), 0)::bigint,
                coalesce(sum(quantity) FILTER (WHERE NOT inside AND carried_forward), 0)::bigint,
                coalesce(sum(quantity) FILTER (WHERE young AND quantity > 0), 0)::bigint,
                coalesce(sum(-quantity) FILTER (WHERE young AND quantity < 0), 0)::bigint,
                coalesce(sum(quantity) FILTER (WHERE refused AND quantity > 0), 0)::bigint,
                coalesce(sum(-quantity) FILTER (WHERE refused AND quantity < 0), 0)::bigint
           FROM (SELECT quantity, carried_forward, window_start, event_at >= $3 AND event_at < $4 AS inside,
                        event_at >= $3 AND event_at < $4
                        AND (state IN ('ready', 'sending', 'unknown') AND greatest(sealed_at, requeued_at) > $5
                             OR state = 'delivered' AND coalesce(settled_at > $5, false)) AS young,
                        event_at >= $3 AND event_at < $4 AND state IN ('rejected', 'quarantined') AS refused
                   FROM usage_batch
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
    Ok(PeriodAtHome {
        sealed: told - carried_in + carried_out,
        carried_in,
        carried_out,
        young: Signed { more: young_more, less: young_less },
        refused: Signed { more: refused_more, less: refused_less },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_the_parts_of_its_first_and_last_minutes() {
        let sum = |counted, edges| at_edges(Aggregation::Sum, counted, edges);
        assert_eq!(sum(10, (None, None, None)), 10);
        assert_eq!(sum(10, (Some(4), None, Some(1))), 7);
        let last = |counted, edges| at_edges(Aggregation::Last, counted, edges);
        assert_eq!(last(5, (None, Some(5), None)), 5);
        assert_eq!(last(5, (Some(3), Some(5), Some(9))), 9, "the newest is in the last minute");
        assert_eq!(last(3, (Some(3), None, None)), 0, "from before the period");
    }
}
