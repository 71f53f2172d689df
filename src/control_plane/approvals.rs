//! A second person's word for what one operator must not do alone: deleting many tenants within an hour, and removing one
//! for good that they deleted themselves a moment ago. One stolen key, or one wrong script, takes ten tenants and no more.
//!
//! The guard is for those who ask through the operators' API. A command on the databases themselves is not asked: whoever
//! has the control database and the master key in hand needs none of our commands to remove tenants, and a guard there would
//! only pretend. What is done there is logged and counted as all else is, and it may give the word too: that is the way out
//! where there is one operator alone.
//!
//! The word is given to a person and by a person: a key that belongs to nobody neither gives it nor gets it. Nor is it another
//! person: whoever has it may have a key of their own beside it, so what was done with it counts as done by whoever asks.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::ControlPlane;
use super::audit::{Caller, audit_add};
use crate::kernel::ids::{ApprovalId, OperatorId, OperatorKeyId, TenantId};
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result, codes};

/// Tenants that are deleted within an hour without a second person; the same number again may be removed early.
pub const AN_HOUR: i64 = 10;
/// How long a word holds.
const LIFE: TimeDelta = TimeDelta::hours(1);

/// What takes two.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Grave {
    /// Deleting tenants.
    Delete,
    /// Removing deleted tenants for good before their days of grace are over.
    Purge,
}

impl Grave {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Purge => "purge",
        }
    }

    /// How often it was done, whoever did it.
    const fn count_sql(self) -> &'static str {
        match self {
            Self::Delete => "SELECT count(*) FROM audit WHERE at > $1 AND action = 'tenant.delete'",
            Self::Purge => {
                "SELECT count(*) FROM audit
                  WHERE at > $1 AND action = 'tenant.purge' AND detail @> '{\"early\": true}'"
            }
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Delete => "deleted",
            Self::Purge => "removed early",
        }
    }
}

/// One operator's word for another.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Approval {
    pub id: ApprovalId,
    pub action: Grave,
    /// Whose doing it is.
    pub operator: OperatorId,
    /// Who agreed, as the audit log names them.
    pub actor: String,
    /// The operator who agreed; none for a command at the machine.
    pub agreed: Option<OperatorId>,
    pub reason: String,
    /// How many tenants it is for.
    pub tenants: i32,
    /// How many it was used for.
    pub used: i32,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// What is agreed to.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApproval {
    /// Whom it is for: an operator's id or address.
    #[garde(length(chars, min = 3, max = 254))]
    #[schema(example = "alice@example.com")]
    pub operator: String,
    #[garde(skip)]
    pub action: Grave,
    /// For how many tenants.
    #[garde(range(min = 1, max = 1000))]
    pub tenants: i32,
    #[garde(length(chars, min = 1, max = 500))]
    #[schema(example = "the test tenants of last week")]
    pub reason: String,
}

/// Which to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ApprovalFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

macro_rules! approval_columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, action, operator, actor, agreed, reason, tenants, used, created_at, expires_at ",
            $after
        )
    };
}

/// Agrees that another operator does what takes two. It holds for an hour, for so many tenants.
///
/// # Errors
/// `not_found` for somebody who is no operator; `forbidden` for oneself, and for a key that belongs to nobody.
pub async fn approval_give(cp: &ControlPlane, caller: &Caller, new: &NewApproval) -> Result<Approval> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let whom = operator_named(&mut tx, &new.operator).await?;
    let agreed = person_of(&mut tx, &caller.actor).await?;
    if is_guarded(caller) && agreed.is_none() {
        return Err(Error::new(&codes::FORBIDDEN)
            .detail("this key belongs to nobody: it cannot agree in a person's place")
            .hint("use a key that belongs to an operator"));
    }
    if agreed == Some(whom) {
        return Err(Error::new(&codes::FORBIDDEN).detail("nobody agrees to what they do themselves"));
    }
    let approval: Approval = sqlx::query_as(approval_columns!(
        "INSERT INTO approval (id, action, operator, actor, agreed, reason, tenants, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING",
        ""
    ))
    .bind(ApprovalId::new())
    .bind(new.action)
    .bind(whom)
    .bind(&caller.actor)
    .bind(agreed)
    .bind(&new.reason)
    .bind(new.tenants)
    .bind(now)
    .bind(now + LIFE)
    .fetch_one(&mut *tx)
    .await?;
    let detail = json!({
        "for": whom, "action": new.action, "tenants": new.tenants, "reason": new.reason, "until": approval.expires_at,
    });
    audit_add(&mut tx, caller, now, "approval.give", None, &approval.id.to_string(), detail).await?;
    tx.commit().await?;
    Ok(approval)
}

/// What was agreed to, newest first.
pub async fn approval_list(conn: &mut PgConnection, filter: &ApprovalFilter) -> Result<Page<Approval>> {
    let limit = page::limit(filter.limit)?;
    let before: Option<ApprovalId> = filter.cursor.as_deref().map(page::decode).transpose()?;
    let rows = sqlx::query_as(approval_columns!(
        "SELECT",
        "FROM approval WHERE ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2"
    ))
    .bind(before)
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await?;
    Ok(Page::build(rows, limit, |approval: &Approval| approval.id))
}

async fn operator_named(conn: &mut PgConnection, who: &str) -> Result<OperatorId> {
    let id: Option<OperatorId> = who.parse().ok();
    sqlx::query_scalar("SELECT id FROM operator WHERE (id = $1 OR email = $2) AND disabled_at IS NULL")
        .bind(id)
        .bind(who.trim().to_lowercase())
        .fetch_optional(conn)
        .await?
        .ok_or_else(|| {
            Error::new(&codes::NOT_FOUND)
                .detail(format!("there is no operator {who}"))
                .hint("see them with: freehold operator list")
        })
}

/// Whether a second person is asked for: not of commands on the databases, nor of the worker.
fn is_guarded(caller: &Caller) -> bool {
    is_operator(&caller.actor)
}

/// Whether a name in the audit log is of somebody who asked through the operators' API, or signed in.
fn is_operator(actor: &str) -> bool {
    actor.starts_with("operator:")
}

/// The operator behind a name in the audit log: themselves, or the owner of the key that asked. None where nobody knows.
pub async fn person_of(conn: &mut PgConnection, actor: &str) -> Result<Option<OperatorId>> {
    let Some(id) = actor.strip_prefix("operator:") else { return Ok(None) };
    if let Ok(operator) = id.parse() {
        return Ok(Some(operator));
    }
    let Ok(key) = id.parse::<OperatorKeyId>() else { return Ok(None) };
    let owner: Option<Option<OperatorId>> =
        sqlx::query_scalar("SELECT owner FROM operator_key WHERE id = $1")
            .bind(key)
            .fetch_optional(conn)
            .await?;
    Ok(owner.flatten())
}

/// Whether this is done, in the caller's transaction: alone, or on another's word, which it gives and uses up by one.
/// To be asked before the line of the audit log is written, which is what is counted.
///
/// # Errors
/// `second_person_required`.
pub(super) async fn agreed(
    conn: &mut PgConnection,
    caller: &Caller,
    what: Grave,
    tenant: TenantId,
    now: DateTime<Utc>,
) -> Result<Option<ApprovalId>> {
    if !is_guarded(caller) {
        return Ok(None);
    }
    // One after the other until each is committed, so that none is counted too late.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('freehold.deletions', 0))")
        .execute(&mut *conn)
        .await?;
    let person = person_of(&mut *conn, &caller.actor).await?;
    let done: i64 =
        sqlx::query_scalar(what.count_sql()).bind(now - TimeDelta::hours(1)).fetch_one(&mut *conn).await?;
    let own = what == Grave::Purge && deleted_by(&mut *conn, tenant, caller, person).await?;
    if done < AN_HOUR && !own {
        return Ok(None);
    }
    let why = match own {
        true => "nobody removes at once what they deleted themselves".to_owned(),
        false => format!("{done} tenants were {} within the last hour", what.done()),
    };
    let Some(person) = person else {
        return Err(Error::new(&codes::SECOND_PERSON_REQUIRED)
            .detail(format!("{why}, and this key belongs to nobody whom another could agree with"))
            .hint("use a key that belongs to an operator, or work on the databases themselves"));
    };
    let word: Option<ApprovalId> = sqlx::query_scalar(
        "UPDATE approval SET used = used + 1
          WHERE id = (SELECT id FROM approval
                       WHERE operator = $1 AND action = $2 AND expires_at > $3 AND used < tenants
                       ORDER BY expires_at, id LIMIT 1)
         RETURNING id",
    )
    .bind(person)
    .bind(what)
    .bind(now)
    .fetch_optional(conn)
    .await?;
    if word.is_none() {
        return Err(Error::new(&codes::SECOND_PERSON_REQUIRED).detail(why).hint(format!(
            "another operator agrees with: freehold approval give {person} --action {} --tenants 10 --reason '…'",
            what.as_str()
        )));
    }
    Ok(word)
}

/// Whether the one who asks may be who deleted this tenant. Two are two when it is known who both are, and when it was deleted at
/// the machine.
async fn deleted_by(
    conn: &mut PgConnection,
    tenant: TenantId,
    caller: &Caller,
    person: Option<OperatorId>,
) -> Result<bool> {
    let actor: Option<String> = sqlx::query_scalar(
        "SELECT actor FROM audit WHERE tenant = $1 AND action = 'tenant.delete' ORDER BY id DESC LIMIT 1",
    )
    .bind(tenant)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(actor) = actor.filter(|actor| is_operator(actor)) else { return Ok(false) };
    if actor == caller.actor {
        return Ok(true);
    }
    let deleted = person_of(conn, &actor).await?;
    Ok(deleted.is_none() || person.is_none() || deleted == person)
}
