//! A person who erased their account is named no more: in comments and in activity, which keep the name that the person had
//! when they wrote. Their id stays, and tells colleagues that two comments are of one author. What people typed themselves
//! (titles, texts, the assignee, who is a free text) is the workspace's own.

use sqlx::PgConnection;

use crate::data_plane::TenantContext;
use crate::kernel::Result;

/// Stands where the name was.
pub const NOBODY: &str = "Former member";
/// Rows that change in one transaction.
const AT_ONCE: i64 = 1_000;

/// Forgets one person in one tenant. Doing it again changes nothing.
pub async fn forget(tenant: &TenantContext, person: &str) -> Result<()> {
    for table in [Table::Answers, Table::Comments, Table::Activity] {
        let person = person.to_owned();
        let some = async || {
            let person = person.clone();
            tenant.write(async move |conn| table.forget(conn, &person).await).await
        };
        while some().await? == AT_ONCE.unsigned_abs() {}
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Table {
    Answers,
    Comments,
    Activity,
}

impl Table {
    /// Up to [`AT_ONCE`] rows; says how many.
    async fn forget(self, conn: &mut PgConnection, person: &str) -> Result<u64> {
        let statement = match self {
            Self::Answers => {
                "DELETE FROM idempotency WHERE (actor, key) IN (
                     SELECT actor, key FROM idempotency WHERE actor = $1 AND $2 <> '' LIMIT $3)"
            }
            // The version goes up: an answer that is kept somewhere by its tag has the name in it.
            Self::Comments => {
                "UPDATE comments SET author_name = $2, version = version + 1 WHERE id IN (
                     SELECT id FROM comments WHERE author_id = $1 AND author_name <> $2 LIMIT $3)"
            }
            Self::Activity => {
                "UPDATE activity SET actor_name = $2 WHERE (at, id) IN (
                     SELECT at, id FROM activity WHERE actor_id = $1 AND actor_name <> $2 LIMIT $3)"
            }
        };
        let done = sqlx::query(statement).bind(person).bind(NOBODY).bind(AT_ONCE).execute(conn).await?;
        Ok(done.rows_affected())
    }
}
