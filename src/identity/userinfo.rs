//! What a person asks about themselves: who they are, and where they belong.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::accounts::{Account, account_by_id};
use super::sso::tenant_of;
use crate::kernel::ids::{AccountId, SessionId, TenantId};
use crate::kernel::{Error, Result, Role, codes};

/// The most seats that are listed.
const MOST: i64 = 500;

/// A person and their tenants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserInfo {
    pub sub: AccountId,
    pub name: String,
    pub email: Option<String>,
    pub email_verified: bool,
    pub tenants: Vec<Seat>,
}

/// A seat, from the person's side.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow)]
pub struct Seat {
    pub id: TenantId,
    pub slug: String,
    pub name: String,
    pub role: Role,
}

/// The person of a live session.
///
/// # Errors
/// `unauthenticated` when the session has ended.
pub async fn userinfo(
    conn: &mut PgConnection,
    account: AccountId,
    session: SessionId,
    now: DateTime<Utc>,
) -> Result<UserInfo> {
    let live: Option<String> = sqlx::query_scalar(
        "SELECT method FROM session WHERE id = $1 AND account = $2 AND revoked_at IS NULL AND expires_at > $3",
    )
    .bind(session)
    .bind(account)
    .bind(now)
    .fetch_optional(&mut *conn)
    .await?;
    let ended = || Error::new(&codes::UNAUTHENTICATED);
    // A session by a workspace's own provider sees that workspace only.
    let only = tenant_of(&live.ok_or_else(ended)?);
    let Account { id, name, email, email_verified, .. } =
        account_by_id(&mut *conn, account).await.map_err(|error| match error.is(&codes::NOT_FOUND) {
            true => ended(),
            false => error,
        })?;
    let tenants = sqlx::query_as(
        "SELECT t.id, t.slug, t.name, m.role FROM membership m JOIN tenant t ON t.id = m.tenant
          WHERE m.account = $1 AND t.state NOT IN ('deleting', 'deleted') AND ($3::uuid IS NULL OR t.id = $3)
          ORDER BY t.slug LIMIT $2",
    )
    .bind(account)
    .bind(MOST)
    .bind(only)
    .fetch_all(conn)
    .await?;
    Ok(UserInfo { sub: id, name, email, email_verified, tenants })
}
