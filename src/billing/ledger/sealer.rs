//! Makes batches of facts, a minute after their window has ended. One sealer at a time: whoever finds another at it lets it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{FromRow, PgConnection};

use super::BatchId;
use super::finals::{DRAFT_FOR, is_final};
use super::meters::Aggregation;
use super::window::{self, Span, due_before, identifier, told_at};
use crate::billing::incidents;
use crate::control_plane::ControlPlane;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Windows of one tenant and meter that are sealed in one transaction.
const AT_ONCE: i64 = 500;

/// The kind of incident for a correction that came to nothing.
pub const CORRECTION_VOID: &str = "correction_void";

/// What was sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    pub batches: usize,
    pub facts: i64,
}

/// A window with facts that are not sealed.
#[derive(FromRow)]
struct Open {
    tenant: TenantId,
    meter: String,
    aggregation: Aggregation,
    window: DateTime<Utc>,
    /// The number of its newest batch; -1 when it has none.
    newest_seq: i32,
}

/// What billing knows of a tenant's periods.
#[derive(Default)]
struct Periods {
    boundaries: Vec<DateTime<Utc>>,
    /// Those whose invoice takes nothing more.
    finals: Vec<Span>,
}

/// A batch to be.
struct Part {
    id: BatchId,
    tenant: TenantId,
    meter: String,
    aggregation: Aggregation,
    window: DateTime<Utc>,
    span: Span,
    seq: i32,
    told_at: DateTime<Utc>,
    carried: bool,
}

/// Seals every window that is due.
pub async fn seal(cp: &ControlPlane) -> Result<Sealed> {
    let mut all = Sealed::default();
    loop {
        let (sealed, more) = seal_some(cp).await?;
        all = Sealed { batches: all.batches + sealed.batches, facts: all.facts + sealed.facts };
        // Windows that are due and cannot be sealed would be found again and again.
        if !more || sealed.batches == 0 {
            break;
        }
    }
    metrics::counter!("usage_batches_sealed_total").increment(all.batches as u64);
    metrics::counter!("usage_facts_sealed_total").increment(all.facts.unsigned_abs());
    Ok(all)
}

async fn seal_some(cp: &ControlPlane) -> Result<(Sealed, bool)> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let alone: bool =
        sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended('freehold.seal', 0))")
            .fetch_one(&mut *tx)
            .await?;
    if !alone {
        return Ok((Sealed::default(), false));
    }
    let open = open_windows(&mut tx, due_before(now)).await?;
    let more = i64::try_from(open.len()).unwrap_or(AT_ONCE) == AT_ONCE;
    if open.is_empty() {
        return Ok((Sealed::default(), false));
    }
    let periods = periods_of(&mut tx, &open, now).await?;
    let parts: Vec<Part> = open.iter().flat_map(|open| plan(open, periods.get(&open.tenant))).collect();
    let sealed = write(&mut tx, &parts, now).await?;
    tx.commit().await?;
    Ok((sealed, more))
}

async fn open_windows(conn: &mut PgConnection, before: DateTime<Utc>) -> Result<Vec<Open>> {
    Ok(sqlx::query_as(
        "SELECT o.tenant, o.meter, m.aggregation, o.window_start AS window,
                coalesce((SELECT max(b.seq) FROM usage_batch b
                           WHERE b.tenant = o.tenant AND b.meter = o.meter AND b.window_start = o.window_start), -1)
                    AS newest_seq
           FROM (SELECT DISTINCT tenant, meter, date_bin(interval '5 minutes', occurred_at, timestamptz 'epoch') AS window_start
                   FROM usage_event WHERE batch IS NULL AND quarantined IS NULL AND occurred_at < $1) AS o
           JOIN meter m ON m.id = o.meter
          ORDER BY o.window_start, o.tenant, o.meter LIMIT $2",
    )
    .bind(before)
    .bind(AT_ONCE)
    .fetch_all(conn)
    .await?)
}

async fn periods_of(
    conn: &mut PgConnection,
    open: &[Open],
    now: DateTime<Utc>,
) -> Result<HashMap<TenantId, Periods>> {
    let mut tenants: Vec<TenantId> = open.iter().map(|open| open.tenant).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let rows: Vec<(TenantId, DateTime<Utc>, DateTime<Utc>, bool)> = sqlx::query_as(concat!(
        "SELECT tenant, period_start, period_end, false FROM subscription WHERE tenant = ANY($1)
         UNION ALL
         SELECT i.tenant, i.period_start, i.period_end, ",
        is_final!("$2"),
        " FROM invoice i WHERE i.tenant = ANY($1) AND i.status <> 'void'",
    ))
    .bind(tenants)
    .bind(now - DRAFT_FOR)
    .fetch_all(conn)
    .await?;
    let mut periods: HashMap<TenantId, Periods> = HashMap::new();
    for (tenant, from, to, last) in rows {
        let periods = periods.entry(tenant).or_default();
        periods.boundaries.extend([from, to]);
        // The first invoice of a subscription is for no time at all.
        if last && from < to {
            periods.finals.push(Span { from, to });
        }
    }
    Ok(periods)
}

/// The batches that a window is to have. Pure.
fn plan(open: &Open, periods: Option<&Periods>) -> Vec<Part> {
    let none = Periods::default();
    let Periods { boundaries, finals } = periods.unwrap_or(&none);
    let parts = window::parts(open.window, boundaries);
    let seqs = open.newest_seq.saturating_add(1)..;
    parts
        .into_iter()
        .zip(seqs)
        .map(|(span, seq)| {
            let (told_at, carried) = told_at(span, finals, open.aggregation, seq);
            Part {
                id: BatchId::new(),
                tenant: open.tenant,
                meter: open.meter.clone(),
                aggregation: open.aggregation,
                window: open.window,
                span,
                seq,
                told_at,
                carried,
            }
        })
        .collect()
}

/// Marks the facts and writes their batches, in one statement: what is counted is what was marked. A part without facts
/// makes no batch.
///
/// Where the newest counts, a batch that is not the newest of its part tells nothing and is void; so is one that comes after
/// its period's invoice, since it says nothing of the next. Of facts of one moment the one that was heard of last is the
/// newest: a correction is made for the moment of the fact that it corrects.
async fn write(conn: &mut PgConnection, parts: &[Part], now: DateTime<Utc>) -> Result<Sealed> {
    let (Some(least), Some(most)) =
        (parts.iter().map(|part| part.span.from).min(), parts.iter().map(|part| part.span.to).max())
    else {
        return Ok(Sealed::default());
    };
    let identifiers: Vec<String> =
        parts.iter().map(|part| identifier(part.tenant, &part.meter, part.window, part.seq)).collect();
    let times = |of: fn(&Part) -> DateTime<Utc>| parts.iter().map(of).collect::<Vec<_>>();
    let written: Vec<(BatchId, i32, bool)> = sqlx::query_as(
        "WITH part AS (
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                                  $7::timestamptz[], $8::int4[], $9::text[], $10::timestamptz[], $11::bool[])
                        AS p(id, tenant, meter, aggregation, window_start, from_at, to_at, seq, identifier, told_at, carried)),
         taken AS (
             UPDATE usage_event e SET batch = part.id FROM part
              WHERE e.tenant = part.tenant AND e.meter = part.meter
                AND e.occurred_at >= part.from_at AND e.occurred_at < part.to_at
                AND e.occurred_at >= $12 AND e.occurred_at < $13
                AND e.batch IS NULL AND e.quarantined IS NULL
             RETURNING e.batch, e.quantity, e.occurred_at, e.id, part.aggregation),
         total AS (
             SELECT batch, count(*)::int4 AS facts, sum(quantity) AS sum, max(occurred_at) AS newest,
                    (array_agg(id ORDER BY occurred_at DESC, id DESC))[1] AS newest_id,
                    (array_agg(quantity ORDER BY occurred_at DESC, id DESC) FILTER (WHERE aggregation = 'last'))[1] AS last
               FROM taken GROUP BY batch),
         said AS (
             SELECT part.*, total.facts, coalesce(total.last, total.sum::int8) AS quantity,
                    part.aggregation = 'last' AND (part.carried OR EXISTS (
                        SELECT FROM usage_event o
                         WHERE o.tenant = part.tenant AND o.meter = part.meter
                           AND o.occurred_at >= total.newest AND o.occurred_at < part.to_at
                           AND (o.occurred_at, o.id) > (total.newest, total.newest_id) AND o.batch IS NOT NULL)) AS idle
               FROM part JOIN total ON total.batch = part.id)
         INSERT INTO usage_batch (id, tenant, meter, window_start, seq, quantity, facts, identifier, event_at, state, not_before,
                                  carried_forward, error, sealed_at, settled_at)
         SELECT id, tenant, meter, window_start, seq, quantity, facts, identifier, told_at,
                CASE WHEN idle THEN 'void' ELSE 'ready' END, $14, carried,
                CASE WHEN idle THEN 'a newer reading counts' END, $14, CASE WHEN idle THEN $14 END
           FROM said
         RETURNING id, facts, state = 'void'",
    )
    // Planned with the arrays before the planner's eyes.
    .persistent(false)
    .bind(parts.iter().map(|part| part.id).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| part.tenant).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| part.meter.as_str()).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| part.aggregation.as_str()).collect::<Vec<_>>())
    .bind(times(|part| part.window))
    .bind(times(|part| part.span.from))
    .bind(times(|part| part.span.to))
    .bind(parts.iter().map(|part| part.seq).collect::<Vec<_>>())
    .bind(identifiers)
    .bind(times(|part| part.told_at))
    .bind(parts.iter().map(|part| part.carried).collect::<Vec<_>>())
    .bind(least)
    .bind(most)
    .bind(now)
    .fetch_all(&mut *conn)
    .await?;
    let void: Vec<BatchId> = written.iter().filter(|(.., void)| *void).map(|(batch, ..)| *batch).collect();
    if !void.is_empty() {
        tell_of_corrections(conn, &void, now).await?;
    }
    Ok(Sealed { batches: written.len(), facts: written.iter().map(|(_, facts, _)| i64::from(*facts)).sum() })
}

/// Two people agreed to a correction, and it changes no bill: somebody has to know.
pub(in crate::billing) async fn tell_of_corrections(
    conn: &mut PgConnection,
    void: &[BatchId],
    now: DateTime<Utc>,
) -> Result<()> {
    let idle: Vec<(TenantId, String, String, i64, String, bool)> = sqlx::query_as(
        "SELECT e.tenant, e.meter, e.key, e.quantity, b.identifier, b.carried_forward
           FROM usage_event e JOIN usage_batch b ON b.id = e.batch
          WHERE e.batch = ANY($1) AND e.source = 'correction' ORDER BY e.key",
    )
    .bind(void)
    .fetch_all(&mut *conn)
    .await?;
    for (tenant, meter, correction, quantity, batch, carried) in idle {
        let why = if carried {
            "the invoice of its period is final, and a reading says nothing of the next: credit what is owed"
        } else {
            "a newer reading of the same window counts: correct that one"
        };
        let detail = json!({ "meter": meter, "quantity": quantity, "batch": batch, "why": why });
        incidents::open(&mut *conn, CORRECTION_VOID, &correction, Some(tenant), detail, now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::Duration;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Seals of one window, again and again as facts come late, never share a number, an identifier or a batch, and every
        /// moment of the window has exactly one part in each.
        ///
        /// Shown to fail: begin each seal's numbers at 0.
        #[test]
        fn every_seal_has_numbers_of_its_own(
            cuts in prop::collection::vec(0i64..300, 0..4),
            seals in 1usize..6,
            moment in 0i64..300,
        ) {
            let window = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
            let boundaries = cuts.into_iter().map(|cut| window + Duration::seconds(cut)).collect();
            let periods = Periods { boundaries, finals: Vec::new() };
            let (tenant, mut newest_seq, mut seen) = (TenantId::new(), -1, Vec::new());
            for _ in 0..seals {
                let open = Open {
                    tenant, meter: "tasks_created".to_owned(), aggregation: Aggregation::Sum, window, newest_seq,
                };
                let parts = plan(&open, Some(&periods));
                let moment = window + Duration::seconds(moment);
                prop_assert_eq!(parts.iter().filter(|part| part.span.holds(moment)).count(), 1);
                for part in parts {
                    prop_assert!(part.span.holds(part.told_at));
                    let name = identifier(tenant, &part.meter, window, part.seq);
                    prop_assert!(!seen.contains(&(part.seq, name.clone())) && part.seq > newest_seq);
                    seen.push((part.seq, name));
                }
                newest_seq = seen.iter().map(|(seq, _)| *seq).max().unwrap();
            }
        }
    }
}
