//! Calls that servers counted in memory. Each process closes its counts every minute and records them as facts with a source
//! and keys of its own, so a repeat after a lost answer is the same fact.
//!
//! A process that ends without a goodbye takes with it what it had not recorded: at most the calls of the minute before, and of
//! as long as the control database was away. Calls are never counted twice.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::events::{Fact, Recorded, record_many};
use super::meters::API_CALLS;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// What one process counted for one tenant in a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    pub tenant: TenantId,
    /// The minute's first second.
    pub minute: DateTime<Utc>,
    /// The same whenever these are recorded again, and of no others of this process.
    pub key: String,
    pub calls: i64,
}

/// Records what a process counted, all or none.
pub async fn record_calls(db: &PgPool, source: &str, counted: &[Calls], now: DateTime<Utc>) -> Result<()> {
    let source: Arc<str> = Arc::from(source);
    let meter: Arc<str> = Arc::from(API_CALLS.id);
    let facts: Vec<Fact> = counted
        .iter()
        .map(|calls| Fact {
            tenant: calls.tenant,
            meter: meter.clone(),
            source: source.clone(),
            key: calls.key.clone(),
            quantity: calls.calls.clamp(0, API_CALLS.aggregation.most()),
            occurred_at: calls.minute,
            received_at: now,
        })
        .collect();
    let recorded = record_many(&mut *db.acquire().await?, &facts).await?;
    let contrary = recorded.iter().filter(|recorded| **recorded == Recorded::Other).count();
    if contrary > 0 {
        // Cannot be, since keys are of this process and counted up; said rather than hidden.
        tracing::error!(contrary, %source, "calls were counted twice under one key; the first count stays");
    }
    Ok(())
}
