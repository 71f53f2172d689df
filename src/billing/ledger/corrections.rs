//! Corrections. Nothing in the ledger is changed: one person asks for a signed fact, another agrees, and the new fact goes the
//! way of all facts. Each step has its line in the audit log.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::events::{Fact, Recorded, aggregation_of, record_many};
use super::meters::Aggregation;
use super::{CorrectionId, FactId, books, late};
use crate::control_plane::ControlPlane;
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

const SOURCE: &str = "correction";

/// How a correction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum CorrectionState {
    Asked,
    Approved,
    Refused,
}

/// What somebody asks for.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCorrection {
    pub tenant: TenantId,
    pub meter: String,
    /// What is added; below 0, taken away. Of a meter where the newest counts: the reading itself, 0 or more.
    pub quantity: i64,
    /// The moment that it counts for: at most 34 days ago.
    pub occurred_at: DateTime<Utc>,
    /// The fact that was wrong, or that was kept aside.
    #[serde(default)]
    pub corrects: Option<FactId>,
    /// 3 to 500 characters.
    pub reason: String,
}

/// A correction, asked for or decided.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Correction {
    pub id: CorrectionId,
    pub tenant: TenantId,
    pub meter: String,
    pub quantity: i64,
    pub occurred_at: DateTime<Utc>,
    pub corrects: Option<FactId>,
    pub reason: String,
    pub asked_by: String,
    pub asked_at: DateTime<Utc>,
    pub state: CorrectionState,
    pub decided_by: Option<String>,
    pub decided_at: Option<DateTime<Utc>>,
}

macro_rules! columns {
    () => {
        "id, tenant, meter, quantity, occurred_at, corrects, reason, asked_by, asked_at, state, decided_by, decided_at"
    };
}

/// Asks for a correction. Nothing counts before another person agrees.
///
/// # Errors
/// `tenant_not_found`; `invalid_fields` for what is not valid.
pub async fn correction_ask(cp: &ControlPlane, caller: &Caller, new: &NewCorrection) -> Result<Correction> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    check(&mut tx, new, now).await?;
    let asked: Correction = sqlx::query_as(concat!(
        "INSERT INTO usage_correction (id, tenant, meter, quantity, occurred_at, corrects, reason, asked_by, asked_at, state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'asked') RETURNING ",
        columns!()
    ))
    .bind(CorrectionId::new())
    .bind(new.tenant)
    .bind(&new.meter)
    .bind(new.quantity)
    .bind(new.occurred_at)
    .bind(new.corrects)
    .bind(new.reason.trim())
    .bind(&caller.actor)
    .bind(now)
    .fetch_one(&mut *tx)
    .await?;
    note(&mut tx, caller, now, "usage.correction.ask", &asked).await?;
    tx.commit().await?;
    Ok(asked)
}

async fn check(conn: &mut PgConnection, new: &NewCorrection, now: DateTime<Utc>) -> Result<()> {
    let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM tenant WHERE id = $1)")
        .bind(new.tenant)
        .fetch_one(&mut *conn)
        .await?;
    if !known {
        return Err(Error::new(&codes::TENANT_NOT_FOUND));
    }
    let aggregation = aggregation_of(&mut *conn, &new.meter).await?;
    let most = aggregation.most();
    let allowed = match aggregation {
        Aggregation::Sum => -most..=most,
        Aggregation::Last => 1..=most,
    };
    if new.quantity == 0 || !allowed.contains(&new.quantity) {
        let (least, most) = (allowed.start(), allowed.end());
        return Err(Error::field("quantity", format!("{least} to {most} for this meter, and not 0")));
    }
    if let Some(why) = late::judge(new.occurred_at, now) {
        return Err(match why {
            late::Why::TooOld => Error::field("occurred_at", "at most 34 days ago")
                .hint("take a later moment: it is billed with the period of that moment"),
            late::Why::Future => Error::field("occurred_at", "it lies in the future"),
        });
    }
    if !(3..=500).contains(&new.reason.trim().chars().count()) {
        return Err(Error::field("reason", "3 to 500 characters"));
    }
    if let Some(wrong) = new.corrects {
        let fact = books::fact_by_id(conn, wrong).await?;
        if !fact.is_some_and(|fact| fact.tenant == new.tenant && fact.meter == new.meter) {
            return Err(Error::field("corrects", "there is no such fact of this tenant and meter"));
        }
    }
    Ok(())
}

/// Agrees to a correction, or refuses it. Agreed to, it is a fact at once.
///
/// # Errors
/// `not_found`; `state_conflict` for one that is decided; `forbidden` for whoever asked for it; `invalid_fields` when its moment
/// has become too old meanwhile.
pub async fn correction_decide(
    cp: &ControlPlane,
    caller: &Caller,
    id: CorrectionId,
    agree: bool,
) -> Result<Correction> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let asked: Correction =
        sqlx::query_as(concat!("SELECT ", columns!(), " FROM usage_correction WHERE id = $1 FOR UPDATE"))
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?
            .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no correction {id}")))?;
    if asked.state != CorrectionState::Asked {
        return Err(Error::new(&codes::STATE_CONFLICT).detail("this correction is decided already"));
    }
    if asked.asked_by == caller.actor {
        return Err(Error::new(&codes::FORBIDDEN)
            .detail("a correction is decided by another person than the one who asked for it"));
    }
    let state = if agree { CorrectionState::Approved } else { CorrectionState::Refused };
    let decided: Correction = sqlx::query_as(concat!(
        "UPDATE usage_correction SET state = $2, decided_by = $3, decided_at = $4 WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(id)
    .bind(state)
    .bind(&caller.actor)
    .bind(now)
    .fetch_one(&mut *tx)
    .await?;
    if agree {
        count(&mut tx, &decided, now).await?;
    }
    let action = if agree { "usage.correction.approve" } else { "usage.correction.refuse" };
    note(&mut tx, caller, now, action, &decided).await?;
    tx.commit().await?;
    Ok(decided)
}

/// Makes the fact.
async fn count(tx: &mut PgConnection, decided: &Correction, now: DateTime<Utc>) -> Result<()> {
    if late::judge(decided.occurred_at, now).is_some() {
        return Err(Error::field("occurred_at", "it is more than 34 days ago by now")
            .hint("refuse it, and ask for one with a later moment"));
    }
    let fact = Fact {
        tenant: decided.tenant,
        meter: decided.meter.as_str().into(),
        source: SOURCE.into(),
        key: decided.id.to_string(),
        quantity: decided.quantity,
        occurred_at: decided.occurred_at,
        received_at: now,
    };
    let recorded = record_many(&mut *tx, &[fact]).await?;
    let [Recorded::New(made)] = recorded[..] else {
        return Err(Error::internal(format!("correction {} was counted before", decided.id)));
    };
    sqlx::query(
        "UPDATE usage_event SET corrects = $3, reason = $4, actor = $5, approved_by = $6
          WHERE id = $1 AND occurred_at = $2",
    )
    .bind(made)
    .bind(decided.occurred_at)
    .bind(decided.corrects)
    .bind(&decided.reason)
    .bind(&decided.asked_by)
    .bind(&decided.decided_by)
    .execute(tx)
    .await?;
    Ok(())
}

async fn note(
    tx: &mut PgConnection,
    caller: &Caller,
    now: DateTime<Utc>,
    action: &str,
    correction: &Correction,
) -> Result<()> {
    let detail = json!({
        "meter": correction.meter, "quantity": correction.quantity, "occurred_at": correction.occurred_at,
        "corrects": correction.corrects, "reason": correction.reason, "asked_by": correction.asked_by,
    });
    audit_add(tx, caller, now, action, Some(correction.tenant), &correction.id.to_string(), detail).await
}

/// Corrections, newest first: those that wait for a decision, or all.
pub async fn correction_list(
    conn: &mut PgConnection,
    decided_too: bool,
    limit: i64,
) -> Result<Vec<Correction>> {
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM usage_correction WHERE $1 OR state = 'asked' ORDER BY asked_at DESC, id DESC LIMIT $2"
    ))
    .bind(decided_too)
    .bind(limit)
    .fetch_all(conn)
    .await?)
}
