//! The mark in a shard's database that says which shard it is. A name, an address and a port do not: each can be spelled in
//! more than one way.

use sqlx::PgConnection;

use crate::kernel::ids::ShardId;

/// Whose a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Mark {
    pub shard: ShardId,
    /// Tenants' schemas and spare slots in it.
    pub schemas: i64,
}

/// Marks a prepared database as this shard's, if it is nobody's yet; then says whose it is.
///
/// # Errors
/// When the database does not answer, or was not prepared.
pub async fn mark(conn: &mut PgConnection, shard: ShardId) -> sqlx::Result<Mark> {
    sqlx::query("INSERT INTO freehold.shard (id) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(shard)
        .execute(&mut *conn)
        .await?;
    sqlx::query_as(
        "SELECT id AS shard, (SELECT count(*) FROM freehold.schema_version) AS schemas FROM freehold.shard",
    )
    .fetch_one(conn)
    .await
}

/// Marks as this shard's what was another's. Says whether it still was.
///
/// # Errors
/// As [`mark`].
pub async fn mark_instead(conn: &mut PgConnection, shard: ShardId, former: ShardId) -> sqlx::Result<bool> {
    let marked =
        sqlx::query("UPDATE freehold.shard SET id = $1, marked_at = clock_timestamp() WHERE id = $2")
            .bind(shard)
            .bind(former)
            .execute(conn)
            .await?;
    Ok(marked.rows_affected() == 1)
}
