//! L1 and L2: our own books. No question to Stripe.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::SETTLED;
use super::class::{Class, Level};
use super::runs::{Found, Span};
use crate::billing::ledger::window::{PATIENCE, WINDOW};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Differences of one level of one tenant that are written down. Where there are more, the first ones say what is wrong.
const MOST: i64 = 500;
/// After the last window of a period may be sealed: what servers count in memory for a minute has come by then, too.
const MARGIN: TimeDelta = TimeDelta::minutes(1);

/// L1: each batch is what its facts come to, and each fact that says it is sealed is in a batch.
pub async fn facts_and_seals(conn: &mut PgConnection, tenant: TenantId, span: Span) -> Result<Vec<Found>> {
    let rows: Vec<(String, String, i64, i64, i64, i32)> = sqlx::query_as(
        "SELECT meter, identifier, facts_come_to, quantity, facts_there, facts
           FROM (SELECT b.meter, b.identifier, b.quantity, b.facts, count(e.id) AS facts_there,
                        CASE max(m.aggregation) WHEN 'sum' THEN coalesce(sum(e.quantity), 0)::bigint
                        -- Of facts of one moment any may be the last.
                        ELSE coalesce(max(e.quantity) FILTER (WHERE e.quantity = b.quantity AND e.occurred_at = newest.at),
                                      max(e.quantity) FILTER (WHERE e.occurred_at = newest.at), 0) END AS facts_come_to
                   FROM usage_batch b JOIN meter m ON m.id = b.meter
                   LEFT JOIN usage_event e ON e.batch = b.id
                   LEFT JOIN LATERAL (SELECT max(occurred_at) AS at FROM usage_event WHERE batch = b.id) newest ON true
                  WHERE b.tenant = $1 AND b.window_start >= $2 AND b.window_start < $3
                  GROUP BY b.id) AS each
          WHERE facts_come_to <> quantity OR facts_there <> facts
          ORDER BY identifier LIMIT $4",
    )
    .bind(tenant)
    .bind(span.from)
    .bind(span.to)
    .bind(MOST)
    .fetch_all(&mut *conn)
    .await?;
    let batch = |(meter, subject, ours, theirs, there, said)| {
        let detail = format!("{there} facts come to {ours}; sealed were {said} as {theirs}");
        Found {
            level: Level::L1,
            meter: Some(meter),
            subject,
            ours,
            theirs,
            class: Class::LedgerMismatch,
            detail,
        }
    };
    let mut found: Vec<Found> = rows.into_iter().map(batch).collect();
    let lost: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT e.meter, sum(e.quantity)::bigint, count(*) FROM usage_event e
          WHERE e.tenant = $1 AND e.occurred_at >= $2 AND e.occurred_at < $3 AND e.batch IS NOT NULL
            AND NOT EXISTS (SELECT FROM usage_batch b WHERE b.id = e.batch)
          GROUP BY e.meter ORDER BY e.meter",
    )
    .bind(tenant)
    .bind(span.from)
    .bind(span.to)
    .fetch_all(conn)
    .await?;
    found.extend(lost.into_iter().map(|(meter, ours, facts)| Found {
        level: Level::L1,
        subject: format!("facts:{tenant}:{meter}"),
        meter: Some(meter),
        ours,
        theirs: 0,
        class: Class::LedgerMismatch,
        detail: format!("{facts} facts name a batch that there is not"),
    }));
    Ok(found)
}

/// Meter, identifier, quantity, state, since when it waits, why.
type Undelivered = (String, String, i64, String, DateTime<Utc>, Option<String>);

/// L2: what is sealed was delivered. Each batch that was not is named; so are facts that nobody seals. With `older`, whatever
/// waits from before that time too.
pub async fn seals_and_deliveries(
    conn: &mut PgConnection,
    tenant: TenantId,
    span: Span,
    older: bool,
    now: DateTime<Utc>,
) -> Result<Vec<Found>> {
    let from = if older { DateTime::UNIX_EPOCH } else { span.from };
    let rows: Vec<Undelivered> = sqlx::query_as(
        "SELECT meter, identifier, quantity, state, greatest(sealed_at, requeued_at), error FROM usage_batch
          WHERE tenant = $1 AND window_start >= $2 AND window_start < $3 AND state NOT IN ('delivered', 'void')
          ORDER BY sealed_at LIMIT $4",
    )
    .bind(tenant)
    .bind(from)
    .bind(span.to)
    .bind(MOST)
    .fetch_all(&mut *conn)
    .await?;
    let batch =
        |(meter, subject, ours, state, since, error): (String, String, i64, String, DateTime<Utc>, _)| {
            let class = match state.as_str() {
                "rejected" | "quarantined" => Class::Rejected,
                _ if since > now - SETTLED => Class::Pending,
                _ => Class::MissingAtStripe,
            };
            let detail = match error {
                Some(error) => format!("{state}: {error}"),
                None => state,
            };
            Found { level: Level::L2, meter: Some(meter), subject, ours, theirs: 0, class, detail }
        };
    let mut found: Vec<Found> = rows.into_iter().map(batch).collect();
    let open: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT meter, sum(quantity)::bigint, count(*) FROM usage_event
          WHERE tenant = $1 AND occurred_at >= $2 AND occurred_at < $3 AND batch IS NULL AND quarantined IS NULL
            AND received_at < $4
          GROUP BY meter ORDER BY meter",
    )
    .bind(tenant)
    .bind(from)
    .bind(span.to)
    .bind(now - SETTLED)
    .fetch_all(conn)
    .await?;
    found.extend(open.into_iter().map(|(meter, ours, facts)| Found {
        level: Level::L2,
        subject: format!("open:{tenant}:{meter}"),
        meter: Some(meter),
        ours,
        theirs: 0,
        class: Class::MissingAtStripe,
        detail: format!("{facts} facts wait to be sealed for more than two hours: is a worker running?"),
    }));
    Ok(found)
}

/// How long after the end of a period its last window may be sealed and told, at the earliest.
pub fn in_after() -> TimeDelta {
    TimeDelta::seconds(WINDOW) + TimeDelta::seconds(PATIENCE) + MARGIN
}

/// At period close: what may still come for the period of a draft. Nothing of it is wrong; the draft waits for it.
///
/// A period is in when its last window may be sealed, its tenant's shard was found empty since, and no fact of it is open.
pub async fn not_in_yet(
    conn: &mut PgConnection,
    tenant: TenantId,
    invoice: &str,
    now: DateTime<Utc>,
) -> Result<Vec<Found>> {
    let end: Option<DateTime<Utc>> = sqlx::query_scalar(
        "SELECT max((line->>'period_end')::timestamptz) FROM invoice, jsonb_array_elements(lines) AS line
          WHERE id = $1 AND line->>'meter' IS NOT NULL",
    )
    .bind(invoice)
    .fetch_one(&mut *conn)
    .await?;
    let Some(end) = end else { return Ok(Vec::new()) };
    let waits = |subject: String, meter: Option<String>, ours: i64, detail: String| Found {
        level: Level::L2,
        meter,
        subject,
        ours,
        theirs: 0,
        class: Class::Pending,
        detail,
    };
    let mut found = Vec::new();
    let patience = TimeDelta::seconds(PATIENCE);
    let in_by = end + in_after();
    if now < in_by {
        let detail = format!("the period's last window is sealed and told by {in_by} at the earliest");
        found.push(waits(format!("window:{invoice}"), None, 0, detail));
    }
    let behind: Vec<(String, Option<DateTime<Utc>>)> = sqlx::query_as(
        "SELECT s.name, r.emptied_at FROM placement p JOIN shard s ON s.id = p.shard
           LEFT JOIN usage_relay r ON r.shard = p.shard
          WHERE p.tenant = $1 AND (r.emptied_at IS NULL OR r.emptied_at < $2)",
    )
    .bind(tenant)
    // A transaction that began in the period may end a little later.
    .bind(end + patience)
    .fetch_all(&mut *conn)
    .await?;
    found.extend(behind.into_iter().map(|(shard, at)| {
        let since = at.map_or_else(|| "never".to_owned(), |at| format!("last at {at}"));
        let detail = format!("the outbox of the shard {shard} was emptied {since}: facts may wait there");
        waits(format!("outbox:{shard}:{tenant}"), None, 0, detail)
    }));
    let open: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT meter, sum(quantity)::bigint, count(*) FROM usage_event
          WHERE tenant = $1 AND occurred_at < $2 AND batch IS NULL AND quarantined IS NULL
          GROUP BY meter ORDER BY meter",
    )
    .bind(tenant)
    .bind(end)
    .fetch_all(conn)
    .await?;
    found.extend(open.into_iter().map(|(meter, ours, facts)| {
        let detail = format!("{facts} facts of the period are not sealed");
        waits(format!("unsealed:{tenant}:{meter}"), Some(meter), ours, detail)
    }));
    Ok(found)
}
