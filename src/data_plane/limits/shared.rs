//! The buckets in Redis. Each key carries its tenant, and the value says again whose it is: another tenant's is treated
//! as missing and counted.

use std::sync::LazyLock;

use redis::aio::ConnectionManager;
use redis::{RedisResult, Script};

use super::bucket::Told;
use super::gcra::{Decision, Policy};
use super::script::invoke_all;
use crate::kernel::ids::TenantId;

static GCRA: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("gcra.lua")));

/// What one visit to a bucket is to do.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    pub tenant: TenantId,
    pub policy: Policy,
    /// Requests let through before and not yet paid.
    pub owed: i64,
    /// Whether one more is asked for.
    pub asked: bool,
    /// 0 means the clock of Redis; a test gives its own.
    pub now_us: i64,
}

type Reply = (i64, i64, i64, i64, i64);

/// The key of a tenant's bucket. The braces keep a tenant's keys on one node of a cluster.
pub fn key_of(tenant: TenantId) -> String {
    format!("rl:{{{tenant}}}")
}

/// One round trip about one bucket.
pub async fn visit(redis: &ConnectionManager, visit: Visit) -> RedisResult<Told> {
    let reply = visit.invocation().invoke_async(&mut redis.clone()).await?;
    Ok(visit.read(reply))
}

/// One round trip about several buckets; the answers in order.
pub async fn visit_all(redis: &ConnectionManager, visits: &[Visit]) -> RedisResult<Vec<Told>> {
    let invocations = visits.iter().map(Visit::invocation).collect();
    let replies: Vec<Reply> = invoke_all(redis, &GCRA, invocations).await?;
    Ok(visits.iter().zip(replies).map(|(visit, reply)| visit.read(reply)).collect())
}

impl Visit {
    fn invocation(&self) -> redis::ScriptInvocation<'static> {
        let mut invocation = GCRA.prepare_invoke();
        invocation
            .key(key_of(self.tenant))
            .arg(self.tenant.to_string())
            .arg(self.policy.interval_us)
            .arg(self.policy.burst)
            .arg(self.owed)
            .arg(i64::from(self.asked))
            .arg(self.now_us);
        invocation
    }

    fn read(&self, (allowed, excess, tat_us, now_us, foreign): Reply) -> Told {
        if foreign == 1 {
            metrics::counter!("rate_limit_foreign_total").increment(1);
            tracing::error!(tenant = %self.tenant, "a rate limit's value is of another tenant; taken as missing");
        }
        let decision = Decision::of(self.policy, allowed == 1, excess, tat_us, now_us);
        Told { decision, tat_us, now_us }
    }
}
