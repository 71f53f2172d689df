//! Corrections. Nothing in the ledger is changed: one person asks for a signed fact, another agrees, and the new fact goes the
//! way of all facts. Each step has its line in the audit log.
//!
//! A person is an operator: whoever is signed in, or whose key it is. A key that is nobody's, and the command line on the
//! databases, ask and do not decide: one person may have them beside a key of their own. What they ask for nobody known
//! stands for, so two operators have to agree to it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::events::{Fact, Recorded, aggregation_of, record_many};
use super::finals::credit_warning;
use super::meters::Aggregation;
use super::{CorrectionId, FactId, books, late};
use crate::control_plane::ControlPlane;
use crate::control_plane::approvals::person_of;
use crate::control_plane::audit::{Caller, audit_add};
use crate::db::violated;
use crate::kernel::ids::{OperatorId, TenantId};
use crate::kernel::page::{Asked, Page};
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
    /// The moment that it counts for: at most 34 days ago. That of asking when it is left out.
    #[serde(default)]
    pub occurred_at: Option<DateTime<Utc>>,
    /// The fact that was wrong, or that was kept aside. A fact is corrected once; a correction that was wrong is a fact
    /// too, and is corrected itself.
    #[serde(default)]
    pub corrects: Option<FactId>,
    /// 3 to 500 characters.
    pub reason: String,
    /// The asker's own name for it: asked again under it, it is the same correction. 1 to 255 characters.
    #[serde(default)]
    pub reference: Option<String>,
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
    /// The operator who stands for it: who asked; when that is not known, the first who agreed.
    pub asked_person: Option<OperatorId>,
    pub asked_at: DateTime<Utc>,
    pub state: CorrectionState,
    pub decided_by: Option<String>,
    /// The operator who decided.
    pub decided_person: Option<OperatorId>,
    pub decided_at: Option<DateTime<Utc>>,
    /// The asker's own name for it.
    pub reference: Option<String>,
    /// What whoever agreed has to know: it does not lower an invoice that is final. Only in the answer to a decision.
    #[sqlx(default)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

macro_rules! columns {
    () => {
        "id, tenant, meter, quantity, occurred_at, corrects, reason, asked_by, asked_person, asked_at, state, decided_by, \
         decided_person, decided_at, reference"
    };
}

/// Asks for a correction. Nothing counts before another person agrees. With a reference that this caller has used before,
/// it is the correction of before.
///
/// # Errors
/// `tenant_not_found`; `invalid_fields` for what is not valid; `state_conflict` for a fact that another correction is about;
/// `idempotency_conflict` for a reference that was used for another correction.
pub async fn correction_ask(cp: &ControlPlane, caller: &Caller, new: &NewCorrection) -> Result<Correction> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    if let Some(before) = asked_before(&mut tx, caller, new).await? {
        return same(before, new);
    }
    let occurred_at = new.occurred_at.unwrap_or(now);
    check(&mut tx, new, occurred_at, now).await?;
    let person = person_of(&mut tx, &caller.actor).await?;
    let asked: Option<Correction> = sqlx::query_as(concat!(
        "INSERT INTO usage_correction (id, tenant, meter, quantity, occurred_at, corrects, reason, asked_by, asked_at, state,
                                       asked_person, reference)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'asked', $10, $11)
         ON CONFLICT (asked_by, reference) WHERE reference IS NOT NULL DO NOTHING RETURNING ",
        columns!()
    ))
    .bind(CorrectionId::new())
    .bind(new.tenant)
    .bind(&new.meter)
    .bind(new.quantity)
    .bind(occurred_at)
    .bind(new.corrects)
    .bind(new.reason.trim())
    .bind(&caller.actor)
    .bind(now)
    .bind(person)
    .bind(&new.reference)
    .fetch_optional(&mut *tx)
    .await
    .map_err(corrected_once)?;
    let Some(asked) = asked else {
        // Asked twice at once: the other one was faster.
        let before = asked_before(&mut tx, caller, new).await?;
        return same(before.ok_or_else(|| Error::internal("a reference that is and is not there"))?, new);
    };
    note(&mut tx, caller, now, "usage.correction.ask", &asked).await?;
    tx.commit().await?;
    Ok(asked)
}

/// What this caller has asked for under this reference.
async fn asked_before(
    conn: &mut PgConnection,
    caller: &Caller,
    new: &NewCorrection,
) -> Result<Option<Correction>> {
    let Some(reference) = &new.reference else { return Ok(None) };
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM usage_correction WHERE asked_by = $1 AND reference = $2"
    ))
    .bind(&caller.actor)
    .bind(reference)
    .fetch_optional(conn)
    .await?)
}

/// The correction of before, if it is the one that is asked for now. A moment that is left out is not compared: it is that of
/// asking, and a repeat is asked later.
fn same(before: Correction, new: &NewCorrection) -> Result<Correction> {
    let is_same = (before.tenant, before.quantity, before.corrects)
        == (new.tenant, new.quantity, new.corrects)
        && (before.meter.as_str(), before.reason.as_str()) == (new.meter.as_str(), new.reason.trim())
        // What is kept has whole microseconds.
        && new.occurred_at.is_none_or(|at| at.timestamp_micros() == before.occurred_at.timestamp_micros());
    if is_same {
        return Ok(before);
    }
    Err(Error::new(&codes::IDEMPOTENCY_CONFLICT)
        .detail("you have asked for another correction under this reference"))
}

/// A fact that is corrected twice would count twice.
fn corrected_once(error: sqlx::Error) -> Error {
    match violated(&error) {
        Some("usage_correction_once") => Error::new(&codes::STATE_CONFLICT)
            .detail("another correction of this fact was asked for, or agreed to")
            .hint("see it with: freehold billing correct list --decided; one that was wrong is corrected itself")
            .source(error),
        _ => error.into(),
    }
}

async fn check(
    conn: &mut PgConnection,
    new: &NewCorrection,
    occurred_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<()> {
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
    if let Some(why) = late::judge(occurred_at, now) {
        return Err(match why {
            late::Why::TooOld => Error::field("occurred_at", "at most 34 days ago")
                .hint("take a later moment: it is billed with the period of that moment"),
            late::Why::Future => Error::field("occurred_at", "it lies in the future"),
        });
    }
    if !(3..=500).contains(&new.reason.trim().chars().count()) {
        return Err(Error::field("reason", "3 to 500 characters"));
    }
    if new.reference.as_ref().is_some_and(|text| !(1..=255).contains(&text.chars().count())) {
        return Err(Error::field("reference", "1 to 255 characters"));
    }
    if let Some(wrong) = new.corrects {
        let fact = books::fact_by_id(conn, wrong).await?;
        if !fact.is_some_and(|fact| fact.tenant == new.tenant && fact.meter == new.meter) {
            return Err(Error::field("corrects", "there is no such fact of this tenant and meter"));
        }
    }
    Ok(())
}

/// Agrees to a correction, or refuses it. Agreed to by a second person, it is a fact at once. One that nobody known asked for
/// is the first's who agrees, and waits for another.
///
/// # Errors
/// `not_found`; `state_conflict` for one that is decided, and for a fact that another correction is about; `forbidden` for
/// whoever asked for it, and for a caller who is no operator; `invalid_fields` when its moment has become too old meanwhile.
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
    let Some(person) = person_of(&mut tx, &caller.actor).await? else {
        return Err(Error::new(&codes::FORBIDDEN)
            .detail("a correction is decided by an operator, and this key, or login, is nobody's")
            .hint(
                "decide at /operator/money, or with a key of your own: freehold operator-key create --owner",
            ));
    };
    if asked.asked_by == caller.actor || asked.asked_person == Some(person) {
        return Err(Error::new(&codes::FORBIDDEN)
            .detail("a correction is decided by another person than the one who asked for it"));
    }
    if agree && asked.asked_person.is_none() {
        let stood_for: Correction = sqlx::query_as(concat!(
            "UPDATE usage_correction SET asked_person = $2 WHERE id = $1 RETURNING ",
            columns!()
        ))
        .bind(id)
        .bind(person)
        .fetch_one(&mut *tx)
        .await?;
        note(&mut tx, caller, now, "usage.correction.stand_for", &stood_for).await?;
        tx.commit().await?;
        return Ok(stood_for);
    }
    let state = if agree { CorrectionState::Approved } else { CorrectionState::Refused };
    let mut decided: Correction = sqlx::query_as(concat!(
        "UPDATE usage_correction SET state = $2, decided_by = $3, decided_at = $4, decided_person = $5,
                repeated = repeated AND $2 = 'refused' WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(id)
    .bind(state)
    .bind(&caller.actor)
    .bind(now)
    .bind(person)
    .fetch_one(&mut *tx)
    .await
    .map_err(corrected_once)?;
    if agree {
        count(&mut tx, &decided, now).await?;
        let about = (decided.tenant, decided.quantity, decided.occurred_at);
        decided.warning = credit_warning(&mut tx, about, now).await?;
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
        "asked_person": correction.asked_person,
    });
    audit_add(tx, caller, now, action, Some(correction.tenant), &correction.id.to_string(), detail).await
}

/// A page of corrections, newest first: those that wait for a decision, or all.
///
/// # Errors
/// `invalid_fields`; `bad_cursor`.
pub async fn correction_page(
    conn: &mut PgConnection,
    decided_too: bool,
    limit: Option<u32>,
    cursor: Option<&str>,
) -> Result<Page<Correction>> {
    let asked = Asked::<(DateTime<Utc>, CorrectionId)>::of(limit, cursor)?;
    let rows = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM usage_correction
           WHERE ($1 OR state = 'asked') AND ($2::timestamptz IS NULL OR (asked_at, id) < ($2, $3))
           ORDER BY asked_at DESC, id DESC LIMIT $4"
    ))
    .bind(decided_too)
    .bind(asked.after.map(|(at, _)| at))
    .bind(asked.after.map(|(_, id)| id))
    .bind(asked.rows())
    .fetch_all(conn)
    .await?;
    Ok(asked.page(rows, |one: &Correction| (one.asked_at, one.id)))
}

/// The newest corrections: those that wait for a decision, or all.
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
