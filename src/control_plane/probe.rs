//! Looking at each shard every few seconds: is it there, how full is it, does its clock agree.

use std::time::Duration;

use super::Hands;
use super::shards::{Shard, shard_list};
use crate::db::admin;
use crate::kernel::Result;

/// How long a shard may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at every prepared shard at once and records what was seen.
pub async fn probe_all(hands: &Hands) -> Result<()> {
    let shards = shard_list(&mut *hands.cp.db.acquire().await?).await?;
    let looks = shards.iter().filter(|shard| shard.host.is_some()).map(|shard| probe(hands, shard));
    for outcome in futures_util::future::join_all(looks).await {
        outcome?;
    }
    Ok(())
}

async fn probe(hands: &Hands, shard: &Shard) -> Result<()> {
    let seen = tokio::time::timeout(PATIENCE, look(hands, shard)).await;
    if seen.is_err() {
        // A session that went silent stays so for minutes: the next look opens another, and so does everybody else.
        hands.admins.forget(shard.id);
    }
    let failure = match &seen {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer".to_owned()),
    };
    if failure.is_some() != shard.last_failure.is_some() {
        match &failure {
            Some(why) => tracing::warn!(shard = shard.name, why, "a shard does not answer"),
            None => tracing::info!(shard = shard.name, "a shard answers again"),
        }
    }
    hands.admins.seen(shard.id, failure.is_none());
    let bytes = seen.ok().and_then(Result::ok);
    sqlx::query(
        "UPDATE shard SET last_failure = $2, bytes = coalesce($3, bytes),
                last_seen_at = CASE WHEN $2 IS NULL THEN clock_timestamp() ELSE last_seen_at END
          WHERE id = $1",
    )
    .bind(shard.id)
    .bind(failure)
    .bind(bytes)
    .execute(&hands.cp.db)
    .await?;
    Ok(())
}

async fn look(hands: &Hands, shard: &Shard) -> Result<i64> {
    let mut conn = hands.try_admin(shard).await?;
    sqlx::query_scalar("SELECT pg_database_size(current_database())")
        .fetch_one(&mut *conn)
        .await
        .map_err(admin::shard_error)
}
