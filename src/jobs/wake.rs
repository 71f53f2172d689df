//! Notifications on the control database. They only wake: whoever is woken reads the tables.

use sqlx::PgConnection;

use crate::kernel::Result;
use crate::kernel::ids::RunId;

/// Work is waiting for a worker: a run, a job or a refill. No payload.
pub const WORK: &str = "freehold_work";
/// A run has moved. The payload is its id.
pub const RUN: &str = "freehold_run";

/// Wakes the workers when the transaction commits.
pub async fn workers(conn: &mut PgConnection) -> Result<()> {
    notify(conn, WORK, "").await
}

/// Tells whoever follows a run that it has moved.
pub async fn run_moved(conn: &mut PgConnection, run: RunId) -> Result<()> {
    notify(conn, RUN, &run.to_string()).await
}

pub async fn notify(conn: &mut PgConnection, channel: &str, payload: &str) -> Result<()> {
    sqlx::query("SELECT pg_notify($1, $2)").bind(channel).bind(payload).execute(conn).await?;
    Ok(())
}
