//! Answers kept for an operator's repeated POST: the same key and body get the same bytes, another body a conflict.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// What is known about a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// First use: do the work, in the same transaction.
    New,
    /// The work is recorded; its answer is not stored yet.
    InFlight { tenant: TenantId },
    /// The answer that was given.
    Answered { status: u16, body: Vec<u8> },
}

#[derive(sqlx::FromRow)]
struct Row {
    request_hash: Vec<u8>,
    tenant: Option<TenantId>,
    status: Option<i16>,
    body: Option<Vec<u8>>,
}

/// Claims a key in the transaction of the work. Of two at once, the second waits here for the first to commit.
pub async fn claim(
    tx: &mut PgConnection,
    scope: &str,
    key: &str,
    request_hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Claim> {
    let inserted = sqlx::query(
        "INSERT INTO idempotency (scope, key, request_hash, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (scope, key) DO NOTHING",
    )
    .bind(scope)
    .bind(key)
    .bind(&request_hash[..])
    .bind(now)
    .execute(&mut *tx)
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok(Claim::New);
    }
    let row: Row = sqlx::query_as(
        "SELECT request_hash, tenant, status, body FROM idempotency WHERE scope = $1 AND key = $2",
    )
    .bind(scope)
    .bind(key)
    .fetch_one(tx)
    .await?;
    if row.request_hash != request_hash {
        return Err(Error::new(&codes::IDEMPOTENCY_CONFLICT));
    }
    match (row.status, row.body, row.tenant) {
        (Some(status), Some(body), _) => {
            Ok(Claim::Answered { status: u16::try_from(status).map_err(Error::internal)?, body })
        }
        (_, _, Some(tenant)) => Ok(Claim::InFlight { tenant }),
        _ => Err(Error::internal("an idempotency key without its work")),
    }
}

/// Ties the key to the tenant that the work makes.
pub async fn attach(tx: &mut PgConnection, scope: &str, key: &str, tenant: TenantId) -> Result<()> {
    sqlx::query("UPDATE idempotency SET tenant = $3 WHERE scope = $1 AND key = $2")
        .bind(scope)
        .bind(key)
        .bind(tenant)
        .execute(tx)
        .await?;
    Ok(())
}

/// Stores the answer of work that is done in the transaction that claims the key.
pub async fn answer(
    tx: &mut PgConnection,
    scope: &str,
    key: &str,
    tenant: TenantId,
    status: u16,
    body: &[u8],
) -> Result<()> {
    sqlx::query("UPDATE idempotency SET tenant = $3, status = $4, body = $5 WHERE scope = $1 AND key = $2")
        .bind(scope)
        .bind(key)
        .bind(tenant)
        .bind(i16::try_from(status).map_err(Error::internal)?)
        .bind(body)
        .execute(tx)
        .await?;
    Ok(())
}

/// Stores the answer unless one is stored, and returns the one that counts: the first.
pub async fn settle(
    conn: &mut PgConnection,
    scope: &str,
    key: &str,
    status: u16,
    body: &[u8],
) -> Result<(u16, Vec<u8>)> {
    let status = i16::try_from(status).map_err(Error::internal)?;
    let kept: Option<(i16, Vec<u8>)> = sqlx::query_as(
        "UPDATE idempotency SET status = coalesce(status, $3), body = coalesce(body, $4)
          WHERE scope = $1 AND key = $2 RETURNING status, body",
    )
    .bind(scope)
    .bind(key)
    .bind(status)
    .bind(body)
    .fetch_optional(conn)
    .await?;
    // A tenant that is purged meanwhile takes its key along.
    let (status, body) = kept.unwrap_or_else(|| (status, body.to_vec()));
    Ok((u16::try_from(status).map_err(Error::internal)?, body))
}

/// Frees the key of work that came to nothing, so that the same request may be tried again. A key that meanwhile stands
/// for other work is left alone.
pub async fn release(conn: &mut PgConnection, scope: &str, key: &str, tenant: TenantId) -> Result<()> {
    sqlx::query("DELETE FROM idempotency WHERE scope = $1 AND key = $2 AND tenant = $3 AND status IS NULL")
        .bind(scope)
        .bind(key)
        .bind(tenant)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets keys older than a day.
pub async fn sweep(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("DELETE FROM idempotency WHERE created_at < $1")
        .bind(now - chrono::Duration::days(1))
        .execute(conn)
        .await?;
    Ok(())
}
