//! The counters in Redis. As with buckets, each key carries its tenant and the value says again whose it is.

use std::sync::LazyLock;

use redis::aio::ConnectionManager;
use redis::{RedisResult, Script};

use super::super::script::invoke_all;
use crate::billing::quotas::Month;
use crate::kernel::ids::TenantId;

static MONTH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("month.lua")));

/// How long after its month a counter is kept: servers' clocks differ, and somebody may want to look.
const KEPT_SECONDS: i64 = 3 * 86_400;

/// Whether one more request is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Only count what is owed.
    No,
    /// One that may be refused.
    Yes,
    /// One that is let through whatever the count is.
    Anyway,
}

/// What one visit to a counter is to do.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    pub tenant: TenantId,
    pub month: Month,
    pub limit: Option<i64>,
    /// What was counted as far as is known here.
    pub known: i64,
    /// Whether `known` holds what the control database says.
    pub based: bool,
    /// Requests let through before and not yet counted.
    pub owed: i64,
    pub asked: Asked,
}

/// What Redis said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Counted {
        allowed: bool,
        used: i64,
    },
    /// It has no such counter, and did nothing.
    Unknown,
}

type Reply = (i64, i64, i64);

/// The key of a counter. The braces keep a tenant's keys on one node of a cluster.
pub fn key_of(tenant: TenantId, month: Month) -> String {
    format!("rq:{{{tenant}}}:{month}")
}

/// One round trip about one counter.
pub async fn visit(redis: &ConnectionManager, visit: Visit) -> RedisResult<Told> {
    let reply = visit.invocation().invoke_async(&mut redis.clone()).await?;
    Ok(visit.read(reply))
}

/// One round trip about several counters; the answers in order.
pub async fn visit_all(redis: &ConnectionManager, visits: &[Visit]) -> RedisResult<Vec<Told>> {
    let invocations = visits.iter().map(Visit::invocation).collect();
    let replies: Vec<Reply> = invoke_all(redis, &MONTH, invocations).await?;
    Ok(visits.iter().zip(replies).map(|(visit, reply)| visit.read(reply)).collect())
}

impl Visit {
    fn invocation(&self) -> redis::ScriptInvocation<'static> {
        let asked = match self.asked {
            Asked::No => 0,
            Asked::Yes => 1,
            Asked::Anyway => 2,
        };
        let mut invocation = MONTH.prepare_invoke();
        invocation
            .key(key_of(self.tenant, self.month))
            .arg(self.tenant.to_string())
            .arg(self.limit.unwrap_or(-1))
            .arg(self.known)
            .arg(self.owed)
            .arg(asked)
            .arg(i64::from(self.based))
            .arg(self.month.end().timestamp() + KEPT_SECONDS);
        invocation
    }

    fn read(&self, (allowed, used, foreign): Reply) -> Told {
        if foreign == 1 {
            metrics::counter!("rate_limit_foreign_total").increment(1);
            tracing::error!(tenant = %self.tenant, "a month's counter is of another tenant; taken as missing");
        }
        match allowed {
            -1 => Told::Unknown,
            allowed => Told::Counted { allowed: allowed == 1, used },
        }
    }
}
