//! What is forgotten when it is old: runs that are over, words that were given, fencing numbers of schemas that are gone. The
//! audit log is not among them: it says for ever what was done, and its chains would break.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use super::reconcile::answering;
use super::shards::Shard;
use super::{ControlPlane, Hands};
use crate::db::admin;
use crate::kernel::Result;

/// How long a run stays that is done or undone, with its steps. One that is open or stuck stays until it is neither.
pub const RUNS: TimeDelta = TimeDelta::days(90);
/// How long a fencing number stays after its schema has gone: far longer than any worker could hold a lower one.
pub const FENCES: TimeDelta = TimeDelta::days(30);
/// Rows that one statement removes, and statements in one round: what has piled up goes in rounds, and nobody waits for it.
const AT_ONCE: i64 = 500;
const STATEMENTS: usize = 20;

/// One round, on the control database and on every shard that answers.
///
/// # Errors
/// When the control database does not answer. A shard that does not has its turn in the next round.
pub async fn trim(hands: &Hands) -> Result<()> {
    runs(&hands.cp).await?;
    for shard in answering(hands).await? {
        if let Err(error) = fences(hands, &shard).await {
            tracing::warn!(shard = shard.name, ?error, "old fencing numbers could not be removed");
        }
    }
    Ok(())
}

async fn runs(cp: &ControlPlane) -> Result<()> {
    let before = cp.clock.now() - RUNS;
    // Their steps go with them.
    in_batches(
        &cp.db,
        "DELETE FROM run WHERE id IN (SELECT id FROM run
            WHERE created_at < $1 AND finished_at < $1 AND state IN ('done', 'undone')
            ORDER BY created_at, id LIMIT $2)",
        before,
    )
    .await?;
    in_batches(
        &cp.db,
        "DELETE FROM approval WHERE id IN (SELECT id FROM approval WHERE expires_at < $1 ORDER BY id LIMIT $2)",
        before,
    )
    .await
}

async fn in_batches(db: &PgPool, statement: &'static str, before: DateTime<Utc>) -> Result<()> {
    for _ in 0..STATEMENTS {
        let gone = sqlx::query(statement).bind(before).bind(AT_ONCE).execute(db).await?;
        if gone.rows_affected() < AT_ONCE.unsigned_abs() {
            break;
        }
    }
    Ok(())
}

/// By the shard's clock, which wrote the times.
async fn fences(hands: &Hands, shard: &Shard) -> Result<()> {
    let mut conn = hands.admin(shard).await?;
    for _ in 0..STATEMENTS {
        let gone = sqlx::query(
            "DELETE FROM freehold.fence WHERE subject IN (
               SELECT f.subject FROM freehold.fence f
                WHERE f.at < clock_timestamp() - make_interval(secs => $1)
                  AND NOT EXISTS (SELECT FROM freehold.schema_version v WHERE v.schema_name = f.subject)
                ORDER BY f.subject LIMIT $2)",
        )
        .bind(FENCES.as_seconds_f64())
        .bind(AT_ONCE)
        .execute(&mut *conn)
        .await
        .map_err(admin::shard_error)?;
        if gone.rows_affected() < AT_ONCE.unsigned_abs() {
            break;
        }
    }
    Ok(())
}
