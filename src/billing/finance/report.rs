//! The report: what each tenant used, what Stripe was told, what was invoiced and paid; a row for each tenant, meter and
//! period. It asks nobody: what Stripe counted is as of the last reconciliation.

use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::csv::Column;
use super::money::major;
use crate::billing::reconcile::{Class, SETTLED, duties, midnight};
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::kernel::ids::TenantId;
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result};

/// One row. Money is in minor units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReportRow {
    /// The first day and the one after the last, in UTC: `2026-11-01/2026-12-01`.
    pub period: String,
    /// Its slug.
    pub tenant: String,
    pub customer: Option<String>,
    pub subscription: Option<String>,
    /// None: what the plan costs however much is used, and everything else that is no meter's.
    pub meter: Option<String>,
    pub unit: Option<String>,
    pub ledger_qty: i64,
    pub delivered_qty: i64,
    /// None when Stripe was never asked.
    pub stripe_qty: Option<i64>,
    pub invoiced_qty: Option<i64>,
    /// The last of Stripe's sides that is known, less the ledger.
    pub diff: i64,
    pub diff_class: Option<Class>,
    pub unit_price_minor: Option<i64>,
    pub amount_minor: Option<i64>,
    pub currency: Option<String>,
    pub invoice: Option<String>,
    pub invoice_status: Option<String>,
    pub paid_at: Option<DateTime<Utc>>,
    /// Of the whole invoice, in its first row only, so that a column can be added up.
    pub credit_notes_minor: Option<i64>,
    /// As for credit notes.
    pub tax_minor: Option<i64>,
}

/// The columns of the file. They are the row's fields; money is in major units there, and is called so.
pub const COLUMNS: &[Column<ReportRow>] = &[
    ("period", |row| row.period.clone()),
    ("tenant", |row| row.tenant.clone()),
    ("customer", |row| text(&row.customer)),
    ("subscription", |row| text(&row.subscription)),
    ("meter", |row| text(&row.meter)),
    ("unit", |row| text(&row.unit)),
    ("ledger_qty", |row| row.ledger_qty.to_string()),
    ("delivered_qty", |row| row.delivered_qty.to_string()),
    ("stripe_qty", |row| number(row.stripe_qty)),
    ("invoiced_qty", |row| number(row.invoiced_qty)),
    ("diff", |row| row.diff.to_string()),
    ("diff_class", |row| row.diff_class.map(Class::as_str).unwrap_or_default().to_owned()),
    ("unit_price_major", |row| row.money(row.unit_price_minor)),
    ("amount_major", |row| row.money(row.amount_minor)),
    ("currency", |row| text(&row.currency).to_uppercase()),
    ("invoice", |row| text(&row.invoice)),
    ("invoice_status", |row| text(&row.invoice_status)),
    ("paid_at", |row| {
        row.paid_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default()
    }),
    ("credit_notes_major", |row| row.money(row.credit_notes_minor)),
    ("tax_major", |row| row.money(row.tax_minor)),
];

fn text(text: &Option<String>) -> String {
    text.clone().unwrap_or_default()
}

fn number(number: Option<i64>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

impl ReportRow {
    fn money(&self, minor: Option<i64>) -> String {
        let currency = self.currency.as_deref().unwrap_or_default();
        minor.map(|minor| major(minor, currency)).unwrap_or_default()
    }
}

/// What to report. A page holds the rows of up to `limit` tenants.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportFilter {
    /// Only this tenant, by slug or id.
    pub tenant: Option<String>,
    /// The first day, in UTC; that of this month when left out. Periods that overlap are meant.
    pub from: Option<NaiveDate>,
    /// The last day; that of the same month when left out.
    pub to: Option<NaiveDate>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// From the first day to the one after the last.
pub(super) fn days(
    from: Option<NaiveDate>,
    to: Option<NaiveDate>,
    now: DateTime<Utc>,
) -> Result<(DateTime<Utc>, DateTime<Utc>)> {
    use chrono::{Datelike, Months};
    let first_of = |day: NaiveDate| day.with_day(1).unwrap_or(day);
    let from = from.unwrap_or_else(|| first_of(to.unwrap_or_else(|| now.date_naive())));
    let until = match to {
        Some(day) => day.succ_opt(),
        None => first_of(from).checked_add_months(Months::new(1)),
    };
    match until {
        Some(until) if from < until && until - from <= TimeDelta::days(3_700) => {
            Ok((midnight(from), midnight(until)))
        }
        _ => Err(Error::field("from", "is a day, not after the last day, and at most ten years before it")),
    }
}

/// What a row is about, before its quantities are known.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Head {
    tenant: TenantId,
    slug: String,
    customer: Option<String>,
    subscription: Option<String>,
    meter: Option<String>,
    unit: Option<String>,
    from_at: DateTime<Utc>,
    to_at: DateTime<Utc>,
    invoiced: Option<i64>,
    unit_minor: Option<i64>,
    amount_minor: Option<i64>,
    currency: Option<String>,
    invoice: Option<String>,
    status: Option<String>,
    paid_at: Option<DateTime<Utc>>,
    credited_minor: Option<i64>,
    tax_minor: Option<i64>,
}

/// The quantities of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Quantities {
    pub ledger: i64,
    pub delivered: i64,
    pub stripe: Option<i64>,
    /// Not sealed, on its way, or too lately delivered to be counted when Stripe was asked.
    pub under_way: i64,
    /// Refused, waiting for a person, or voided by one.
    pub refused: i64,
    /// Told for this period and used before it, less what was used in it and told later.
    pub carried: i64,
    /// Less than nothing is left, and nothing is owed for it any more, or never was.
    #[sqlx(default)]
    pub over: bool,
}

/// The report.
///
/// # Errors
/// `invalid_fields`; `tenant_not_found`.
pub async fn report(
    conn: &mut PgConnection,
    livemode: bool,
    filter: &ReportFilter,
    now: DateTime<Utc>,
) -> Result<Page<ReportRow>> {
    let limit = page::limit(filter.limit)?;
    let (from, to) = days(filter.from, filter.to, now)?;
    let after: Option<TenantId> = filter.cursor.as_deref().map(page::decode).transpose()?;
    let one = match filter.tenant.as_deref() {
        Some(name) => {
            let tenant: TenantRef = name.parse().unwrap_or_else(|never| match never {});
            Some(tenant_find(&mut *conn, &tenant).await?.id)
        }
        None => None,
    };
    let tenants: Vec<TenantId> = sqlx::query_scalar(
        "SELECT t.id FROM tenant t WHERE ($1::uuid IS NULL OR t.id = $1) AND ($2::uuid IS NULL OR t.id > $2)
            AND (EXISTS (SELECT FROM invoice i WHERE i.tenant = t.id)
              OR EXISTS (SELECT FROM subscription s WHERE s.tenant = t.id)
              OR EXISTS (SELECT FROM usage_event e WHERE e.tenant = t.id AND e.occurred_at >= $3 AND e.occurred_at < $4))
          ORDER BY t.id LIMIT $5",
    )
    .bind(one)
    .bind(after)
    .bind(from)
    .bind(to)
    .bind(i64::from(limit) + 1)
    .fetch_all(&mut *conn)
    .await?;
    let tenants = Page::build(tenants, limit, |tenant| *tenant);
    let heads = heads(&mut *conn, livemode, &tenants.items, (from, to)).await?;
    let quantities = quantities(&mut *conn, livemode, &heads).await?;
    let mut rows: Vec<ReportRow> = Vec::with_capacity(heads.len());
    let mut seen = None;
    for (head, mut counted) in heads.into_iter().zip(quantities) {
        if let (Some(invoice), Some(meter), Some(0)) = (&head.invoice, &head.meter, head.invoiced) {
            let less = (counted.ledger + counted.carried).min(0).saturating_neg();
            counted.over =
                less > 0 && duties::is_over(&mut *conn, invoice, meter, head.from_at, less).await?;
        }
        let first = head.invoice.is_some() && head.invoice != seen;
        seen.clone_from(&head.invoice);
        rows.push(row(head, counted, first));
    }
    Ok(Page { items: rows, next_cursor: tenants.next_cursor })
}

/// The rows of some tenants: lines of invoices, then what runs and is not invoiced yet, then use that is on no invoice: of a
/// trial, and of tenants without a subscription.
async fn heads(
    conn: &mut PgConnection,
    livemode: bool,
    tenants: &[TenantId],
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Vec<Head>> {
    Ok(sqlx::query_as(
        "WITH lines AS (
            SELECT i.tenant, i.subscription, l.meter, l.period_start AS from_at, l.period_end AS to_at,
                   sum(l.quantity)::bigint AS invoiced, max(l.unit_minor) AS unit_minor, sum(l.amount_minor)::bigint AS amount_minor,
                   i.currency, i.id AS invoice, i.status, i.paid_at, i.credited_minor, i.tax_minor, i.created_at
              FROM invoice i
              CROSS JOIN LATERAL jsonb_to_recordset(i.lines) AS l(meter text, quantity bigint, unit_minor bigint,
                    amount_minor bigint, period_start timestamptz, period_end timestamptz)
             WHERE i.tenant = ANY($1) AND l.period_end > $2 AND l.period_start < $3
             GROUP BY i.id, l.meter, l.period_start, l.period_end),
         running AS (
            SELECT s.tenant, s.id AS subscription, m.id AS meter, s.period_start AS from_at, s.period_end AS to_at,
                   (said ->> 'unit_price_minor')::bigint AS unit_minor, p.price ->> 'currency' AS currency
              FROM subscription s JOIN plan p ON p.id = s.plan CROSS JOIN meter m
              LEFT JOIN LATERAL (SELECT said FROM jsonb_array_elements(p.meters) AS said WHERE said ->> 'meter' = m.id) priced ON true
             WHERE s.tenant = ANY($1) AND s.period_end > $2 AND s.period_start < $3
               AND s.status NOT IN ('incomplete', 'incomplete_expired')
               AND NOT EXISTS (SELECT FROM lines l WHERE l.tenant = s.tenant AND l.meter = m.id
                                  AND l.from_at < s.period_end AND l.to_at > s.period_start)
               AND (said IS NOT NULL OR EXISTS (SELECT FROM usage_event e WHERE e.tenant = s.tenant AND e.meter = m.id
                                                   AND e.occurred_at >= s.period_start AND e.occurred_at < s.period_end))),
         covered AS (
            SELECT tenant, meter, from_at, to_at FROM lines WHERE meter IS NOT NULL
             UNION ALL SELECT tenant, meter, from_at, to_at FROM running),
         gap AS (
            SELECT u.tenant, u.meter,
                   unnest(tstzmultirange(tstzrange($2, $3))
                          - coalesce(range_agg(tstzrange(c.from_at, c.to_at)) FILTER (WHERE c.tenant IS NOT NULL), '{}')) AS span
              FROM (SELECT DISTINCT e.tenant, e.meter FROM usage_event e
                     WHERE e.tenant = ANY($1) AND e.occurred_at >= $2 AND e.occurred_at < $3) AS u
              LEFT JOIN covered c ON c.tenant = u.tenant AND c.meter = u.meter
             GROUP BY u.tenant, u.meter),
         alone AS (
            SELECT g.tenant, g.meter, lower(g.span) AS from_at, upper(g.span) AS to_at FROM gap g
             WHERE EXISTS (SELECT FROM usage_event e WHERE e.tenant = g.tenant AND e.meter = g.meter
                              AND e.occurred_at >= lower(g.span) AND e.occurred_at < upper(g.span)))
         SELECT r.tenant, t.slug, a.customer, r.subscription, r.meter, m.unit, r.from_at, r.to_at, r.invoiced, r.unit_minor,
                r.amount_minor, r.currency, r.invoice, r.status, r.paid_at, r.credited_minor, r.tax_minor
           FROM (SELECT tenant, subscription, meter, from_at, to_at, invoiced, unit_minor, amount_minor, currency, invoice, status,
                        paid_at, credited_minor, tax_minor, created_at FROM lines
                 UNION ALL
                 SELECT tenant, subscription, meter, from_at, to_at, NULL, unit_minor, NULL, currency, NULL, NULL, NULL, NULL, NULL,
                        NULL FROM running
                 UNION ALL
                 SELECT tenant, NULL, meter, from_at, to_at, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM alone) AS r
           JOIN tenant t ON t.id = r.tenant
           LEFT JOIN billing_account a ON a.tenant = r.tenant AND a.livemode = $4
           LEFT JOIN meter m ON m.id = r.meter
          ORDER BY r.tenant, r.created_at NULLS LAST, r.invoice NULLS LAST, r.meter NULLS FIRST, r.from_at",
    )
    .bind(tenants)
    .bind(from)
    .bind(to)
    .bind(livemode)
    .fetch_all(conn)
    .await?)
}

/// The quantities of each row, in the rows' order. Rows without a meter have none.
async fn quantities(conn: &mut PgConnection, livemode: bool, heads: &[Head]) -> Result<Vec<Quantities>> {
    let mut all = Vec::with_capacity(heads.len());
    for some in heads.chunks(500) {
        let tenants: Vec<TenantId> = some.iter().map(|head| head.tenant).collect();
        let meters: Vec<Option<String>> = some.iter().map(|head| head.meter.clone()).collect();
        let from: Vec<DateTime<Utc>> = some.iter().map(|head| head.from_at).collect();
        let to: Vec<DateTime<Utc>> = some.iter().map(|head| head.to_at).collect();
        let rows: Vec<Quantities> = sqlx::query_as(
            "SELECT coalesce(l.quantity, 0) AS ledger, coalesce(b.delivered, 0) AS delivered, s.counted AS stripe,
                    coalesce(l.open, 0) + coalesce(b.under_way, 0) AS under_way, coalesce(b.refused, 0) AS refused,
                    coalesce(b.carried, 0) AS carried
               FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[])
                    WITH ORDINALITY AS a(tenant, meter, from_at, to_at, place)
               LEFT JOIN meter m ON m.id = a.meter
               LEFT JOIN LATERAL (
                    SELECT CASE m.aggregation WHEN 'sum' THEN sum(e.quantity)::bigint
                           ELSE (array_agg(e.quantity ORDER BY e.occurred_at DESC, e.id DESC))[1] END AS quantity,
                           CASE m.aggregation WHEN 'sum' THEN (sum(e.quantity) FILTER (WHERE e.batch IS NULL))::bigint
                           ELSE (array_agg(e.quantity ORDER BY e.occurred_at DESC, e.id DESC) FILTER (WHERE e.batch IS NULL))[1]
                           END AS open
                      FROM usage_event e
                     WHERE e.tenant = a.tenant AND e.meter = a.meter AND e.occurred_at >= a.from_at AND e.occurred_at < a.to_at
                       AND e.quarantined IS NULL) l ON true
               LEFT JOIN LATERAL (
                    -- Stripe's days. Of one in which the period begins or ends, what we told for outside of the period does not
                    -- belong to it.
                    SELECT CASE m.aggregation WHEN 'sum' THEN sum(r.value)::bigint - coalesce((
                                SELECT sum(o.quantity) FROM usage_batch o
                                 WHERE o.tenant = a.tenant AND o.meter = a.meter AND o.state = 'delivered'
                                   AND o.settled_at <= max(r.asked_at)
                                   AND (o.event_at >= date_trunc('day', a.from_at, 'UTC') AND o.event_at < a.from_at
                                     OR o.event_at >= a.to_at AND o.event_at < date_trunc('day', a.to_at, 'UTC') + interval '1 day'
                                        AND a.to_at > date_trunc('day', a.to_at, 'UTC'))), 0)::bigint
                           ELSE (array_agg(r.value ORDER BY r.day DESC))[1] END AS counted, max(r.asked_at) AS asked_at
                      FROM reconcile_summary r
                     WHERE r.livemode = $5 AND r.tenant = a.tenant AND r.meter = a.meter
                       AND r.day >= (a.from_at AT TIME ZONE 'UTC')::date AND (r.day < (a.to_at AT TIME ZONE 'UTC')::date
                         OR m.aggregation = 'sum' AND a.to_at > date_trunc('day', a.to_at, 'UTC')
                            AND r.day = (a.to_at AT TIME ZONE 'UTC')::date)) s ON true
               LEFT JOIN LATERAL (
                    SELECT CASE m.aggregation
                           WHEN 'sum' THEN (sum(u.quantity) FILTER (WHERE u.inside AND u.state = 'delivered'))::bigint
                           ELSE (array_agg(u.quantity ORDER BY u.event_at DESC, u.seq DESC)
                                 FILTER (WHERE u.inside AND u.state = 'delivered'))[1] END AS delivered,
                           (sum(abs(u.quantity)) FILTER (WHERE u.inside AND (u.state IN ('ready', 'sending', 'unknown')
                                OR u.state = 'delivered' AND (s.asked_at IS NULL OR u.settled_at > s.asked_at - make_interval(secs => $6))))
                           )::bigint AS under_way,
                           (sum(abs(u.quantity)) FILTER (WHERE u.inside AND (u.state IN ('rejected', 'quarantined')
                                OR u.state = 'void' AND m.aggregation = 'sum')))::bigint AS refused,
                           (coalesce(sum(u.quantity) FILTER (WHERE u.carried_forward AND u.inside AND u.window_start < a.from_at), 0)
                            - coalesce(sum(u.quantity) FILTER (WHERE u.carried_forward AND NOT u.inside), 0))::bigint AS carried
                      FROM (SELECT quantity, state, event_at, window_start, seq, settled_at, carried_forward,
                                   event_at >= a.from_at AND event_at < a.to_at AS inside FROM usage_batch
                             WHERE tenant = a.tenant AND meter = a.meter
                               AND (event_at >= a.from_at AND event_at < a.to_at
                                 OR window_start >= a.from_at AND window_start < a.to_at)) AS u) b ON true
              ORDER BY a.place",
        )
        .bind(tenants)
        .bind(meters)
        .bind(from)
        .bind(to)
        .bind(livemode)
        .bind(SETTLED.num_seconds() as f64)
        .fetch_all(&mut *conn)
        .await?;
        all.extend(rows);
    }
    Ok(all)
}

fn row(head: Head, counted: Quantities, first: bool) -> ReportRow {
    let day = |at: DateTime<Utc>| at.date_naive();
    let is_meter = head.meter.is_some();
    let (diff, diff_class) = if is_meter { compare(&counted, head.invoiced) } else { (0, None) };
    ReportRow {
        period: format!("{}/{}", day(head.from_at), day(head.to_at)),
        tenant: head.slug,
        customer: head.customer,
        subscription: head.subscription,
        meter: head.meter,
        unit: head.unit,
        ledger_qty: counted.ledger,
        delivered_qty: counted.delivered,
        stripe_qty: counted.stripe,
        invoiced_qty: head.invoiced,
        diff,
        diff_class,
        unit_price_minor: head.unit_minor,
        amount_minor: head.amount_minor,
        currency: head.currency,
        invoice: head.invoice,
        invoice_status: head.status,
        paid_at: head.paid_at,
        credit_notes_minor: head.credited_minor.filter(|_| first),
        tax_minor: head.tax_minor.filter(|_| first),
    }
}

/// The difference of a row, and its name. Pure.
pub(super) fn compare(counted: &Quantities, invoiced: Option<i64>) -> (i64, Option<Class>) {
    let Quantities { ledger, delivered, stripe, under_way, refused, carried, over } = *counted;
    let theirs = invoiced.or(stripe).unwrap_or(delivered);
    let diff = theirs - ledger;
    let short = ledger + carried - theirs;
    // No negative use is billed: what is less than nothing is owed, and shown where all else is even, too.
    if invoiced == Some(0) && ledger + carried < 0 {
        return (diff, Some(if over { Class::Settled } else { Class::CreditDue }));
    }
    let class = match diff {
        0 => return (0, None),
        _ if theirs == (ledger + carried).max(0) && carried != 0 => Class::CarriedForward,
        _ if matches!((invoiced, stripe), (Some(said), Some(counted)) if said != counted.max(0)) => {
            Class::ManualStripeEdit
        }
        _ if short < 0 => Class::ExtraAtStripe,
        _ if short <= under_way && invoiced.is_none() => Class::Pending,
        _ if short <= under_way + refused && refused > 0 => Class::Rejected,
        _ => Class::MissingAtStripe,
    };
    (diff, Some(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_unless_days_are_named() {
        let now = "2026-11-21T09:00:00Z".parse().unwrap();
        let day = |text: &str| Some(text.parse().unwrap());
        let of = |from, to| days(from, to, now).map(|(from, to)| (from.date_naive(), to.date_naive()));
        let pair = |from: &str, to: &str| (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(of(None, None).unwrap(), pair("2026-11-01", "2026-12-01"));
        assert_eq!(of(day("2026-09-01"), None).unwrap(), pair("2026-09-01", "2026-10-01"));
        assert_eq!(of(None, day("2026-09-14")).unwrap(), pair("2026-09-01", "2026-09-15"));
        assert_eq!(of(day("2026-09-14"), day("2026-09-14")).unwrap(), pair("2026-09-14", "2026-09-15"));
        assert!(of(day("2026-09-15"), day("2026-09-14")).is_err());
    }

    #[test]
    fn a_row_s_difference_has_a_name() {
        let all = Quantities { ledger: 10, delivered: 10, stripe: Some(10), ..Quantities::default() };
        assert_eq!(compare(&all, None), (0, None));
        assert_eq!(compare(&all, Some(10)), (0, None));
        assert_eq!(compare(&all, Some(12)), (2, Some(Class::ManualStripeEdit)));
        let under_way = Quantities { delivered: 7, stripe: None, under_way: 3, ..all };
        assert_eq!(compare(&under_way, None), (-3, Some(Class::Pending)));
        let refused = Quantities { delivered: 7, stripe: Some(7), refused: 3, ..all };
        assert_eq!(compare(&refused, None), (-3, Some(Class::Rejected)));
        let missing = Quantities { stripe: Some(7), ..all };
        assert_eq!(compare(&missing, None), (-3, Some(Class::MissingAtStripe)));
        assert_eq!(compare(&missing, Some(7)), (-3, Some(Class::MissingAtStripe)));
        assert_eq!(compare(&Quantities { stripe: Some(11), ..all }, None), (1, Some(Class::ExtraAtStripe)));
        let late = Quantities { carried: -2, stripe: Some(8), ..all };
        assert_eq!(compare(&late, Some(8)), (-2, Some(Class::CarriedForward)));
        let negative = Quantities { ledger: -2, delivered: -2, stripe: Some(-2), ..all };
        assert_eq!(compare(&negative, Some(0)), (2, Some(Class::CreditDue)));
        assert_eq!(
            compare(&Quantities { over: true, ..negative }, Some(0)),
            (2, Some(Class::Settled)),
            "credited, or decided"
        );
    }

    /// Guards against: with what is left cut at 0 first, what is owed to a customer is called "on the next invoice".
    #[test]
    fn less_than_nothing_is_owed_and_not_on_the_next_invoice() {
        // Four were used, and twelve of the period before were taken away: Stripe bills 0.
        let taken =
            Quantities { ledger: 4, delivered: -8, stripe: Some(-8), carried: -12, ..Quantities::default() };
        assert_eq!(compare(&taken, Some(0)), (-4, Some(Class::CreditDue)));
        assert_eq!(compare(&Quantities { over: true, ..taken }, Some(0)), (-4, Some(Class::Settled)));
        let unused = Quantities { ledger: 0, carried: -8, ..taken };
        assert_eq!(
            compare(&unused, Some(0)),
            (0, Some(Class::CreditDue)),
            "nothing was used, and eight are owed"
        );
        // As much was taken away as was used: nothing is left, and nothing is owed.
        let even = Quantities { carried: -4, stripe: Some(0), ..taken };
        assert_eq!(compare(&even, Some(0)), (-4, Some(Class::CarriedForward)));
    }

    #[test]
    fn a_row_s_money_is_in_major_units_and_called_so() {
        let head = Head {
            tenant: TenantId::new(),
            slug: "acme".to_owned(),
            customer: None,
            subscription: None,
            meter: None,
            unit: None,
            from_at: midnight("2026-11-01".parse().unwrap()),
            to_at: midnight("2026-12-01".parse().unwrap()),
            invoiced: Some(1),
            unit_minor: Some(4900),
            amount_minor: Some(4900),
            currency: Some("eur".to_owned()),
            invoice: Some("in_1".to_owned()),
            status: Some("paid".to_owned()),
            paid_at: None,
            credited_minor: Some(0),
            tax_minor: Some(931),
        };
        let cell = |row: &ReportRow, wanted: &str| {
            let (_, cell) = COLUMNS.iter().find(|(title, _)| *title == wanted).expect("such a column");
            cell(row)
        };
        let first = row(head.clone(), Quantities::default(), true);
        for (title, money) in
            [("unit_price_major", "49.00"), ("amount_major", "49.00"), ("tax_major", "9.31")]
        {
            assert_eq!(cell(&first, title), money, "{title}");
        }
        assert_eq!(cell(&row(head, Quantities::default(), false), "tax_major"), "", "once per invoice");
        let fields = serde_json::to_value(sample()).unwrap();
        for (column, _) in COLUMNS {
            let field = column.replace("_major", "_minor");
            assert!(fields.get(&field).is_some(), "{column}: the API says the same");
        }
    }

    fn sample() -> ReportRow {
        let at = DateTime::UNIX_EPOCH;
        let head = Head {
            tenant: TenantId::new(),
            slug: String::new(),
            customer: None,
            subscription: None,
            meter: None,
            unit: None,
            from_at: at,
            to_at: at,
            invoiced: None,
            unit_minor: None,
            amount_minor: None,
            currency: None,
            invoice: None,
            status: None,
            paid_at: None,
            credited_minor: None,
            tax_minor: None,
        };
        row(head, Quantities::default(), false)
    }
}
