//! The provider's staff: who they are, and their own sign-in. An operator is no account and has no seat anywhere; their
//! session opens the operators' pages at the sign-in host and nothing of a tenant's.
//!
//! Nobody becomes an operator by signing in. A row is made on the command line first, with an address. At the first
//! sign-in, the operators' own provider says whose address that is, once; from then on the operator is the pair (issuer,
//! subject), as everybody is, and the address is for people to read.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::accounts::Vouched;
use super::sessions::Asking;
use super::sign_in::{Purpose, Returned};
use super::support::support_end_all_of;
use crate::control_plane::ControlPlane;
use crate::control_plane::audit::{Caller, audit_add};
use crate::db::on_constraint;
use crate::kernel::credentials::{self, KeyHash, KeyKind};
use crate::kernel::ids::{OperatorId, OperatorKeyId};
use crate::kernel::page::{Asked, Page};
use crate::kernel::{Error, Result, codes};

/// An operator's session ends this long after it began: a working day.
pub const LIFE: Duration = Duration::from_secs(8 * 3600);

/// What an operator may do. The order is the rank.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum OperatorRole {
    /// Reads.
    Viewer,
    /// Reads, and corrects money; changes nothing else.
    Finance,
    /// Changes things, and looks into tenants.
    #[default]
    Operator,
}

impl OperatorRole {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Finance => "finance",
            Self::Operator => "operator",
        }
    }

    /// # Errors
    /// `forbidden` for a lower rank than `needed`.
    pub fn require(self, needed: Self) -> Result<()> {
        if self >= needed {
            return Ok(());
        }
        Err(Error::new(&codes::FORBIDDEN).detail(format!("this needs the operator role {}", needed.as_str())))
    }
}

/// One of the provider's staff.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Operator {
    pub id: OperatorId,
    pub name: String,
    pub email: String,
    pub role: OperatorRole,
    /// Whether they have signed in before: then the address no longer leads to them.
    pub known: bool,
    pub created_at: DateTime<Utc>,
    pub disabled_at: Option<DateTime<Utc>>,
}

macro_rules! operator_columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, name, email, role, issuer IS NOT NULL AS known, created_at, disabled_at ",
            $after
        )
    };
}

/// Who is to be an operator.
#[derive(Clone, Debug, garde::Validate)]
pub struct NewOperator {
    #[garde(length(chars, min = 3, max = 254), contains("@"))]
    pub email: String,
    #[garde(length(chars, min = 1, max = 120))]
    pub name: String,
    #[garde(skip)]
    pub role: OperatorRole,
}

/// Which operator: by id or by address.
#[derive(Clone, Debug)]
pub enum OperatorRef {
    Id(OperatorId),
    Email(String),
}

impl FromStr for OperatorRef {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Email(text.to_lowercase()), Self::Id))
    }
}

/// As the log names an operator who acts.
pub fn actor_of(id: OperatorId) -> String {
    format!("operator:{id}")
}

/// As the log names whoever asks with a key.
pub fn actor_of_key(id: OperatorKeyId) -> String {
    format!("operator:{id}")
}

/// Lets somebody in who has this address at the operators' provider.
///
/// # Errors
/// `conflict` when there is an operator with this address.
pub async fn operator_add(cp: &ControlPlane, caller: &Caller, new: &NewOperator) -> Result<Operator> {
    let (now, email) = (cp.clock.now(), new.email.trim().to_lowercase());
    let mut tx = cp.db.begin().await?;
    let operator: Operator = sqlx::query_as(operator_columns!(
        "INSERT INTO operator (id, name, email, role, created_at) VALUES ($1, $2, $3, $4, $5) RETURNING",
        ""
    ))
    .bind(OperatorId::new())
    .bind(&new.name)
    .bind(email)
    .bind(new.role)
    .bind(now)
    .fetch_one(&mut *tx)
    .await
    .map_err(on_constraint("operator_email", &codes::CONFLICT))?;
    let detail = json!({ "name": operator.name, "email": operator.email, "role": operator.role });
    audit_add(&mut tx, caller, now, "operator.add", None, &operator.id.to_string(), detail).await?;
    tx.commit().await?;
    Ok(operator)
}

/// Which operators to list.
#[derive(Clone, Debug, Default)]
pub struct OperatorFilter {
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Operators by address, those who were removed at the end.
pub async fn operator_list(conn: &mut PgConnection, filter: &OperatorFilter) -> Result<Page<Operator>> {
    let asked: Asked<(bool, String, OperatorId)> = Asked::of(filter.limit, filter.cursor.as_deref())?;
    let after = asked.after.as_ref();
    let rows = sqlx::query_as(operator_columns!(
        "SELECT",
        "FROM operator
          WHERE $1::bool IS NULL OR (disabled_at IS NOT NULL, email, id) > ($1, $2, $3)
          ORDER BY disabled_at IS NOT NULL, email, id LIMIT $4"
    ))
    .bind(after.map(|(removed, ..)| *removed))
    .bind(after.map(|(_, email, _)| email.as_str()))
    .bind(after.map(|(.., id)| *id))
    .bind(asked.rows())
    .fetch_all(conn)
    .await?;
    Ok(asked.page(rows, |one: &Operator| (one.disabled_at.is_some(), one.email.clone(), one.id)))
}

/// An operator who was not removed, locked until the transaction ends.
///
/// # Errors
/// `not_found`.
pub(super) async fn operator_lock(conn: &mut PgConnection, who: &OperatorRef) -> Result<Operator> {
    let (id, email) = match who {
        OperatorRef::Id(id) => (Some(*id), None),
        OperatorRef::Email(email) => (None, Some(email)),
    };
    sqlx::query_as(operator_columns!(
        "SELECT",
        "FROM operator WHERE (id = $1 OR email = $2) AND disabled_at IS NULL FOR UPDATE"
    ))
    .bind(id)
    .bind(email)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| {
        Error::new(&codes::NOT_FOUND)
            .detail("there is no such operator")
            .hint("see them with: freehold operator list")
    })
}

/// Gives an operator another role, from the next request on.
pub async fn operator_set_role(
    cp: &ControlPlane,
    caller: &Caller,
    who: &OperatorRef,
    role: OperatorRole,
) -> Result<Operator> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let old = operator_lock(&mut tx, who).await?;
    sqlx::query("UPDATE operator SET role = $2 WHERE id = $1")
        .bind(old.id)
        .bind(role)
        .execute(&mut *tx)
        .await?;
    let detail = json!({ "from": old.role, "to": role });
    audit_add(&mut tx, caller, now, "operator.role", None, &old.id.to_string(), detail).await?;
    if role < OperatorRole::Operator {
        support_end_all_of(&mut tx, caller, &actor_of(old.id), now).await?;
        let keys: Vec<OperatorKeyId> = sqlx::query_scalar(
            "SELECT id FROM operator_key WHERE owner = $1 AND revoked_at IS NULL ORDER BY id",
        )
        .bind(old.id)
        .fetch_all(&mut *tx)
        .await?;
        for key in keys {
            support_end_all_of(&mut tx, caller, &actor_of_key(key), now).await?;
        }
    }
    tx.commit().await?;
    Ok(Operator { role, ..old })
}

/// Shuts an operator out: their sessions end, their keys, and their looks into tenants.
pub async fn operator_remove(cp: &ControlPlane, caller: &Caller, who: &OperatorRef) -> Result<Operator> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let old = operator_lock(&mut tx, who).await?;
    for statement in [
        "UPDATE operator SET disabled_at = $2 WHERE id = $1",
        "UPDATE operator_session SET revoked_at = $2 WHERE operator = $1 AND revoked_at IS NULL",
    ] {
        sqlx::query(statement).bind(old.id).bind(now).execute(&mut *tx).await?;
    }
    let keys: Vec<OperatorKeyId> = sqlx::query_scalar(
        "UPDATE operator_key SET revoked_at = $2 WHERE owner = $1 AND revoked_at IS NULL RETURNING id",
    )
    .bind(old.id)
    .bind(now)
    .fetch_all(&mut *tx)
    .await?;
    audit_add(&mut tx, caller, now, "operator.remove", None, &old.id.to_string(), json!({})).await?;
    for key in &keys {
        let detail = json!({ "with": "operator" });
        audit_add(&mut tx, caller, now, "operator_key.revoke", None, &key.to_string(), detail).await?;
    }
    support_end_all_of(&mut tx, caller, &actor_of(old.id), now).await?;
    for key in keys {
        support_end_all_of(&mut tx, caller, &actor_of_key(key), now).await?;
    }
    tx.commit().await?;
    Ok(Operator { disabled_at: Some(now), ..old })
}

/// An operator who is signed in.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OnDuty {
    pub id: OperatorId,
    pub name: String,
    pub role: OperatorRole,
}

/// A session just begun.
pub struct Began {
    /// For the cookie; it is not kept.
    pub token: SecretString,
    pub expires_at: DateTime<Utc>,
}

/// Who holds this session, if it is live. Asked of the database each time: operators are few, and removal is at once.
pub async fn operator_of_session(
    conn: &mut PgConnection,
    token: &KeyHash,
    now: DateTime<Utc>,
) -> Result<Option<OnDuty>> {
    Ok(sqlx::query_as(
        "SELECT o.id, o.name, o.role FROM operator_session s JOIN operator o ON o.id = s.operator
          WHERE s.token_hash = $1 AND s.revoked_at IS NULL AND s.expires_at > $2 AND o.disabled_at IS NULL",
    )
    .bind(&token[..])
    .bind(now)
    .fetch_optional(conn)
    .await?)
}

/// Ends a session.
pub async fn operator_sign_out(
    conn: &mut PgConnection,
    caller: &Caller,
    token: &KeyHash,
    now: DateTime<Utc>,
) -> Result<()> {
    let ended: Option<OperatorId> = sqlx::query_scalar(
        "UPDATE operator_session SET revoked_at = $2 WHERE token_hash = $1 AND revoked_at IS NULL RETURNING operator",
    )
    .bind(&token[..])
    .bind(now)
    .fetch_optional(&mut *conn)
    .await?;
    match ended {
        Some(id) => audit_add(conn, caller, now, "operator.sign_out", None, &id.to_string(), json!({})).await,
        None => Ok(()),
    }
}

impl Identity {
    /// Ends an operator's way to their provider and back: a session, always with a new token.
    ///
    /// # Errors
    /// `sign_in_failed` for a sign-in that was not an operator's, and for somebody who is none.
    pub async fn operator_arrive(
        &self,
        returned: &Returned,
        before: Option<&KeyHash>,
        asking: &Asking,
    ) -> Result<Began> {
        if returned.purpose != Purpose::Operator {
            return Err(Error::new(&codes::SIGN_IN_FAILED));
        }
        let now = self.cp.clock.now();
        let mut tx = self.cp.db.begin().await?;
        let operator = operator_vouched(&mut tx, &returned.vouched).await?.ok_or_else(|| {
            Error::new(&codes::SIGN_IN_FAILED)
                .detail("you are not one of the operators here")
                .hint("an operator is let in with: freehold operator add")
        })?;
        let (token, expires_at) = (credentials::make(KeyKind::OperatorSession, &self.cp.entropy), now + LIFE);
        if let Some(before) = before {
            sqlx::query(
                "UPDATE operator_session SET revoked_at = $2 WHERE token_hash = $1 AND revoked_at IS NULL",
            )
            .bind(&before[..])
            .bind(now)
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query(
            "INSERT INTO operator_session (id, operator, token_hash, user_agent, address, created_at, expires_at)
             VALUES (gen_random_uuid(), $1, $2, left($3, 200), left($4, 200), $5, $6)",
        )
        .bind(operator)
        .bind(&token.hash[..])
        .bind(&asking.device.user_agent)
        .bind(&asking.device.address)
        .bind(now)
        .bind(expires_at)
        .execute(&mut *tx)
        .await?;
        let caller = Caller { actor: actor_of(operator), request_id: asking.request_id.clone() };
        let detail = json!({ "method": returned.vouched.provider, "address": asking.device.address });
        audit_add(&mut tx, &caller, now, "operator.sign_in", None, &operator.to_string(), detail).await?;
        tx.commit().await?;
        Ok(Began { token: token.key, expires_at })
    }
}

/// The operator whom the provider vouches for: known by (issuer, subject); or expected by an address that the provider has
/// verified, which then is used up.
async fn operator_vouched(conn: &mut PgConnection, vouched: &Vouched) -> Result<Option<OperatorId>> {
    let known: Option<OperatorId> = sqlx::query_scalar(
        "SELECT id FROM operator WHERE issuer = $1 AND subject = $2 AND disabled_at IS NULL",
    )
    .bind(&vouched.issuer)
    .bind(&vouched.subject)
    .fetch_optional(&mut *conn)
    .await?;
    let email = vouched.email.as_ref().filter(|_| vouched.email_verified);
    match (known, email) {
        (None, Some(email)) => Ok(sqlx::query_scalar(
            "UPDATE operator SET issuer = $1, subject = $2
              WHERE email = $3 AND issuer IS NULL AND disabled_at IS NULL RETURNING id",
        )
        .bind(&vouched.issuer)
        .bind(&vouched.subject)
        .bind(email.to_lowercase())
        .fetch_optional(conn)
        .await?),
        (known, _) => Ok(known),
    }
}

/// Removes sessions that have been over for a month.
pub async fn sweep(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("DELETE FROM operator_session WHERE expires_at < $1")
        .bind(now - Duration::from_secs(30 * 24 * 3600))
        .execute(conn)
        .await?;
    Ok(())
}
