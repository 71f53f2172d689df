//! Where a line of an invoice comes from: line → batches → facts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::billing::ledger::{
    Aggregation, Batch, BatchId, FactId, FactLine, batch_by_identifier, facts_of_batch,
};
use crate::kernel::ids::TenantId;
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result, codes};

/// Facts of one explanation when nobody says, and the most.
const FACTS: u32 = 1_000;
const MOST_FACTS: u32 = 10_000;
/// Batches of one line that are shown.
const MOST_BATCHES: i64 = 10_000;

/// An invoice, walked down.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Explained {
    pub invoice: String,
    pub number: Option<String>,
    pub tenant: TenantId,
    pub status: String,
    pub currency: String,
    pub total_minor: i64,
    pub tax_minor: i64,
    pub lines: Vec<ExplainedLine>,
}

/// A line of it.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainedLine {
    pub id: String,
    pub description: String,
    /// None: it is no meter's, and comes from no batch.
    pub meter: Option<String>,
    pub quantity: i64,
    pub unit_price_minor: Option<i64>,
    pub amount_minor: i64,
    pub period_start: DateTime<Utc>,
    pub period_end: DateTime<Utc>,
    /// The other lines of the same meter and period: tiers make several, and their batches are the same. Shown with the
    /// first of them.
    pub together_with: Vec<String>,
    /// What the lines say together, and what the batches come to. Unlike, they are a difference of L4.
    pub lines_quantity: i64,
    pub batches_quantity: i64,
    pub batches: Vec<ExplainedBatch>,
    /// Batches that are not shown.
    pub batches_left_out: i64,
}

/// A batch: one meter event at Stripe.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainedBatch {
    #[serde(flatten)]
    pub batch: Batch,
    pub because_of: Vec<FactLine>,
    /// Facts that are not shown: ask for the batch.
    pub facts_left_out: i64,
}

/// How much to show.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExplainFilter {
    /// Only this line.
    pub line: Option<String>,
    /// Facts, at most: 1 to 10,000; 1,000 when left out.
    pub facts: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
struct Line {
    id: String,
    #[serde(default)]
    meter: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    quantity: i64,
    #[serde(default)]
    unit_minor: Option<i64>,
    #[serde(default)]
    amount_minor: i64,
    period_start: DateTime<Utc>,
    period_end: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Head {
    tenant: TenantId,
    number: Option<String>,
    status: String,
    currency: String,
    total_minor: i64,
    tax_minor: i64,
    lines: Json<Vec<Line>>,
}

/// Walks an invoice down.
///
/// # Errors
/// `not_found` for an invoice or a line that there is not; `invalid_fields`.
pub async fn explain(conn: &mut PgConnection, invoice: &str, filter: &ExplainFilter) -> Result<Explained> {
    let mut left = match filter.facts {
        None => FACTS,
        Some(few) if (1..=MOST_FACTS).contains(&few) => few,
        Some(_) => return Err(Error::field("facts", format!("must be between 1 and {MOST_FACTS}"))),
    };
    let head: Head = sqlx::query_as(
        "SELECT tenant, number, status, currency, total_minor, tax_minor, lines FROM invoice WHERE id = $1",
    )
    .bind(invoice)
    .fetch_optional(&mut *conn)
    .await?
    .ok_or_else(|| {
        Error::new(&codes::NOT_FOUND)
            .detail(format!("there is no invoice {invoice}"))
            .hint("see them with: freehold billing export invoices")
    })?;
    let all = head.lines.0;
    let wanted = filter.line.as_deref();
    if wanted.is_some_and(|id| !all.iter().any(|line| line.id == id)) {
        return Err(Error::new(&codes::NOT_FOUND).detail(format!("the invoice {invoice} has no such line")));
    }
    let mut lines: Vec<ExplainedLine> = Vec::new();
    for line in all.iter().filter(|line| wanted.is_none_or(|id| line.id == id)) {
        let same = |other: &&Line| {
            line.meter.is_some()
                && (&other.meter, other.period_start, other.period_end)
                    == (&line.meter, line.period_start, line.period_end)
        };
        let group: Vec<&Line> = all.iter().filter(same).collect();
        let is_first = lines.iter().all(|done| !done.together_with.contains(&line.id));
        let mut shown = ExplainedLine {
            id: line.id.clone(),
            description: line.description.clone(),
            meter: line.meter.clone(),
            quantity: line.quantity,
            unit_price_minor: line.unit_minor,
            amount_minor: line.amount_minor,
            period_start: line.period_start,
            period_end: line.period_end,
            together_with: group.iter().filter(|one| one.id != line.id).map(|one| one.id.clone()).collect(),
            lines_quantity: group.iter().map(|one| one.quantity).sum(),
            batches_quantity: 0,
            batches: Vec::new(),
            batches_left_out: 0,
        };
        if is_first && line.meter.is_some() {
            walk(&mut *conn, head.tenant, &mut shown, &mut left).await?;
        }
        lines.push(shown);
    }
    Ok(Explained {
        invoice: invoice.to_owned(),
        number: head.number,
        tenant: head.tenant,
        status: head.status,
        currency: head.currency,
        total_minor: head.total_minor,
        tax_minor: head.tax_minor,
        lines,
    })
}

/// The batches of a line with their facts, while facts are left to be shown.
async fn walk(
    conn: &mut PgConnection,
    tenant: TenantId,
    line: &mut ExplainedLine,
    left: &mut u32,
) -> Result<()> {
    let meter = line.meter.as_deref().unwrap_or_default();
    let aggregation: Aggregation = sqlx::query_scalar("SELECT aggregation FROM meter WHERE id = $1")
        .bind(meter)
        .fetch_one(&mut *conn)
        .await?;
    // Of readings the newest counts, and it alone is why the line says what it says.
    let (most, order): (i64, i32) = match aggregation {
        Aggregation::Sum => (MOST_BATCHES, 1),
        Aggregation::Last => (1, -1),
    };
    let batches: Vec<Batch> = sqlx::query_as(
        "SELECT id, tenant, meter, window_start, seq, quantity, facts, identifier, event_at, state, delivered_via, livemode,
                customer, attempts, carried_forward, error, sealed_at, settled_at FROM usage_batch
          WHERE tenant = $1 AND meter = $2 AND event_at >= $3 AND event_at < $4 AND state <> 'void'
          ORDER BY $6 * extract(epoch FROM event_at), $6 * seq LIMIT $5",
    )
    .bind(tenant)
    .bind(meter)
    .bind(line.period_start)
    .bind(line.period_end)
    .bind(most)
    .bind(order)
    .fetch_all(&mut *conn)
    .await?;
    let (sum, count): (i64, i64) = sqlx::query_as(
        "SELECT coalesce(sum(quantity), 0)::bigint, count(*) FROM usage_batch
          WHERE tenant = $1 AND meter = $2 AND event_at >= $3 AND event_at < $4 AND state <> 'void'",
    )
    .bind(tenant)
    .bind(meter)
    .bind(line.period_start)
    .bind(line.period_end)
    .fetch_one(&mut *conn)
    .await?;
    line.batches_quantity = match aggregation {
        Aggregation::Sum => sum,
        Aggregation::Last => batches.first().map_or(0, |batch| batch.quantity),
    };
    line.batches_left_out = match aggregation {
        Aggregation::Sum => (count - most).max(0),
        Aggregation::Last => 0,
    };
    for batch in batches {
        let facts = match *left {
            0 => Vec::new(),
            some => facts_of_batch(&mut *conn, batch.id, None, i64::from(some)).await?,
        };
        let shown = u32::try_from(facts.len()).unwrap_or(*left);
        *left = left.saturating_sub(shown);
        let facts_left_out = (i64::from(batch.facts) - i64::from(shown)).max(0);
        line.batches.push(ExplainedBatch { batch, because_of: facts, facts_left_out });
    }
    Ok(())
}

/// Which facts of a batch to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FactsFilter {
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// The facts of a batch, by its id or identifier, in the order in which they happened.
///
/// # Errors
/// `not_found`.
pub async fn facts(conn: &mut PgConnection, batch: &str, filter: &FactsFilter) -> Result<Page<FactLine>> {
    let limit = page::limit(filter.limit)?;
    let after: Option<(DateTime<Utc>, FactId)> = filter.cursor.as_deref().map(page::decode).transpose()?;
    let id = batch_id(&mut *conn, batch).await?;
    let rows = facts_of_batch(conn, id, after, i64::from(limit) + 1).await?;
    Ok(Page::build(rows, limit, |fact: &FactLine| (fact.occurred_at, fact.id)))
}

async fn batch_id(conn: &mut PgConnection, batch: &str) -> Result<BatchId> {
    if let Ok(id) = batch.parse() {
        return Ok(id);
    }
    let found = batch_by_identifier(conn, batch).await?;
    found
        .map(|batch| batch.id)
        .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no batch {batch}")))
}
