//! The record: which comparisons were made, and what they found.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::class::{Class, Level, benign};
use super::{midnight, usual_days};
use crate::kernel::ids::TenantId;
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result, codes};

crate::define_id!(ReconcileId, "rec", "One reconciliation.");

/// Differences of a run that are shown with it.
const SHOWN: i64 = 500;

/// Why a comparison is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = ReconcileWhy)]
pub enum Why {
    Nightly,
    PeriodClose,
    OnDemand,
}

/// How a comparison stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = ReconcileState)]
pub enum RunState {
    /// Goes from tenant to tenant; a worker takes it up when whoever began it falls silent.
    Running,
    /// Nothing differs but what explains itself.
    Green,
    /// Something differs.
    Red,
    /// Stripe did not answer; what was found until then is kept.
    Failed,
}

impl RunState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Green => "green",
            Self::Red => "red",
            Self::Failed => "failed",
        }
    }
}

/// One comparison.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
#[schema(as = ReconcileRun)]
pub struct Run {
    pub id: ReconcileId,
    pub livemode: bool,
    pub why: Why,
    /// Only this tenant.
    pub tenant: Option<TenantId>,
    /// The draft that waits for it.
    pub invoice: Option<String>,
    /// Days at UTC, the last one not included.
    pub from_at: DateTime<Utc>,
    pub to_at: DateTime<Utc>,
    pub state: RunState,
    /// Tenants compared so far.
    pub checked: i64,
    /// Batches that were put back into the queue, or settled.
    pub fixed: i64,
    pub error: Option<String>,
    pub started_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
#[schema(as = ReconcileDifference)]
pub struct Difference {
    pub run: ReconcileId,
    pub level: Level,
    pub class: Class,
    pub tenant: Option<TenantId>,
    pub meter: Option<String>,
    /// A batch's identifier, a day of a meter, an invoice or a line of one.
    pub subject: String,
    /// Units of the meter (L1 to L4), or minor units of the currency (L5).
    pub ours: i64,
    pub theirs: i64,
    /// Whether it was put right.
    pub fixed: bool,
    pub detail: String,
}

/// A comparison with what it found.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ReconcileRunDetail)]
pub struct RunDetail {
    #[serde(flatten)]
    pub run: Run,
    pub differences: Vec<Difference>,
    /// Differences that are not shown.
    pub left_out: i64,
}

impl RunDetail {
    /// Whether something differs that does not explain itself.
    pub fn differs(&self) -> bool {
        self.run.state != RunState::Green || self.differences.iter().any(|one| !one.class.is_benign())
    }
}

/// What to compare.
#[derive(Clone, Debug, Default, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReconcileAsk)]
pub struct Ask {
    /// Only this tenant, by slug or id. Left out: all.
    #[garde(length(chars, max = 64))]
    #[serde(default)]
    pub tenant: Option<String>,
    /// The first day, in UTC; 34 days ago when left out.
    #[garde(skip)]
    #[serde(default)]
    pub from: Option<chrono::NaiveDate>,
    /// The last day; today when left out.
    #[garde(skip)]
    #[serde(default)]
    pub to: Option<chrono::NaiveDate>,
    /// Only look: put nothing back into the queue, settle nothing.
    #[garde(skip)]
    #[serde(default)]
    pub look_only: bool,
}

/// The time that is looked at: whole UTC days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

impl Ask {
    /// # Errors
    /// `invalid_fields` for days in the wrong order, and for more than Stripe answers at once.
    pub fn span(&self, now: DateTime<Utc>) -> Result<Span> {
        let (from, to) = usual_days(now);
        let to = self.to.map_or(to, |day| midnight(day) + TimeDelta::days(1));
        let from = self.from.map_or_else(|| from.min(to - TimeDelta::days(1)), midnight);
        if from >= to {
            return Err(Error::field("from", "is not after the last day"));
        }
        if to - from > TimeDelta::days(100) {
            return Err(Error::field("from", "at most 100 days are compared at once"));
        }
        Ok(Span { from, to })
    }
}

/// A difference before it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub level: Level,
    pub meter: Option<String>,
    pub subject: String,
    pub ours: i64,
    pub theirs: i64,
    pub class: Class,
    pub detail: String,
}

macro_rules! run_columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, livemode, why, tenant, invoice, from_at, to_at, state, checked, fixed, error, started_at, finished_at ",
            $after
        )
    };
}
pub(super) use run_columns;

/// Writes differences of a tenant down. Found again, a difference is the same one.
pub(super) async fn differences_add(
    conn: &mut PgConnection,
    run: ReconcileId,
    tenant: TenantId,
    found: &[(Found, bool)],
) -> Result<()> {
    for (one, fixed) in found {
        sqlx::query(
            "INSERT INTO reconcile_difference (run, level, tenant, meter, subject, ours, theirs, class, fixed, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (run, level, subject) DO UPDATE SET ours = EXCLUDED.ours, theirs = EXCLUDED.theirs,
                class = EXCLUDED.class, fixed = reconcile_difference.fixed OR EXCLUDED.fixed, detail = EXCLUDED.detail",
        )
        .bind(run)
        .bind(one.level)
        .bind(tenant)
        .bind(&one.meter)
        .bind(&one.subject)
        .bind(one.ours)
        .bind(one.theirs)
        .bind(one.class)
        .bind(*fixed)
        .bind(&one.detail)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// A comparison as it stands.
///
/// # Errors
/// `not_found`.
pub async fn run_by_id(conn: &mut PgConnection, id: ReconcileId) -> Result<Run> {
    sqlx::query_as(run_columns!("SELECT", "FROM reconcile_run WHERE id = $1"))
        .bind(id)
        .fetch_optional(conn)
        .await?
        .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no reconciliation {id}")))
}

/// A comparison with what it found: the worst first.
///
/// # Errors
/// `not_found`.
pub async fn run_show(conn: &mut PgConnection, id: ReconcileId) -> Result<RunDetail> {
    let run = run_by_id(&mut *conn, id).await?;
    let differences: Vec<Difference> = sqlx::query_as(concat!(
        "SELECT run, level, class, tenant, meter, subject, ours, theirs, fixed, detail FROM reconcile_difference
          WHERE run = $1 ORDER BY class IN ",
        benign!(),
        ", level, subject LIMIT $2",
    ))
    .bind(id)
    .bind(SHOWN)
    .fetch_all(&mut *conn)
    .await?;
    let all: i64 = sqlx::query_scalar("SELECT count(*) FROM reconcile_difference WHERE run = $1")
        .bind(id)
        .fetch_one(conn)
        .await?;
    Ok(RunDetail { run, left_out: all - i64::try_from(differences.len()).unwrap_or(all), differences })
}

/// Which comparisons to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RunsFilter {
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Comparisons, newest first.
pub async fn run_list(conn: &mut PgConnection, filter: &RunsFilter) -> Result<Page<Run>> {
    let limit = page::limit(filter.limit)?;
    let before: Option<ReconcileId> = filter.cursor.as_deref().map(page::decode).transpose()?;
    let rows = sqlx::query_as(run_columns!(
        "SELECT",
        "FROM reconcile_run WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2"
    ))
    .bind(before)
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await?;
    Ok(Page::build(rows, limit, |run: &Run| run.id))
}

/// Which differences to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DifferenceFilter {
    /// Of this run; of the last whole comparison of all tenants when left out.
    pub run: Option<ReconcileId>,
    pub class: Option<Class>,
    pub level: Option<Level>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Differences by level and subject.
pub async fn difference_list(
    conn: &mut PgConnection,
    livemode: bool,
    filter: &DifferenceFilter,
) -> Result<Page<Difference>> {
    let limit = page::limit(filter.limit)?;
    let after: Option<(Level, String)> = filter.cursor.as_deref().map(page::decode).transpose()?;
    let run = match filter.run {
        Some(run) => Some(run),
        None => last_run(&mut *conn, livemode).await?.map(|run| run.id),
    };
    let Some(run) = run else { return Ok(Page::whole(Vec::new())) };
    let rows = sqlx::query_as(
        "SELECT run, level, class, tenant, meter, subject, ours, theirs, fixed, detail FROM reconcile_difference
          WHERE run = $1 AND ($2::text IS NULL OR class = $2) AND ($3::text IS NULL OR level = $3)
            AND ($4::text IS NULL OR (level, subject) > ($4, $5)) ORDER BY level, subject LIMIT $6",
    )
    .bind(run)
    .bind(filter.class)
    .bind(filter.level)
    .bind(after.as_ref().map(|(level, _)| *level))
    .bind(after.as_ref().map(|(_, subject)| subject.as_str()))
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await?;
    Ok(Page::build(rows, limit, |one: &Difference| (one.level, one.subject.clone())))
}

/// The last comparison of all tenants that came to its end: of all invoices, over the usual days.
pub async fn last_run(conn: &mut PgConnection, livemode: bool) -> Result<Option<Run>> {
    Ok(sqlx::query_as(run_columns!(
        "SELECT",
        "FROM reconcile_run WHERE livemode = $1 AND whole AND tenant IS NULL AND state <> 'running'
          ORDER BY started_at DESC LIMIT 1"
    ))
    .bind(livemode)
    .fetch_optional(conn)
    .await?)
}

/// Whether a tenant is red, as SQL: its last whole comparison found something that does not explain itself, or a narrower one
/// did since. A narrower one that found nothing says nothing of what it did not look at.
macro_rules! red {
    ($livemode:literal, $tenant:literal) => {
        concat!(
            "EXISTS (SELECT FROM reconcile_run r JOIN reconcile_difference d ON d.run = r.id
                      WHERE r.livemode = ",
            $livemode,
            " AND r.state = 'red' AND (r.tenant IS NULL OR r.tenant = ",
            $tenant,
            ") AND d.tenant = ",
            $tenant,
            " AND d.class NOT IN ",
            $crate::billing::reconcile::class::benign!(),
            " AND r.started_at >= coalesce((SELECT max(w.started_at) FROM reconcile_run w WHERE w.livemode = ",
            $livemode,
            " AND w.whole AND w.state IN ('green', 'red') AND (w.tenant IS NULL OR w.tenant = ",
            $tenant,
            ")), '-infinity')
                      -- Of two at one moment, the later one.
                      AND NOT EXISTS (SELECT FROM reconcile_run w WHERE w.livemode = ",
            $livemode,
            " AND w.whole AND w.state IN ('green', 'red') AND (w.tenant IS NULL OR w.tenant = ",
            $tenant,
            ") AND w.started_at = r.started_at AND w.id > r.id))"
        )
    };
}
pub(super) use red;

/// Whether what is known of a tenant is red. Nobody is brought closer to a suspension meanwhile.
pub async fn is_red(conn: &mut PgConnection, livemode: bool, tenant: TenantId) -> Result<bool> {
    Ok(sqlx::query_scalar(concat!("SELECT ", red!("$1", "$2")))
        .bind(livemode)
        .bind(tenant)
        .fetch_one(conn)
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_days_are_compared() {
        let now = midnight("2026-11-21".parse().unwrap()) + TimeDelta::hours(9);
        let day = |text: &str| Some(text.parse().unwrap());
        let usual = Ask::default().span(now).unwrap();
        assert_eq!(usual.to, midnight("2026-11-22".parse().unwrap()));
        assert_eq!(usual.to - usual.from, TimeDelta::days(35));
        let one = Ask { from: day("2026-11-03"), to: day("2026-11-03"), ..Ask::default() };
        assert_eq!(one.span(now).unwrap().to, midnight("2026-11-04".parse().unwrap()));
        for (from, to) in [("2026-11-03", "2026-11-02"), ("2026-01-01", "2026-11-01")] {
            assert!(Ask { from: day(from), to: day(to), ..Ask::default() }.span(now).is_err(), "{from}");
        }
    }
}
